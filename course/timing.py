"""Honest GPU timings: between two GPU events, competitors in turn, in one process.

A single measurement says nothing about a machine whose clock wanders: every round runs each competitor
once, so that a slow moment falls on all of them, and the median over the rounds is reported with the 20 %
and 80 % quantiles. Work is launched from a CUDA graph where the question is the kernel, and call by call where
it is what a user waits for.
"""
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import torch

from course.graphs import Captured

BUSY_CYCLES = 1_000_000
"""About 0.5 ms: longer than the CPU takes to hand a graph or a kernel to the GPU."""

FEWEST_ROUNDS = 5


class Timing(NamedTuple):
    """Milliseconds a call."""

    median: float
    q20: float
    q80: float


def time_in_turn(
    competitors: dict[str, Callable[[], object]],
    *,
    calls_in_one: int = 1,
    rounds: int = 30,
    budget_s: float = 2.0,
    cold: bool = False,
) -> dict[str, Timing]:
    """Median and quantiles of each competitor's time between two GPU events, divided by `calls_in_one`.

    A graph (a Captured's `replay`) is launched behind a kernel that keeps the GPU busy meanwhile: its time is the
    GPU's alone. Any other function is called on an idle GPU: its time is what a user waits for, launches included.
    With `cold`, both are called behind such a kernel, and behind a write that fills the L2 cache: the GPU's time with
    nothing cached. At least 5 rounds; up to `rounds` within `budget_s` seconds. Processes that time at the same moment,
    such as two notebooks, take turns.
    """
    events = {name: [] for name in competitors}
    filler = torch.empty(4 * l2_bytes() if cold else 0, dtype=torch.int8, device="cuda")
    for run in competitors.values():
        run()
    torch.cuda.synchronize()
    with turn():
        deadline = time.perf_counter() + budget_s
        for round_number in range(rounds):
            if round_number >= FEWEST_ROUNDS and time.perf_counter() > deadline:
                break
            for name, run in competitors.items():
                torch.cuda.synchronize()
                if cold:
                    filler.zero_()
                alone = cold or isinstance(getattr(run, "__self__", None), Captured)
                events[name].append(recorded(run, BUSY_CYCLES if alone else 0))
        torch.cuda.synchronize()
    return {name: summary([s.elapsed_time(e) / calls_in_one for s, e in pairs]) for name, pairs in events.items()}


def turn() -> filelock.FileLock:
    """The lock that processes which time something on the current GPU hold meanwhile, one at a time."""
    gpu = torch.cuda.get_device_properties().uuid
    return filelock.FileLock(Path(tempfile.gettempdir()) / f"triton-course-timing-{os.getuid()}-{gpu}.lock")


def recorded(run: Callable[[], object], busy_cycles: int) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Calls run() between two events, behind a kernel that keeps the GPU busy for so many cycles, or behind none for 0.

    While that kernel runs the CPU launches the work, so that the time between the events is the GPU's alone.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if busy_cycles:
        torch.cuda._sleep(busy_cycles)
    start.record()
    run()
    end.record()
    return start, end


def summary(samples: Sequence[float]) -> Timing:
    """Median and quantiles of two samples or more."""
    q20, *_, q80 = statistics.quantiles(samples, n=5, method="inclusive")
    return Timing(statistics.median(samples), q20, q80)


def queued_milliseconds(launch: Callable[[], object]) -> float:
    """The GPU's time for one of up to 20 launches in a row, of which the very first compiles: the median of five rows.

    In a row, because alone a small kernel takes less time than launching it. All of a row is launched while the GPU is
    still busy with something else, as in a CUDA graph.
    """

    def row():
        for _ in range(launches):
            launch()

    launch()  # compiles
    torch.cuda.synchronize()
    begin = time.perf_counter()
    launch()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    launches = max(2, min(20, int(0.004 / seconds)))
    rows = []
    for _ in range(5):
        start, end = recorded(row, busy_cycles=int(2e9 * seconds * launches))  # for longer than the CPU needs
        torch.cuda.synchronize()
        rows.append(start.elapsed_time(end) / launches)
    return statistics.median(rows)


def l2_bytes() -> int:
    """The size of the current GPU's L2 cache."""
    return torch.cuda.get_device_properties().L2_cache_size


def rotations(bytes_a_call: int, cache: int, most: int = 512) -> int:
    """How many input sets to rotate over, so that nothing is left of one in `cache` bytes when its turn comes again."""
    return max(2, min(most, -(-4 * cache // max(bytes_a_call, 1))))


def footprint(*tensors: torch.Tensor) -> int:
    """Bytes that these tensors occupy: what an operation has to move at least. An expanded dimension counts once."""
    total = 0
    for t in tensors:
        elements = 1 if t.numel() else 0
        for size, stride in zip(t.shape, t.stride()):
            elements *= size if stride else 1
        total += elements * t.element_size()
    return total


def copy_gbps() -> float:
    """GB/s, read and written, of copying 1 GiB on this GPU: what a kernel that only moves bytes can hope for."""
    source, target = torch.randint(255, (2, 2**30), dtype=torch.uint8, device="cuda")
    # called, not captured: as a node of a graph the same copy is slower
    return 2 * source.numel() / time_in_turn({"copy": lambda: target.copy_(source)}, cold=True)["copy"].median / 1e6


def matmul_tflops(dtype: torch.dtype, n: int = 8192) -> float:
    """TFLOP/s of PyTorch's product of two random matrices n x n: what a kernel that only multiplies can hope for.

    In float32 with or without TF32, as torch.backends.cuda.matmul.allow_tf32 says.
    """
    a, b = torch.randn(2, n, n, device="cuda").to(dtype)
    graph = Captured([lambda: a @ b])
    return 2 * n**3 / time_in_turn({"matmul": graph.replay})["matmul"].median / 1e9
