"""Honest GPU timings: competitors in turn, in one process, the clock around the work alone.

A single measurement says nothing about a machine whose clock wanders: every round runs each competitor
once, so that a slow moment falls on all of them, and the median over the rounds is reported with the 20 %
and 80 % quantiles. Work is launched from a CUDA graph where the question is the kernel, and call by call where
it is what a user waits for.
"""
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

L2_BYTES = 64 * 2**20
"""More than any current NVIDIA GPU's L2 holds of one buffer; inputs rotate over at least twice as much."""


class Timing(NamedTuple):
    """Milliseconds a call."""

    median: float
    q20: float
    q80: float


class Captured:
    """`calls`, run in order by one CUDA graph: `replay()` writes `outputs` anew.

    Each call runs twice first, outside the graph, as PyTorch asks (lazy initialisation, autotuning). The
    calls are kept, since the graph goes on using the tensors they refer to.
    """

    def __init__(self, calls: Sequence[Callable[[], object]]):
        self.calls = calls
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in [*calls, *calls]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = [call() for call in calls]

    def replay(self) -> None:
        self.graph.replay()


def time_in_turn(
    competitors: dict[str, Callable[[], object]], *, calls_in_one: int = 1, rounds: int = 30, budget_s: float = 2.0
) -> dict[str, Timing]:
    """Median and quantiles of each competitor's GPU time, divided by `calls_in_one`.

    At least 5 rounds; more, up to `rounds`, while the whole stays within `budget_s` seconds.
    """
    events = {name: [] for name in competitors}
    for run in competitors.values():
        run()
    torch.cuda.synchronize()
    started = torch.cuda.Event(enable_timing=True)
    started.record()
    for round_number in range(rounds):
        for name, run in competitors.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            events[name].append((start, end))
        end.synchronize()
        if round_number >= 4 and started.elapsed_time(end) > 1e3 * budget_s:
            break
    return {name: _timing([s.elapsed_time(e) / calls_in_one for s, e in pairs]) for name, pairs in events.items()}


def _timing(samples: list[float]) -> Timing:
    q20, *_, q80 = statistics.quantiles(samples, n=5, method="inclusive")
    return Timing(statistics.median(samples), q20, q80)


def rotations(bytes_a_call: int, most: int = 64) -> int:
    """How many input sets to rotate over, so that none is still in the L2 cache when its turn comes again."""
    return max(1, min(most, -(-2 * L2_BYTES // max(bytes_a_call, 1))))
