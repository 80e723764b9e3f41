"""The rows that softmax and layer_norm work on, wherever in memory they lie, and the tiles that cover them.

A row is what one softmax or one mean is taken over. A tensor is seen as n_batch * n_rows rows of n_cols elements, with
a stride for each of the three, so that rows whose elements are no neighbours (the channels of an image, the columns of
a matrix) are read in place. One program takes a tile of BLOCK_M rows; its threads run along the side of the tile that
is contiguous.
"""
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.loops import walk
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES, aligned
from course.runtime import INTERPRET, per_gpu

FULL_SM = 512  # threads that keep a multiprocessor busy
LONG_TILE = 1 << 13  # elements taken at a time of a row longer than one block: two float32 are kept for each
LONG_WARPS = 16
RUN_BYTES = 64  # of neighbours, at least, that a tile reads where the elements of a row are no neighbours
TURN_BYTES = 1 << 16  # of a tile read along one side and written along the other: the least shared memory of a GPU


@triton.jit
def first_row(n_rows, BLOCK_M: tl.constexpr):
    """This program's batch and the first of its rows there, in int64: multiplied by a stride they may pass 2**31."""
    n_blocks = tl.cdiv(n_rows, BLOCK_M)
    pid = tl.program_id(0)
    return (pid // n_blocks).to(tl.int64), (pid % n_blocks).to(tl.int64) * BLOCK_M


@triton.jit
def tile_offsets(
    batch, row, col, strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Where the elements of the tile at (row, col) lie: (BLOCK_M, BLOCK_N). strides: of batch, row and column.

    Neighbours along a side begin at a multiple of ALIGN_M or ALIGN_N elements: told so, the compiler loads vectors.
    """
    rows = tl.arange(0, BLOCK_M).to(tl.int64)[:, None]
    cols = tl.arange(0, BLOCK_N).to(tl.int64)[None, :]
    first = batch * strides[0] + row * strides[1] + tl.cast(col, tl.int64) * strides[2]
    return tl.multiple_of(first + rows * strides[1] + cols * strides[2], (ALIGN_M, ALIGN_N))


@triton.jit
def tile_mask(
    row, col, n_rows, n_cols,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Which elements of the tile at (row, col) exist: (BLOCK_M, BLOCK_N)."""
    rows = aligned(tl.minimum(n_rows - row, BLOCK_M).to(tl.int32), ALIGN_M)
    cols = aligned(tl.minimum(n_cols - col, BLOCK_N).to(tl.int32), ALIGN_N)
    return (tl.arange(0, BLOCK_M) < rows)[:, None] & (tl.arange(0, BLOCK_N) < cols)[None, :]


class Rows(NamedTuple):
    """The rows of x and of the result y, and the tiles in which a kernel computes them:

        kernel[rows.grid](x, y, *rows.sizes, rows.x_strides, rows.y_strides, **rows.tile)
    """

    grid: tuple[int]
    sizes: tuple[int, int]
    """n_rows, n_cols"""
    x_strides: tuple[int, int, int]
    """of the batch, the row and the column"""
    y_strides: tuple[int, int, int]
    tile: dict[str, int]
    """ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N, num_warps"""
    one_block: bool
    """whether BLOCK_N covers a row"""


def find_rows(
    x: torch.Tensor, y: torch.Tensor, first: int, last: int, one_block: int, per_thread: int
) -> tuple[torch.Tensor, Rows]:
    """The rows along dimensions first to last - 1 of `x`, not empty, and of the contiguous result `y`.

    Returns `x`, or a contiguous copy of it where three strides do not reach all of its elements. A tile has at most
    `one_block` elements, and a thread at most `per_thread` of them, where there are rows enough for every thread.
    """
    rows = plan_rows(tuple(x.shape), x.stride(), y.stride(), first, last, x.element_size(), one_block, per_thread)
    if rows is None:
        x = x.contiguous()
        rows = plan_rows(tuple(x.shape), x.stride(), y.stride(), first, last, x.element_size(), one_block, per_thread)
    return x, rows


@per_gpu
def plan_rows(shape, x_strides, y_strides, first, last, itemsize, limit, per_thread) -> Rows | None:
    """The rows, in tiles of at most `limit` elements; None where three strides do not reach all elements of x."""

    def loops(dims):
        sizes, *steps = walk(*(tuple(t[d] for d in dims) for t in (shape, y_strides, x_strides)))
        return list(zip(sizes, *steps))  # (size, stride of y, stride of x), outermost first

    outer = [(1, 0, 0), *loops([d for d in range(len(shape)) if not first <= d < last])]
    inner = loops([d for d in range(len(shape)) if first <= d < last])
    if len(outer) > 3 or len(inner) > 1:
        return None
    (n_batch, n_rows, n_cols), y_steps, x_steps = zip(*outer[-2:], *inner)

    vector = VECTOR_BYTES // itemsize
    share = next_power_of_2(math.prod(shape) // (FULL_SM * runtime.num_sms()))
    warp = 32 * min(max(share, vector), per_thread)  # elements in the registers of one warp
    least = min(next_power_of_2(n_rows), RUN_BYTES // itemsize) if 1 in (x_steps[1], y_steps[1]) else 1  # rows
    if x_steps[2] != 1 or y_steps[2] != 1:
        limit = min(limit, TURN_BYTES // itemsize)
    one_block = least * next_power_of_2(n_cols) <= limit
    block_n = next_power_of_2(n_cols) if one_block else LONG_TILE // least
    most = limit if INTERPRET else warp  # the interpreter's time is proportional to the number of programs
    block_m = max(least, min(next_power_of_2(n_rows), most // block_n))
    most_warps = 32 if runtime.capability() > (0, 0) else 16  # 1,024 threads; AMD's warps have 64
    num_warps = min(max(block_m * block_n // warp, 1), most_warps) if one_block else LONG_WARPS

    def align(run, *lengths):
        """How many elements, at most a vector's, divide the start and the length of every run along dimension `run`."""
        steps = [s for t in (x_steps, y_steps) if t[run] == 1 for d, s in enumerate(t) if d != run]
        return math.gcd(vector, *lengths, *steps) if steps else 1

    return Rows(
        grid=(n_batch * cdiv(n_rows, block_m),),
        sizes=(n_rows, n_cols),
        x_strides=x_steps,
        y_strides=y_steps,
        tile=dict(ALIGN_M=align(1, n_rows, block_m), ALIGN_N=align(2, n_cols, block_n),
                  BLOCK_M=block_m, BLOCK_N=block_n, num_warps=num_warps),
        one_block=one_block,
    )
