"""Which memory format PyTorch gives the result of an operation on images."""
import torch


def suggest_memory_format(t: torch.Tensor) -> torch.memory_format:
    """channels_last where `t` (N, C, H, W) or (N, C, D, H, W) has strides of that order: PyTorch's rule.

    (c10/core/MemoryFormat.h. `torch._prims_common` has it in Python, for 15 us.)
    """
    if t.ndim not in (4, 5):
        return torch.contiguous_format
    shape, strides = t.shape, t.stride()
    if strides[1] == 0:
        return torch.contiguous_format
    least = 0  # that the next dimension's stride may be, from the channels to the images
    for d in (1, *range(t.ndim - 1, 1, -1), 0):
        if shape[d] == 0 or strides[d] < least or d == 0 and least == strides[1]:
            return torch.contiguous_format
        least = strides[d] * shape[d]
    return torch.channels_last if t.ndim == 4 else torch.channels_last_3d
