"""Counters for programs that share one output tile: each adds 1 when it has stored its part, and the last one, which
reads the full count, combines the parts.

Counters must be zero when the kernel starts, and two kernels that may run at the same time cannot share one. To clear
them before each launch would take a launch more. So the kernel itself leaves zeros behind, and the counters are slices
of one block of memory that is allocated once for each device and never freed. Launches on one stream follow each other
and use the same slice. A launch captured in a CUDA graph, which may be replayed on any stream and at any time, has a
slice that no other launch gets.
"""
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from course.kernels.parts.sizes import cdiv
from course.replay.recording import made_anew

COUNTERS = 2**18  # in all: a MiB
MOST = 1024  # of one launch


class _Block:
    def __init__(self, device: torch.device):
        # in another thread: while PyTorch warms up a graph, what this thread allocates belongs to the graph's pool
        with ThreadPoolExecutor(1) as other_thread:
            self.zeros = other_thread.submit(zeros, device).result()
        self.given = 0
        self.of_stream: dict[int, torch.Tensor] = {}

    def slice(self, count: int) -> torch.Tensor | None:
        """`count` counters that no other slice has, in whole cache lines; None if too few are left."""
        count = cdiv(count, 32) * 32
        if self.given + count > COUNTERS:
            return None
        self.given += count
        return self.zeros[self.given - count : self.given]


def zeros(device: torch.device) -> torch.Tensor:
    """COUNTERS zeros, which are there for every stream. While another thread captures a graph, the GPU cannot be waited
    for, but this thread's stream can."""
    zeros = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return zeros


_blocks: dict[torch.device, _Block] = {}
_lock = threading.Lock()


def arrivals(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` int32 zeros, for one launch on the current stream that leaves zeros; `count` is at most MOST."""
    return made_anew(zeros_of_stream, count, device)


def zeros_of_stream(count: int, device: torch.device) -> torch.Tensor:
    on_gpu = device.type == "cuda"
    capturing = on_gpu and torch.cuda.is_current_stream_capturing()
    found = None
    with _lock:
        if device not in _blocks and not capturing:
            _blocks[device] = _Block(device)
        block = _blocks.get(device)
        if block is not None and capturing:
            found = block.slice(count)
        elif block is not None:
            stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
            if stream not in block.of_stream:
                block.of_stream[stream] = block.slice(MOST)
            found = block.of_stream[stream]
    # too few are left, or the process's first launch is captured: zeros for this launch, cleared at each replay
    return torch.zeros(count, dtype=torch.int32, device=device) if found is None else found
