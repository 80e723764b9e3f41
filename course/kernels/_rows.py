"""The rows that softmax and layer_norm work on, wherever in memory they lie, and the tiles that cover them.

A row is what one softmax or one mean runs over. A tensor is seen as n_batch * n_rows rows of n_cols
elements, with a stride for each of the three, so that rows that cross memory (the channels of an
image, the columns of a matrix) are read where they are. One program takes a tile of BLOCK_M rows; its
threads run along whichever side of the tile is contiguous.
"""
import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._pointwise import walk
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import INTERPRET

VECTOR_BYTES = 16  # the most that a thread loads at once
FULL_SM = 512  # threads that keep a multiprocessor busy
LONG_TILE = 1 << 13  # elements taken at a time of a row longer than one block: two float32 are kept for each
LONG_WARPS = 16
RUN_BYTES = 64  # at least, read from one place where rows cross memory
TURN_BYTES = 1 << 16  # shared memory of the smallest GPU, where a tile is turned that is written along its other side


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
):  # fmt: skip
    """Where the elements of the tile at (row, col) lie: (BLOCK_M, BLOCK_N)."""
    rows = tl.arange(0, BLOCK_M).to(tl.int64)[:, None]
    cols = tl.arange(0, BLOCK_N).to(tl.int64)[None, :]
    first = batch * strides[0] + row * strides[1] + tl.cast(col, tl.int64) * strides[2]
    # told that neighbours begin at a multiple of ALIGN elements, the compiler loads them as vectors
    return tl.multiple_of(first + rows * strides[1] + cols * strides[2], (ALIGN_M, ALIGN_N))


@triton.jit
def tile_mask(
    row, col, n_rows, n_cols,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Which of them exist: (BLOCK_M, BLOCK_N)."""
    rows = tl.minimum(n_rows - row, BLOCK_M).to(tl.int32) // ALIGN_M * ALIGN_M
    cols = tl.minimum(n_cols - col, BLOCK_N).to(tl.int32) // ALIGN_N * ALIGN_N
    return (tl.arange(0, BLOCK_M) < rows)[:, None] & (tl.arange(0, BLOCK_N) < cols)[None, :]


class Rows(NamedTuple):
    """How a kernel is launched: `kernel[rows.grid](x, y, *rows.sizes, rows.x_strides, rows.y_strides, **rows.tile)`."""

    grid: tuple[int]
    sizes: tuple[int, int]
    """n_rows, n_cols"""
    x_strides: tuple[int, int, int]
    """of the batch, the row and the column"""
    y_strides: tuple[int, int, int]
    tile: dict[str, int]
    """ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N, num_warps"""
    one_block: bool
    """whether BLOCK_N covers the row"""


def find_rows(
    x: torch.Tensor, y: torch.Tensor, first: int, last: int, one_block: int, per_thread: int
) -> tuple[torch.Tensor, Rows]:
    """The rows along dimensions first to last - 1 of `x`, not empty, and of the contiguous result `y`.

    Returns `x`, or a contiguous copy of it where three strides do not reach all of its elements. A program
    takes at most `one_block` elements at once, and a thread `per_thread` of them, where there are rows enough for
    every thread.
    """
    rows = _plan(tuple(x.shape), x.stride(), y.stride(), first, last, x.element_size(), one_block, per_thread)
    if rows is None:
        x = x.contiguous()
        rows = _plan(tuple(x.shape), x.stride(), y.stride(), first, last, x.element_size(), one_block, per_thread)
    return x, rows


@functools.lru_cache(maxsize=4096)
def _plan(shape, x_strides, y_strides, first, last, itemsize, limit, per_thread) -> Rows | None:
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
    least = min(next_power_of_2(n_rows), RUN_BYTES // itemsize) if 1 in (x_steps[1], y_steps[1]) else 1
    if x_steps[2] != 1 or y_steps[2] != 1:
        limit = min(limit, TURN_BYTES // itemsize)
    one_block = least * next_power_of_2(n_cols) <= limit
    block_n = next_power_of_2(n_cols) if one_block else LONG_TILE // least
    most = limit if INTERPRET else warp  # the interpreter's time goes with the number of programs
    block_m = max(least, min(next_power_of_2(n_rows), most // block_n))
    most_warps = 32 if runtime.capability() > (0, 0) else 16  # 1,024 threads; AMD's warps have 64
    num_warps = min(max(block_m * block_n // warp, 1), most_warps) if one_block else LONG_WARPS

    def align(run, *lengths):
        """How many elements, a vector's at most, divide the place and the length of every run along dimension `run`."""
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
    )  # fmt: skip
