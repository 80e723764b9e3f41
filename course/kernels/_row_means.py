"""The mean of each of many short rows that lie one after the other, such as the channels of images of 7 x 7.

    y[i] = 1 / length * sum_k x[i * length + k]

Most rows of 49 elements begin in the middle of a vector of 16 bytes: threads that read them row by row load single
elements. Here a program loads its rows as one run, in whole vectors, and deals them out through shared memory, where
single elements cost little: neighbouring threads get the same column of neighbouring rows.
"""
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._channels import within
from course.kernels._sizes import cdiv, next_power_of_2

VECTOR_BYTES = 16
TILE_BYTES = 1 << 14  # what a program loads
LONGEST = 64


@triton.jit
def row_means_kernel(
    x_ptr, y_ptr, n_rows, length, ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    size = tl.minimum(n_rows - first, BLOCK_M).to(tl.int32) * length
    place = tl.arange(0, BLOCK_N * BLOCK_M)
    x = tl.load(x_ptr + first * length + place, mask=within(place, size, ALIGN), other=0.0)

    row = place % BLOCK_M
    col = place // BLOCK_M
    turned = tl.gather(x, tl.minimum(row * length + col, BLOCK_N * BLOCK_M - 1), 0).to(tl.float32)
    turned = tl.where(col < length, turned, 0.0)  # past the end of a row stands the next one
    y = tl.sum(tl.reshape(turned, (BLOCK_N, BLOCK_M)), axis=0) / length
    rows = first + tl.arange(0, BLOCK_M)
    tl.store(y_ptr + rows, y, mask=rows < n_rows)


def has_short_rows(x: torch.Tensor) -> bool:
    """Whether the rows along the last dimension of `x` are what this kernel is for. Those of whole vectors need no
    turning, and would come slowly: one column of them lies in few of shared memory's 32 banks."""
    length = x.shape[-1]
    return x.is_contiguous() and length <= LONGEST and length * x.element_size() % VECTOR_BYTES != 0


def row_means(x: torch.Tensor, y: torch.Tensor) -> None:
    """Writes the means along the last dimension of `x`, of which `has_short_rows` is true, to the contiguous `y`."""
    length, n_rows = x.shape[-1], y.numel()
    block_n = next_power_of_2(length)
    # few rows are cut finer, so that every multiprocessor gets some
    share = max(next_power_of_2(n_rows // (4 * runtime.num_sms())), 16)
    block_m = min(share, TILE_BYTES // (block_n * x.element_size()))
    row_means_kernel[(cdiv(n_rows, block_m),)](
        x, y, n_rows, length, ALIGN=math.gcd(VECTOR_BYTES // x.element_size(), n_rows * length),
        BLOCK_M=block_m, BLOCK_N=block_n, num_warps=2 * x.element_size(),
    )  # fmt: skip
