"""Windows over the rows and columns of an image: how many fit, and PyTorch's rules for them."""
from typing import NamedTuple

import torch

from course.kernels.parts.images import check_images


class Windows(NamedTuple):
    """The windows along one dimension: number i spans [i * step // over - padding, (i * step + reach) // over)."""

    step: int
    over: int
    reach: int
    padding: int = 0
    counted: int = 0
    """how many elements of the padding count on either side"""

    @property
    def length(self) -> int:
        """Elements of a window; where windows differ in size, of a longest one."""
        return self.reach // self.over + self.padding


def pooled_size(n: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit along a dimension of `n` elements; less than 1 if not even one does.

    `ceil_mode` adds the window that reaches past the end, unless it would start in the padding there.
    """
    room = n + 2 * padding - dilation * (kernel - 1) - 1  # how far the first element of a window may move
    if not ceil_mode:
        return room // stride + 1
    windows = -(-room // stride) + 1
    return windows - 1 if (windows - 1) * stride >= n + padding else windows


def check_pool(op: str, x: torch.Tensor, kernel, stride, padding, dilation=(1, 1), ceil_mode=False) -> None:
    """`x` is images, of one channel at least, that hold a window; kernel, stride, padding, dilation are pairs."""
    check_images(op, x)
    if x.shape[-3] == 0:
        raise ValueError(f"{op}: expected input with at least one channel, got {tuple(x.shape)}")
    if any(p > k // 2 for p, k in zip(padding, kernel)):
        raise ValueError(f"{op}: expected padding of at most half the kernel {kernel}, got {padding}")
    size = [pooled_size(*dim, ceil_mode) for dim in zip(x.shape[-2:], kernel, stride, padding, dilation)]
    if min(size) < 1:
        raise ValueError(
            f"{op}: expected input to hold at least one window, got {tuple(x.shape)} "
            f"for kernel {kernel}, padding {padding} and dilation {dilation}"
        )
