"""Softmax over one dimension.

    y[i] = exp(x[i] - m) / sum_k exp(x[k] - m),    m = max_k x[k]

Which kernel runs depends on the length of a row:

    softmax_kernel         a row fits in one program's registers, 128 KiB (64 KiB where a row crosses memory). It stays
                           there from the maximum to the division, so x is read once and y written once: 2 * n *
                           itemsize bytes. An H200 takes 35.9 us for 32,768 rows of 1,024 in float16 (PyTorch 59.1)
    long_softmax_kernel    longer rows, read twice: 3 * n * itemsize bytes. The maximum and the sum come from one pass,
                           the online normaliser of Milakov and Gimelshein (2018, arXiv:1805.02867)
"""
import torch
import triton
import triton.language as tl

from course.kernels.norms.rows import find_rows, first_row, tile_mask, tile_offsets
from course.kernels.parts.checks import FLOATS, check_dim, check_tensors, in_one_line
from course.kernels.parts.modes import torch_function
from course.operators import custom_op

ROW_BYTES = 1 << 17  # that one program holds in registers
THREAD_BYTES = 64  # that one thread loads: four vectors
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_kernel(
    x_ptr, y_ptr, n_rows, n_cols, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """BLOCK_M rows of x (n_batch, n_rows, n_cols), each in one block; `norms.rows` explains the arguments."""
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
    """What stands for elements that do not exist: (1, BLOCK_N).

    Past the end of a row -inf, as exp(-inf) = 0 adds nothing to the sum; in rows that do not exist 0, as a row of -inf
    would give -inf - -inf = NaN, of which the interpreter warns.
    """
    return tl.where(tl.arange(0, BLOCK_N) < n_cols, 0.0, -float("inf"))[None, :]


@triton.jit
def long_softmax_kernel(
    x_ptr, y_ptr, n_rows, n_cols, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """BLOCK_M rows of x (n_batch, n_rows, n_cols), in blocks of BLOCK_N columns, in two passes."""
    batch, row = first_row(n_rows, BLOCK_M)

    # m: the maximum at each place of the block so far, and s: the sum of exp(x - m) there. m begins with the lowest
    # finite number: with -inf, a row that begins with -inf would become NaN
    m = tl.full((BLOCK_M, BLOCK_N), -3.4028234663852886e38, tl.float32)
    s = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for col in range(0, n_cols, BLOCK_N):
        inside = tile_mask(row, col, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x_offs = tile_offsets(batch, row, col, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x = tl.load(x_ptr + x_offs, mask=inside, other=padding(n_cols - col, BLOCK_N)).to(tl.float32)
        # of exp(m - new m) and exp(x - new m) one is exp(0) = 1, and the other one is e
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


@torch_function("float32")
def softmax(
    input: torch.Tensor, dim: int = -1, dtype: torch.dtype | None = None, *, _stacklevel: int = 3
) -> torch.Tensor:
    """Softmax of `input` (float32, float16 or bfloat16, any shape) over dimension `dim`, as `torch.softmax`.

    With a `dtype`, `input` is converted first. Computes in float32 and rounds once; terms below 2**-126 of the row's
    largest may come out as 0. `dim` is the last dimension unless given, and not one that depends on the shape, as in
    PyTorch, which warns of it, `_stacklevel` calls above. Raises ValueError on a `dim` that input does not have,
    TypeError on another dtype.
    """
    if dtype is not None and isinstance(input, torch.Tensor):
        if dtype not in FLOATS:
            got = in_one_line(dtype)
            raise TypeError(f"softmax: expected dtype to be None, float32, float16 or bfloat16, got {got}")
        input = input.to(dtype)
    check_tensors("softmax", input=input)
    return _softmax(input, check_dim("softmax", dim, max(input.ndim, 1)))


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
