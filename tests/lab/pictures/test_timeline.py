"""`draw_timeline`, by its words."""
import pytest

from course import lab
from tests.lab.drawn import drawn


def test_words():
    ways = {"one by one": {"CPU": [(0, 5, "launch"), (5, 5, "launch")], "GPU": [(5, 2, "add"), (10, 3, "add")]},
            "at once": {"CPU": [(0, 6, "launch")], "GPU": [(6, 2, "add"), (8, 3, "add")]}}
    text = drawn(lab.draw_timeline(ways))
    assert "one by one: 13 µs; CPU busy 10 µs, boxes: 2; GPU busy 5 µs, boxes: 2" in text
    assert "at once: 11 µs" in text and "add: 5 | 5 µs\nlaunch" in text


def test_what_takes_little_is_grey():
    kernels = [(i, 20 - i, f"kernel {i}") for i in range(12)]
    text = drawn(lab.draw_timeline({"a": {"GPU": kernels}}))
    assert "kernel 0: 20 µs" in text and "kernel 7" in text and "kernel 8" not in text
    assert text.endswith("launches, and what takes less")


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="draw_timeline: expected at least one box"):
        lab.draw_timeline({"a": {"CPU": [], "GPU": []}})
