import pytest

from course.replay import calls, launches
from course.runtime import INTERPRET
from tests.replay import interpreted


@pytest.fixture
def again(monkeypatch):
    """Calls are kept until the test's end: the list of the launches that were made again, from here on."""
    found = []
    launch = launches.Launch.__call__

    def counted(self, tensors, pointers, stream):
        found.append(self)
        launch(self, tensors, pointers, stream)

    if INTERPRET:
        interpreted.pretend(monkeypatch)
    monkeypatch.setattr(launches.Launch, "__call__", counted)
    monkeypatch.setattr(calls, "ON", True)
    calls.forget()
    yield found
    calls.forget()
