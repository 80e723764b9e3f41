"""Softmax over one dimension.

    y[i] = exp(x[i] - m) / sum_k exp(x[k] - m),    m = max_k x[k]

A row stays in registers between the maximum, the sum and the division, so x is read once and y written once:
2 * n * itemsize bytes. Rows longer than registers hold are read twice, 3 * n * itemsize bytes: the maximum and
the sum come from one pass, the online normaliser of Milakov and Gimelshein (2018, arXiv:1805.02867).
"""
import torch
import triton
import triton.language as tl

from course.kernels._checks import check_dim, check_tensors
from course.kernels._rows import find_rows, first_row, tile_mask, tile_offsets
from course.runtime import custom_op

ROW_BYTES = 1 << 17  # that one program holds in registers
THREAD_BYTES = 64  # that one thread loads, four times 16
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_kernel(
    x_ptr, y_ptr, n_rows, n_cols, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch, row = first_row(n_rows, BLOCK_M)
    inside = tile_mask(row, 0, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    x_offs = tile_offsets(batch, row, 0, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    x = tl.load(x_ptr + x_offs, mask=inside, other=padding(n_cols, BLOCK_N)).to(tl.float32)
    # the hardware has exp2; tl.exp multiplies too, and takes three instructions more for results under 2**-126
    e = tl.exp2((x - tl.max(x, axis=1, keep_dims=True)) * LOG2_E)
    y = e * (1.0 / tl.sum(e, axis=1, keep_dims=True))  # one division a row
    y_offs = tile_offsets(batch, row, 0, y_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    tl.store(y_ptr + y_offs, y, mask=inside)


@triton.jit
def padding(n_cols, BLOCK_N: tl.constexpr):
    """After the end of a row -inf, as exp(-inf) = 0 adds nothing to its sum. Rows that do not exist are 0: of a
    row of -inf, -inf - -inf would make NaN, and the interpreter warns of it."""
    return tl.where(tl.arange(0, BLOCK_N) < n_cols, 0.0, -float("inf"))[None, :]


@triton.jit
def long_softmax_kernel(
    x_ptr, y_ptr, n_rows, n_cols, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batch, row = first_row(n_rows, BLOCK_M)

    # Each place in the block keeps the maximum m of what it has seen and s, the sum of exp(x - m). It begins with the
    # lowest finite number: from -inf, a row that begins with -inf would become NaN.
    m = tl.full((BLOCK_M, BLOCK_N), -3.4028234663852886e38, tl.float32)
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for col in range(0, n_cols, BLOCK_N):
        inside = tile_mask(row, col, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x_offs = tile_offsets(batch, row, col, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x = tl.load(x_ptr + x_offs, mask=inside, other=padding(n_cols - col, BLOCK_N)).to(tl.float32)
        # of exp(m - new m) and exp(x - new m) one is exp(0) = 1: this is the other
        e = tl.exp(-tl.abs(x - m))
        s = tl.where(x > m, s * e + 1.0, s + e)
        m = tl.maximum(m, x)
    row_max = tl.max(m, axis=1, keep_dims=True)
    scale = 1.0 / tl.sum(s * tl.exp(m - row_max), axis=1, keep_dims=True)

    for col in range(0, n_cols, BLOCK_N):
        inside = tile_mask(row, col, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x_offs = tile_offsets(batch, row, col, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x = tl.load(x_ptr + x_offs, mask=inside).to(tl.float32)
        y = tl.exp(x - row_max) * scale
        y_offs = tile_offsets(batch, row, col, y_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        tl.store(y_ptr + y_offs, y, mask=inside)


def softmax(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Softmax of `x` (float32, float16 or bfloat16, any shape) over dimension `dim`, as `torch.softmax`.

    Computes in float32 and rounds once; terms below 2**-126 of the row's largest may come out as 0. Raises
    ValueError on a `dim` that x does not have, TypeError on another dtype.
    """
    check_tensors("softmax", x=x)
    return _softmax(x, check_dim("softmax", dim, max(x.ndim, 1)))


@custom_op("softmax")
def _softmax(x: torch.Tensor, dim: int) -> torch.Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return y
    x, rows = find_rows(x, y, dim, dim + 1, ROW_BYTES // x.element_size(), THREAD_BYTES // x.element_size())
    kernel = softmax_kernel if rows.one_block else long_softmax_kernel
    kernel[rows.grid](x, y, *rows.sizes, rows.x_strides, rows.y_strides, **rows.tile)
    return y


@torch.library.register_fake(_softmax)
def _(x, dim):
    return torch.softmax(x, dim)
