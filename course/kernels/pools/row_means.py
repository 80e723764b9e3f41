"""Means of whole small images whose pixels follow each other in memory, such as the channels of images of 7 x 7.

    y[i] = 1 / length * sum_k x[i * length + k]

Most rows of 49 elements begin in the middle of a vector: threads that read them row by row load single elements. Here a
program loads its rows as one run, in whole vectors, and redistributes them through shared memory, where single
elements cost little: neighbouring threads get the same column of neighbouring rows.
"""
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES, aligned
from course.kernels.pools.problem import SMALL_IMAGE, WindowMeans, one_row
from course.tuning import Config

TILE_BYTES = 1 << 14  # that a program loads


@triton.jit
def row_means_kernel(
    x_ptr, y_ptr, n_rows, length, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """BLOCK_M rows of x (n_rows, length), contiguous, of which BLOCK_N covers one; y (n_rows,).

    ALIGN: elements of a vector, of which n_rows * length is a multiple
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    size = tl.minimum(n_rows - first, BLOCK_M).to(tl.int32) * length
    place = tl.arange(0, BLOCK_N * BLOCK_M)
    x = tl.load(x_ptr + first * length + place, mask=place < aligned(size, ALIGN), other=0.0)

    row = place % BLOCK_M
    col = place // BLOCK_M
    turned = tl.gather(x, tl.minimum(row * length + col, BLOCK_N * BLOCK_M - 1), 0).to(tl.float32)
    turned = tl.where(col < length, turned, 0.0)  # past the end of a row is the next one
    y = tl.sum(tl.reshape(turned, (BLOCK_N, BLOCK_M)), axis=0) / length
    rows = first + tl.arange(0, BLOCK_M)
    tl.store(y_ptr + rows, y, mask=rows < n_rows)


def can_run(problem: WindowMeans) -> bool:
    """Small images, one after the other in memory, whose length is no multiple of a vector.

    Rows of whole vectors need no redistribution, and it would be slow: the elements of one column would lie in few of
    the 32 banks of shared memory.
    """
    row = one_row(problem)
    if row is None or row.divisor is not None:
        return False
    (n, c, _, length), (stride_n, stride_c, _, stride_w) = row.x_shape, row.x_strides
    contiguous = (n == 1 or stride_n == c * length) and (c == 1 or stride_c == length) and stride_w == 1
    return contiguous and length <= SMALL_IMAGE and length * row.dtype.itemsize % VECTOR_BYTES != 0


def configs(problem: WindowMeans) -> list[Config]:
    """One configuration."""
    n, c, h, w = problem.x_shape
    itemsize = problem.dtype.itemsize
    block_n = next_power_of_2(h * w)
    # few rows are cut finer, so that every multiprocessor gets some
    share = max(next_power_of_2(n * c // (4 * runtime.num_sms())), 16)
    blocks = {
        "ALIGN": math.gcd(VECTOR_BYTES // itemsize, n * c * h * w),
        "BLOCK_M": min(share, TILE_BYTES // (block_n * itemsize)),
        "BLOCK_N": block_n,
    }
    return [Config("row_means", blocks, num_warps=2 * itemsize)]


def launch(problem: WindowMeans, config: Config, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Writes the means of the images of x to y, which is contiguous: the two `operands`."""
    n, c, h, w = problem.x_shape
    row_means_kernel[(cdiv(n * c, config.blocks["BLOCK_M"]),)](
        *operands, n * c, h * w, **config.blocks, num_warps=config.num_warps
    )
