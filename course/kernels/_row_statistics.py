"""Mean and variance of rows that several programs compute a piece of, for a layer norm without a kernel of its own.

Of every PART columns of a row the mean and the sum of the squared deviations from it are kept, next to the row. Whoever
reads the row next combines them by the formula of Chan, Golub and LeVeque (1983): with parts of n_i elements,

    mean = sum over i of n_i mean_i / n,    n variance = sum over i of squares_i + n_i (mean_i - mean)^2

Sums of the elements and of their squares would be half the work, but lose every digit where the mean is large against
the deviation. For a row of n elements: (n / PART) * 8 bytes.
"""
import torch
import triton
import triton.language as tl

from course.kernels._sizes import cdiv, next_power_of_2

PART = tl.constexpr(32)


def number_of_parts(n_cols: int) -> int:
    """Of a row of `n_cols` elements, rounded up to a power of two."""
    return next_power_of_2(cdiv(n_cols, PART.value))


def empty_statistics(out: torch.Tensor) -> torch.Tensor:
    """(..., 2, parts) in float32, for the rows of `out` (..., n): means, then sums of squares."""
    return out.new_empty(*out.shape[:-1], 2, number_of_parts(out.shape[-1]), dtype=torch.float32)


@triton.jit
def store_statistics(y, statistics_ptr, rows, first_col, n_rows, n_cols, PARTS: tl.constexpr):
    """Keeps the statistics of the tile `y`, in float32, whose columns begin at `first_col`, a multiple of PART."""
    HERE: tl.constexpr = y.shape[1] // PART
    parts = first_col // PART + tl.arange(0, HERE)
    inside = (parts[:, None] * PART + tl.arange(0, PART)[None, :] < n_cols)[None, :, :]
    count = tl.minimum(tl.maximum(n_cols - parts * PART, 1), PART).to(tl.float32)[None, :]

    y = y.reshape(y.shape[0], HERE, PART)
    mean = tl.sum(tl.where(inside, y, 0.0), axis=2) / count
    centred = tl.where(inside, y - mean[:, :, None], 0.0)
    squares = tl.sum(centred * centred, axis=2)
    ptrs = statistics_ptr + rows.to(tl.int64)[:, None] * (2 * PARTS) + parts[None, :]
    inside = (rows < n_rows)[:, None] & (parts * PART < n_cols)[None, :]
    tl.store(ptrs, mean, mask=inside)
    tl.store(ptrs + PARTS, squares, mask=inside)


@triton.jit
def load_statistics(statistics_ptr, stride_m, rows, n_rows, n_cols, PARTS: tl.constexpr):
    """What is kept of each of the `rows`: its parts' means and squares, both (rows, PARTS)."""
    parts = tl.arange(0, PARTS)
    ptrs = statistics_ptr + rows.to(tl.int64)[:, None] * stride_m + parts[None, :]
    inside = (rows < n_rows)[:, None] & (parts * PART < n_cols)[None, :]
    return tl.load(ptrs, mask=inside, other=0.0), tl.load(ptrs + PARTS, mask=inside, other=0.0)


@triton.jit
def mean_and_rstd(means, squares, n_cols, eps):
    """Of each row: its mean, and 1 / sqrt(variance + eps)."""
    parts = tl.arange(0, means.shape[1])
    counts = tl.minimum(tl.maximum(n_cols - parts * PART, 0), PART).to(tl.float32)[None, :]
    mean = tl.sum(means * counts, axis=1) / n_cols
    shift = means - mean[:, None]
    variance = tl.sum(squares + shift * shift * counts, axis=1) / n_cols
    # a gather takes its result's layout from nobody: without it, the compiler would move the whole tile that the rows
    # are going to be applied to into the layout of these loads, through shared memory
    same = tl.arange(0, means.shape[0])
    return tl.gather(mean, same, 0), tl.gather(tl.rsqrt(variance + eps), same, 0)
