"""Layer normalisation over the last dimensions (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    y[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]

Mean and variance (of the population, divided by n) are those of one row. The mean of squares less the square of the
mean would need one sum fewer, and lose every digit where the mean is large against the deviation. Of a row of equal
numbers nothing is left, exactly: `parts.means` says how. Which kernel runs depends on the length of a row:

    layer_norm_kernel         up to 32,768 elements (64 KiB where a row crosses memory). They stay in registers from the
                              mean through the centred squares to the result: x is read once and y written once, 2 * n
                              * itemsize bytes. An H200 takes 35.5 us for 43,690 rows of 768 in float16 (PyTorch 92.2)
    long_layer_norm_kernel    longer rows, read twice: 3 * n * itemsize bytes. The first pass has Welford's running mean
                              and variance, combined by the formula of Chan, Golub and LeVeque (1983)
"""
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from course.kernels.norms.rows import find_rows, first_row, tile_mask, tile_offsets
from course.kernels.parts.checks import check_with_parameters, integer, number
from course.kernels.parts.means import mean_of_parts, row_means
from course.kernels.parts.modes import torch_function
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.vectors import aligned
from course.operators import custom_op

ONE_BLOCK = 1 << 15  # elements that one program holds in registers
PER_THREAD = 32  # at most, in one thread: one warp has a whole row of up to 1,024, and needs no other warp for its sum


@triton.jit
def layer_norm_kernel(
    x_ptr, y_ptr, weight_ptr, bias_ptr, eps, n_rows, N_COLS: tl.constexpr, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):
    """BLOCK_M rows of x (n_batch, n_rows, N_COLS), each in one block; `norms.rows` explains the arguments.

    N_COLS is compiled in, which takes half a second for every width. So for a row of 768 in a block of 1,024 there are
    no instructions for the rest: an H200 normalises 43,690 of them in float16 in 34.4 us, and otherwise in 37.7.
    """
    pdl_wait(PDL)
    batch, row = first_row(n_rows, BLOCK_M)
    inside = tile_mask(row, 0, n_rows, N_COLS, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    x_offs = tile_offsets(batch, row, 0, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    x = tl.load(x_ptr + x_offs, mask=inside, other=0.0).to(tl.float32)
    # loaded here, weight and bias arrive while the sums are computed; beside a long row no registers are left for them
    LATE: tl.constexpr = BLOCK_N > 16384
    if not LATE:
        weight, bias = load_affine(weight_ptr, bias_ptr, 0, N_COLS, ALIGN_N, BLOCK_N)
    mean = row_means(x, inside, tl.cast(N_COLS, tl.float32), x_ptr.dtype.element_ty)[:, None]
    centred = tl.where(inside, x - mean, 0.0)  # the padding would add mean**2
    variance = tl.sum(centred * centred, axis=1, keep_dims=True) / N_COLS
    rstd = tl.rsqrt(variance + eps)
    if LATE:
        weight, bias = load_affine(weight_ptr, bias_ptr, 0, N_COLS, ALIGN_N, BLOCK_N)
    y = centred * rstd * weight + bias
    y_offs = tile_offsets(batch, row, 0, y_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
    tl.store(y_ptr + y_offs, y, mask=inside)


@triton.jit
def long_layer_norm_kernel(
    x_ptr, y_ptr, weight_ptr, bias_ptr, eps, n_rows, n_cols, x_strides, y_strides,
    ALIGN_M: tl.constexpr, ALIGN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):
    """BLOCK_M rows of x (n_batch, n_rows, n_cols), in blocks of BLOCK_N columns, in two passes."""
    pdl_wait(PDL)
    batch, row = first_row(n_rows, BLOCK_M)

    # each place in the block keeps the mean of what it has seen, and the sum of the squared deviations from it
    means = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for col in range(0, n_cols, BLOCK_N):
        inside = tile_mask(row, col, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x_offs = tile_offsets(batch, row, col, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x = tl.load(x_ptr + x_offs, mask=inside, other=0.0).to(tl.float32)
        delta = tl.where(inside, x - means, 0.0)
        means += delta * (1.0 / (col // BLOCK_N + 1))
        squares += delta * (x - means)
    counts = tl.cdiv(n_cols - tl.arange(0, BLOCK_N), BLOCK_N).to(tl.float32)[None, :]
    mean = mean_of_parts(means, counts, n_cols)[:, None]
    shift = means - mean
    variance = tl.sum(squares + shift * shift * counts, axis=1, keep_dims=True) / n_cols
    rstd = tl.rsqrt(variance + eps)

    for col in range(0, n_cols, BLOCK_N):
        inside = tile_mask(row, col, n_rows, n_cols, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x_offs = tile_offsets(batch, row, col, x_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        x = tl.load(x_ptr + x_offs, mask=inside).to(tl.float32)
        weight, bias = load_affine(weight_ptr, bias_ptr, col, n_cols, ALIGN_N, BLOCK_N)
        y = (x - mean) * rstd * weight + bias
        y_offs = tile_offsets(batch, row, col, y_strides, ALIGN_M, ALIGN_N, BLOCK_M, BLOCK_N)
        tl.store(y_ptr + y_offs, y, mask=inside)


@triton.jit
def load_affine(weight_ptr, bias_ptr, col, n_cols, ALIGN_N: tl.constexpr, BLOCK_N: tl.constexpr):
    """weight and bias from column `col` on, (1, BLOCK_N) in float32; without them, the numbers 1 and 0."""
    offs = tl.arange(0, BLOCK_N)
    inside = offs < aligned(n_cols - col, ALIGN_N)
    weight = 1.0
    bias = 0.0
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + col + offs, mask=inside).to(tl.float32)[None, :]
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + col + offs, mask=inside).to(tl.float32)[None, :]
    return weight, bias


@torch_function("float32")
def layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`input` (..., *normalized_shape) normalised over its last dimensions, as `torch.nn.functional.layer_norm`.

    `weight` and `bias` have shape `normalized_shape`; either may be None. float32, float16 or bfloat16, and
    the parameters of that dtype or both float32; computes in float32 and rounds once. Raises ValueError on shapes that
    do not match and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_with_parameters("layer_norm", "input", input, weight=weight, bias=bias)
    if not isinstance(normalized_shape, Sequence):
        got = type(normalized_shape).__name__
        raise TypeError(f"layer_norm: expected normalized_shape to be a sequence of sizes, got {got}")
    shape = tuple([integer("layer_norm", "normalized_shape", size) for size in normalized_shape])
    if not shape:
        raise ValueError("layer_norm: expected normalized_shape of one size or more, got ()")
    if tuple(input.shape[-len(shape) :]) != shape:
        raise ValueError(f"layer_norm: expected input to end in normalized_shape {shape}, got {tuple(input.shape)}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"layer_norm: expected {name} of shape {shape}, got {tuple(t.shape)}")
    return _layer_norm(input, shape, weight, bias, number("layer_norm", "eps", eps))


@custom_op("layer_norm")
def _layer_norm(
    x: torch.Tensor, normalized_shape: Sequence[int], weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return y
    x, rows = find_rows(x, y, x.ndim - len(normalized_shape), x.ndim, ONE_BLOCK, PER_THREAD)
    kernel = layer_norm_kernel if rows.one_block else long_layer_norm_kernel
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    kernel[rows.grid](
        x, y, weight, bias, eps, *rows.sizes, rows.x_strides, rows.y_strides, **rows.tile,
        **pdl_options(math.prod(rows.grid)),
    )
    return y


@torch.library.register_fake(_layer_norm)
def _(x, normalized_shape, weight, bias, eps):
    return torch.nn.functional.layer_norm(x, normalized_shape, weight, bias, eps)
