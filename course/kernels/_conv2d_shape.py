"""What conv2d returns, worked out without computing it: PyTorch's sizes and memory format."""
from collections.abc import Sequence

import torch

from course.kernels._memory_format import suggest_memory_format
from course.kernels._window import pair


def pad_sides(
    padding: int | tuple[int, int] | str, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int, int]:
    """Zeros at the top, the bottom, the left and the right."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if max(stride) > 1:
            raise ValueError(f"conv2d: expected stride 1 for padding='same', got {stride}")
        high, wide = (d * (k - 1) for d, k in zip(dilation, kernel_size))
        return high // 2, high - high // 2, wide // 2, wide - wide // 2
    if isinstance(padding, str):
        raise ValueError(f"conv2d: expected padding to be 'same', 'valid' or integers, got {padding!r}")
    high, wide = pair("conv2d", "padding", padding)
    return high, high, wide, wide


def result_shape(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int, int]:
    """(N, K, P, Q) for x (N, C, H, W); a size of 0 or less is that of an image smaller than the filter."""
    (H, W), (R, S) = x.shape[2:], weight.shape[2:]
    P = (H + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    K = weight.shape[0] if weight.shape[1] else 0  # PyTorch's rule: no channels in, no channels out
    return x.shape[0], K, P, Q


def empty_result(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """An uninitialised result: channels_last if x or weight is, as with cuDNN (and with PyTorch on the CPU)."""
    channels_last = torch.channels_last in (suggest_memory_format(x), suggest_memory_format(weight))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = result_shape(x, weight, stride, padding, dilation)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
