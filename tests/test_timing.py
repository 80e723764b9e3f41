from types import SimpleNamespace

import pytest
import torch

from course import timing
from course.graphs import Captured
from course.timing import Timing


class FakeGpu:
    """A GPU on which each call takes the milliseconds it says, and a record of what was asked of it."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.now

            def elapsed_time(self, end):
                return end.at - self.at

        class Filler:
            def zero_(self):
                gpu.log.append("fill L2")

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "_sleep", self.busy)
        monkeypatch.setattr(torch, "empty", lambda *size, dtype, device: Filler())
        monkeypatch.setattr(timing, "l2_bytes", lambda: 1000)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(uuid="GPU-1"))
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now / 1000)

    def busy(self, cycles):
        self.now += 100  # which no competitor's time may hold
        self.log.append(f"busy {cycles}")

    def call(self, name, *milliseconds):
        """A function that takes each of these times in turn, and then the last one for good."""
        left = list(milliseconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def gpu(monkeypatch):
    return FakeGpu(monkeypatch)


def captured(call):
    graph = Captured.__new__(Captured)
    graph.graph = type("Graph", (), {"replay": staticmethod(call)})
    return graph


def test_competitors_take_turns(gpu):
    timings = timing.time_in_turn({"a": gpu.call("a", 4), "b": gpu.call("b", 6)}, calls_in_one=2, rounds=6)
    assert gpu.log == ["a", "b"] * 7  # one round to warm up
    assert timings == {"a": Timing(2, 2, 2), "b": Timing(3, 3, 3)}


def test_a_graph_is_launched_on_a_busy_gpu(gpu):
    graph = captured(gpu.call("graph", 1))
    timings = timing.time_in_turn({"graph": graph.replay, "call": gpu.call("call", 2)}, rounds=5)
    assert gpu.log == ["graph", "call"] + [f"busy {timing.BUSY_CYCLES}", "graph", "call"] * 5
    assert (timings["graph"].median, timings["call"].median) == (1, 2)


def test_nothing_is_cached_when_cold(gpu):
    timing.time_in_turn({"a": gpu.call("a", 1)}, rounds=5, cold=True)
    assert gpu.log == ["a"] + ["fill L2", f"busy {timing.BUSY_CYCLES}", "a"] * 5


def test_medians_and_quantiles(gpu):
    """The first call is not counted."""
    found = timing.time_in_turn({"a": gpu.call("a", 1000, 5, 1, 2, 4, 3)}, rounds=5)["a"]
    assert found.median == 3 and found.q20 == pytest.approx(1.8) and found.q80 == pytest.approx(4.2)


def test_rounds_end_with_the_budget_but_there_are_five(gpu):
    for milliseconds, rounds in ((10, 20), (1000, 5), (0.001, 30)):
        gpu.log.clear()
        timing.time_in_turn({"a": gpu.call("a", milliseconds)}, rounds=30, budget_s=0.195)
        assert gpu.log == ["a"] * (1 + rounds)


@pytest.mark.parametrize("milliseconds, launches", [(0.01, 20), (1.25, 3), (50, 2)])
def test_queued_launches(gpu, milliseconds, launches):
    """Rows of launches behind a kernel that runs for twice as long as launching them one by one took."""
    found = timing.queued_milliseconds(gpu.call("launch", 500, milliseconds))
    assert found == pytest.approx(milliseconds)
    busy, *row = gpu.log[2 : 3 + launches]
    assert row == ["launch"] * launches
    assert gpu.log == ["launch"] * 2 + [busy, *row] * 5
    assert int(busy.removeprefix("busy ")) == pytest.approx(2e6 * milliseconds * launches, rel=1e-5)


def test_footprint_counts_an_expanded_dimension_once():
    x, y = torch.zeros(10, 20), torch.zeros(20)
    assert timing.footprint(x, x.half(), y.expand(10, 20), x[:0]) == 800 + 400 + 80


def test_rotations_leave_nothing_in_the_cache():
    assert timing.rotations(50, cache=100) == 8
    assert timing.rotations(10_000, cache=100) == 2 and timing.rotations(1, cache=10**9) == 512


@pytest.mark.gpu
def test_on_the_gpu():
    def sleep(cycles):
        return lambda: torch.cuda._sleep(cycles)

    graph = Captured([sleep(200_000)])
    timings = timing.time_in_turn({"short": sleep(100_000), "long": sleep(400_000), "graph": graph.replay})
    assert 2 < timings["long"].median / timings["short"].median < 6
    assert timings["graph"].q20 <= timings["graph"].median <= timings["graph"].q80
    assert timings["graph"].median < timings["long"].median
    assert timing.queued_milliseconds(sleep(200_000)) == pytest.approx(timings["graph"].median, rel=0.2)
