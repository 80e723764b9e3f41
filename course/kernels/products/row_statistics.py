"""Mean and variance of the rows of a matrix in parts, for a layer norm that has no kernel of its own.

Programs that compute a piece of some rows each keep, for every PART columns of a row, the mean and the sum of the
squared deviations from it. The kernel that reads the rows next combines the parts by the formula of Chan, Golub and
LeVeque (1983): with parts of n_i elements,

    mean = sum over i of n_i mean_i / n,    n variance = sum over i of squares_i + n_i (mean_i - mean)^2

Sums of the elements and of their squares would be half the work, but lose every digit where the mean is large against
the deviation. Of equal numbers, each mean is that number and each sum of squares 0, exactly (`parts.means`).

The statistics of rows (..., n) are (..., 2, parts) in float32: first the means, then the sums of squares. For a row of
n elements they take (n / PART) * 8 bytes.
"""
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.checks import check_tensors
from course.kernels.parts.means import mean_of_parts, row_means
from course.kernels.parts.modes import torch_function
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.operators import custom_op

PART = tl.constexpr(32)


@triton.jit
def store_statistics(y, statistics_ptr, rows, first_col, n_rows, n_cols, PARTS: tl.constexpr):
    """Stores the statistics of the tile `y`, in out's dtype, whose columns begin at `first_col`, a multiple of PART.

    PARTS: `stored_parts(n_cols)`
    """
    HERE: tl.constexpr = y.shape[1] // PART
    parts = first_col // PART + tl.arange(0, HERE)
    y_wide = y.to(tl.float32).reshape(y.shape[0], HERE, PART)
    inside = True
    count = 1.0 * PART
    if not PARTS[1]:
        inside = (parts[:, None] * PART + tl.arange(0, PART)[None, :] < n_cols)[None, :, :]
        count = tl.minimum(tl.maximum(n_cols - parts * PART, 1), PART).to(tl.float32)[None, :]
        y_wide = tl.where(inside, y_wide, 0.0)
    mean = row_means(y_wide, inside, count, y.dtype)
    centred = tl.where(inside, y_wide - mean[:, :, None], 0.0)
    squares = tl.sum(centred * centred, axis=2)
    ptrs = statistics_ptr + rows.to(tl.int64)[:, None] * (2 * PARTS[0]) + parts[None, :]
    inside = (rows < n_rows)[:, None] & (parts * PART < n_cols)[None, :]
    tl.store(ptrs, mean, mask=inside)
    tl.store(ptrs + PARTS[0], squares, mask=inside)


@triton.jit
def load_statistics(statistics_ptr, stride_m, rows, n_rows, n_cols, PARTS: tl.constexpr):
    """The statistics of `rows`: means and squares of their parts, both (rows, PARTS)."""
    parts = tl.arange(0, PARTS)
    ptrs = statistics_ptr + rows.to(tl.int64)[:, None] * stride_m + parts[None, :]
    inside = (rows < n_rows)[:, None] & (parts * PART < n_cols)[None, :]
    return tl.load(ptrs, mask=inside, other=0.0), tl.load(ptrs + PARTS, mask=inside, other=0.0)


@triton.jit
def mean_and_rstd(means, squares, n_cols, eps):
    """Of each row: its mean, and 1 / sqrt(variance + eps), or 0 where the variance is 0.

    Then all elements are the mean, and nothing but rounding errors is left of a sum from which it is subtracted.
    """
    parts = tl.arange(0, means.shape[1])
    counts = tl.minimum(tl.maximum(n_cols - parts * PART, 0), PART).to(tl.float32)[None, :]
    mean = mean_of_parts(means, counts, n_cols)
    shift = means - mean[:, None]
    variance = tl.sum(squares + shift * shift * counts, axis=1) / n_cols
    rstd = tl.rsqrt(variance + eps) * (variance != 0.0).to(tl.float32)  # with eps = 0 it stays NaN
    # These gathers change no value. Without them the compiler gives the tile that is normalised next the layout of the
    # loaded statistics, and converts the whole tile through shared memory; with them it converts these two vectors.
    same = tl.arange(0, means.shape[0])
    return tl.gather(mean, same, 0), tl.gather(rstd, same, 0)


@triton.jit
def row_statistics_kernel(
    x_ptr, statistics_ptr, stride_xm, n_rows, n_cols, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):
    """Statistics of x (n_rows, n_cols), whose rows are `stride_xm` apart and their elements adjacent."""
    pdl_wait(PDL)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + rows.to(tl.int64)[:, None] * stride_xm + cols[None, :], mask=inside)  # int64: may pass 2**31
    store_statistics(x, statistics_ptr, rows, tl.program_id(1) * BLOCK_N, n_rows, n_cols, PARTS)


@torch_function()
def row_statistics(input: torch.Tensor) -> torch.Tensor:
    """What `norm_linear` needs to know of the rows of `input` (..., K): (..., 2, parts), float32.

    float32, float16 or bfloat16, any strides. Raises ValueError where K is 0 or input a scalar, TypeError on
    other dtypes.
    """
    check_tensors("row_statistics", input=input)
    check_columns("row_statistics", input)
    return _row_statistics(input)


def check_columns(op: str, input: torch.Tensor) -> None:
    if input.ndim == 0 or input.shape[-1] == 0:
        raise ValueError(f"{op}: expected input (..., K) with K of at least 1, got {tuple(input.shape)}")


@custom_op("row_statistics")
def _row_statistics(x: torch.Tensor) -> torch.Tensor:
    statistics = empty_statistics(x)
    if x.numel() == 0:
        return statistics
    rows = as_matrix(x)
    n_rows, n_cols = rows.shape
    block_n = min(max(next_power_of_2(n_cols), PART.value), 1024)
    block_m = next_power_of_2(n_rows) if runtime.INTERPRET else 4096 // block_n
    grid = cdiv(n_rows, block_m), cdiv(n_cols, block_n)
    row_statistics_kernel[grid](
        rows, statistics, rows.stride(0), n_rows, n_cols, PARTS=stored_parts(n_cols), BLOCK_M=block_m, BLOCK_N=block_n,
        **pdl_options(math.prod(grid)),
    )
    return statistics


@torch.library.register_fake(_row_statistics)
def _(x):
    return empty_statistics(x)


def empty_statistics(out: torch.Tensor) -> torch.Tensor:
    """An uninitialised (..., 2, parts) in float32, for the rows of `out` (..., n)."""
    return out.new_empty(*out.shape[:-1], 2, number_of_parts(out.shape[-1]), dtype=torch.float32)


def number_of_parts(n_cols: int) -> int:
    """Of a row of `n_cols` elements, rounded up to a power of two."""
    return next_power_of_2(cdiv(n_cols, PART.value))


def stored_parts(n_cols: int) -> tuple[int, bool]:
    """`number_of_parts`, and whether each part that exists has PART elements: then no element has a mask."""
    return number_of_parts(n_cols), n_cols % PART.value == 0


def as_matrix(t: torch.Tensor) -> torch.Tensor:
    """`t` (..., K) as (rows, K) with a row's elements side by side; a copy where its strides allow no view."""
    rows = t.reshape(t.numel() // t.shape[-1], t.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
