"""Images (N, C, H, W) or (C, H, W): what is checked of them, and PyTorch's rule for the memory format of a result."""
from collections.abc import Sequence

import torch


def check_images(op: str, x: torch.Tensor) -> None:
    """`x` is a batch of images, or one image, of at least one pixel each."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{op}: expected input of shape (N, C, H, W) or (C, H, W), got {tuple(x.shape)}")
    if 0 in x.shape[-2:]:
        raise ValueError(f"{op}: expected input with at least one row and column, got {tuple(x.shape)}")


def empty_images(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """An uninitialised result of `shape`, with the dtype, the device and the memory format of `x`."""
    memory_format = suggest_memory_format(x.shape, x.stride())
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def suggest_memory_format(shape: Sequence[int], strides: Sequence[int]) -> torch.memory_format:
    """channels_last for (N, C, H, W) or (N, C, D, H, W) whose strides have that order, else contiguous: PyTorch's rule.

    (c10/core/MemoryFormat.h. `torch._prims_common` has it in Python, and takes 15 us.)
    """
    if len(shape) not in (4, 5) or strides[1] == 0:
        return torch.contiguous_format
    least = 0  # the least stride that the next dimension may have, from the channels outwards
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[d] == 0 or strides[d] < least or d == 0 and least == strides[1]:
            return torch.contiguous_format
        least = strides[d] * shape[d]
    return torch.channels_last if len(shape) == 4 else torch.channels_last_3d
