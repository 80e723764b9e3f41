"""Counters for programs that share a piece of work, which the last of them to arrive has to finish.

They must be zero when the kernel starts, and no two kernels that may run at once can share one. Clearing them
before each launch would be a launch of its own. So the kernel itself leaves zeros behind, and the counters come from
one block of memory, kept for as long as the process lives. Launches on one stream follow each other and use the same
ones; a launch captured in a CUDA graph, which may be replayed on any stream and at any time, keeps its own for ever.
"""
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

COUNTERS = 2**18  # a MiB
MOST = 1024  # for one launch


class _Block:
    def __init__(self, device: torch.device):
        # in a thread of its own: what this one allocates while PyTorch warms up a graph would be taken for the graph's
        with ThreadPoolExecutor(1) as elsewhere:
            self.zeros = elsewhere.submit(torch.zeros, COUNTERS, dtype=torch.int32, device=device).result()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.given = 0
        self.of_stream: dict[int, torch.Tensor] = {}

    def give(self, count: int) -> torch.Tensor | None:
        count = -(-count // 32) * 32  # cache lines of their own
        if self.given + count > COUNTERS:
            return None
        self.given += count
        return self.zeros[self.given - count : self.given]


_blocks: dict[torch.device, _Block] = {}
_lock = threading.Lock()


def arrivals(count: int, device: torch.device) -> torch.Tensor:
    """At least `count` int32 zeros, at most MOST, for one launch on the current stream, which has to leave zeros."""
    on_gpu = device.type == "cuda"
    capturing = on_gpu and torch.cuda.is_current_stream_capturing()
    found = None
    with _lock:
        if device not in _blocks and not capturing:
            _blocks[device] = _Block(device)
        block = _blocks.get(device)
        if block is not None and capturing:
            found = block.give(count)
        elif block is not None:
            stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
            if stream not in block.of_stream:
                block.of_stream[stream] = block.give(MOST)
            found = block.of_stream[stream]
    # none left, or no block yet in a process that captures its very first launch: cleared anew for this launch
    return torch.zeros(count, dtype=torch.int32, device=device) if found is None else found
