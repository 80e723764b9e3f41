import pytest

from course import runtime
from course.kernels.parts.pdl import MOST_AT_ONCE, NO_PDL, SIGNAL_AT_START, WAIT_AT_START, pdl_options


@pytest.fixture
def on(monkeypatch):
    """The tests as on a GPU of this capability."""
    monkeypatch.setattr(runtime, "INTERPRET", False)
    return lambda *capability: monkeypatch.setattr(runtime, "capability", lambda: capability)


def test_kernels_of_few_programs_signal_at_their_start(on):
    on(9, 0)
    signal, wait = ({"PDL": pdl.value, "launch_pdl": True} for pdl in (SIGNAL_AT_START, WAIT_AT_START))
    assert pdl_options(MOST_AT_ONCE) == pdl_options(66, most=66) == signal
    assert pdl_options(MOST_AT_ONCE + 1) == pdl_options(67, most=66) == pdl_options() == wait


@pytest.mark.parametrize("capability", [(0, 0), (8, 0), (8, 9)])
def test_no_pdl_before_hopper(capability, on):
    on(*capability)
    assert pdl_options(1) == {"PDL": NO_PDL.value}
