import pytest

from course import runtime
from course.kernels._early_start import MOST_AT_ONCE, NEXT_TOO, early_start


@pytest.fixture
def on(monkeypatch):
    """The tests as on a GPU of this capability."""
    monkeypatch.setattr(runtime, "INTERPRET", False)
    return lambda *capability: monkeypatch.setattr(runtime, "capability", lambda: capability)


def test_kernels_of_few_programs_let_the_next_one_start(on):
    on(9, 0)
    both, itself = ({"EARLY": early, "launch_pdl": True} for early in (NEXT_TOO.value, 1))
    assert early_start(MOST_AT_ONCE) == early_start(66, most=66) == both
    assert early_start(MOST_AT_ONCE + 1) == early_start(67, most=66) == early_start() == itself


@pytest.mark.parametrize("capability", [(0, 0), (8, 0), (8, 9)])
def test_nothing_starts_early_before_hopper(capability, on):
    on(*capability)
    assert early_start(1) == {"EARLY": 0}
