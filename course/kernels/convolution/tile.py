"""What the kernels through pointers share: which pixels a tile holds, and where they lie.

A tile holds pixels along one dimension and channels along the other. Neighbouring threads follow the last dimension, so
that one has to be the one whose elements are neighbours in memory: the channels of a channels_last tensor
(PIXEL_DIM = 0), the pixels of a contiguous one (PIXEL_DIM = 1).
"""
from typing import NamedTuple

import triton
import triton.language as tl

from course.kernels.convolution.problem import Convolution


class Geometry(NamedTuple):
    """Where an output pixel's window lies in x; a kernel takes it as one argument."""

    image: tuple[int, int]
    """rows and columns of x"""
    result: tuple[int, int]
    """rows and columns of the result"""
    stride: tuple[int, int]
    padding: tuple[int, int]
    """at the top and at the left"""
    dilation: tuple[int, int]
    x_strides: tuple[int, ...]


def geometry_of(problem: Convolution) -> Geometry:
    p = problem
    return Geometry((p.H, p.W), (p.P, p.Q), p.stride, p.padding[::2], p.dilation, p.x_strides)


def index_dtype(problem: Convolution) -> tl.dtype:
    """Of offsets within a window: int64 only where an image needs it."""
    _, channel, row, column = problem.x_strides
    rows, columns = problem.dilation[0] * problem.R, problem.dilation[1] * problem.S
    farthest = problem.channels * channel + rows * row + columns * column
    return tl.int32 if farthest < 2**31 else tl.int64


@triton.jit
def along(v, DIM: tl.constexpr):
    """The vector v along dimension DIM of a tile, with size 1 along the other."""
    return tl.expand_dims(v, 1 - DIM)


@triton.jit
def output_pixels(first, n_pixels, P, Q, BLOCK: tl.constexpr):
    """Image, row and column of the output pixels first, first + 1, ... (the last one again past the end).

    `first` may pass 2**31: it is taken apart once, so that the vectors need only short divisions.
    """
    row = first // Q
    column = tl.minimum(tl.arange(0, BLOCK), n_pixels - 1 - first).to(tl.int32) + (first % Q).to(tl.int32)
    p = (row % P).to(tl.int32) + column // Q
    return row // P + p // P, p % P, column % Q


@triton.jit
def image_offset(n, h, w, strides):
    """Where channel 0 of the pixels h, w in the images n is, counted in elements from the first one, in int64."""
    return n.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[2] + w.to(tl.int64) * strides[3]
