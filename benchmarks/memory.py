"""The GPU memory that a model takes: its weights, its CUDA graphs, and what a call of it needs at its peak.

What counts is what PyTorch's allocator asks of the GPU, in segments of 2 MiB and more: this is what no other program
can have meanwhile, and it is counted in the same way whether a tensor lives in a call or in a graph's own pool.
"""
import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")


def taken(make: Callable[[], Made], use: Callable[[Made], object]) -> tuple[Made, float]:
    """(make(), the MiB that it and then use(it) take).

    It is used three times before, in which it tunes, compiles and captures; what only that took is not counted. Other
    tensors' segments may have room in them: measured alone, beside inputs only, the figure is right.
    """
    give_back()
    before = torch.cuda.memory_reserved()
    made = make()
    for _ in range(3):
        use(made)
    give_back()
    torch.cuda.reset_peak_memory_stats()
    use(made)
    torch.cuda.synchronize()
    return made, (torch.cuda.max_memory_reserved() - before) / 2**20


def give_back() -> None:
    """Everything that is kept for later and holds nothing now."""
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
