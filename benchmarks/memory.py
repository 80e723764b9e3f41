"""The GPU memory that a model takes."""
import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")


def taken(make: Callable[[], Made], use: Callable[[Made], object]) -> float:
    """MiB that all tensors of make() and of a first use(it) take at their peak: weights, what lies in a CUDA graph
    that is captured, and the libraries' workspaces.

    One is made and used before it, so that kernels are compiled and tuned already.
    """
    use(make())
    gc.collect()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()  # the one before left them
    before = torch.cuda.memory_allocated()
    made = make()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    use(made)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
