"""What a call of avg_pool2d or adaptive_avg_pool2d asks for."""
import functools
from typing import NamedTuple

import torch

from course.kernels.pools.windows import Windows

SMALL_IMAGE = 64  # pixels of an image that one program takes whole


class WindowMeans(NamedTuple):
    """The mean of each window of x (N, C, H, W), where one of `rows` crosses one of `cols`: y (N, C, P, Q)."""

    x_shape: tuple[int, int, int, int]
    y_shape: tuple[int, int, int, int]
    x_strides: tuple[int, int, int, int]
    y_strides: tuple[int, int, int, int]
    rows: Windows
    cols: Windows
    dtype: torch.dtype
    """of x"""
    divisor: float | None = None
    """what a window's sum is divided by; None for the number of its elements"""

    worth_measuring = False  # each engine has one configuration


@functools.lru_cache(maxsize=4096)
def one_row(problem: WindowMeans) -> WindowMeans | None:
    """The same means with each image as one row of H * W pixels.

    None unless each image is one window, and its rows follow each other in memory.
    """
    n, c, h, w = problem.x_shape
    stride_n, stride_c, stride_h, stride_w = problem.x_strides
    sides = (problem.rows, h), (problem.cols, w)
    whole = all(windows.padding == 0 and windows.length >= size for windows, size in sides)
    if problem.y_shape[2:] != (1, 1) or not whole or stride_h != w * stride_w:
        return None
    return problem._replace(
        x_shape=(n, c, 1, h * w), x_strides=(stride_n, stride_c, h * w * stride_w, stride_w),
        rows=Windows(1, 1, 1), cols=Windows(h * w, 1, h * w),
    )
