"""`timed`: times that are stored, drawn and taken."""
import json

import pytest

from course import lab
from course.lab.measuring import stored, timed
from tests.lab.drawn import drawn
from tests.lab.runs import RUN


@pytest.mark.parametrize("log", [True, False])
def test_the_stored_times_are_drawn(stored_results, log):
    times = {**RUN, "log": log, "microseconds": {"a": 1.5, "b": 2500.0, "c": 3e6}}
    (stored_results / "t.json").write_text(json.dumps(times))
    text = drawn(lab.timed("t", None))
    assert text.startswith("a: 1.5 µs\nb: 2.5 ms\nc: 3 s\nNo GPU here: this is the stored result of the NVIDIA X")
    assert "no result is stored for `u`" in repr(lab.timed("u", None))


def test_times_are_taken_and_stored_where_there_is_a_gpu(stored_results, monkeypatch):
    monkeypatch.setattr(stored, "INTERPRET", False)
    monkeypatch.setattr(stored, "gpu_name", lambda: "nvidia-x")
    monkeypatch.setattr(timed, "circumstances", lambda: RUN)
    monkeypatch.setenv("COURSE_STORE", "1")
    assert "Measured on this NVIDIA X" in drawn(lab.timed("t", lambda: {"a": 7}))
    assert json.loads((stored_results / "t.json").read_text())["microseconds"] == {"a": 7.0}
