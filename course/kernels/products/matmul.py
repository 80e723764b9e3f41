"""Matrix product, one matrix or a batch of them.

    out[m, n] = sum over k of a[m, k] * b[k, n]

A program owns a tile of BLOCK_M x BLOCK_N sums and walks along K, BLOCK_K products at a step. What it loads at a step
serves the whole tile: an element of a BLOCK_N sums and an element of b BLOCK_M of them, so that the larger the tile,
the less is loaded. `linear` and everything else that multiplies matrices does so by `compute_product`, with an epilogue
for the sums while they are still in registers:

    out = activation(a @ b + bias) + residual

Cost: 2 * M * N * K operations, and (M * K + K * N + M * N) * itemsize bytes if everything moves once. Square matrices
of 4096 in bfloat16 do 1365 operations a byte: far more than any GPU's memory can hold up.

The engines; those that can run are measured, and the fastest computes. H200, bfloat16:

    hopper      16 bits, operands of a linear layer, on Hopper: M, K, N = 12608, 768, 3072 in 87 us (cuBLAS 94)
    tma         one matrix that TMA can read, capability 9.0 or 10.0: M = K = N = 8192 in 1.43 ms (cuBLAS 1.47)
    pointers    everything else, such as batches; it also wins for layers of a ViT where M is at most 64
"""
import torch

from course.kernels.parts.checks import broadcast_shapes, check_no_out, check_tensors
from course.kernels.parts.modes import torch_function
from course.kernels.products import hopper, pointers, tma
from course.kernels.products.epilogue import Epilogue
from course.kernels.products.problem import ProductOperands, product_problem
from course.operators import custom_op
from course.precision import matmul_precision
from course.tuning import Engines

ENGINES = Engines("matmul", hopper, tma, pointers, compete=True)


@torch_function("lower")
def matmul(input: torch.Tensor, other: torch.Tensor, *, out: None = None) -> torch.Tensor:
    """Product of `input` (..., M, K) and `other` (..., K, N), as `torch.matmul`.

    Both of one dtype (float32, float16, bfloat16). Batch dimensions broadcast. A one-dimensional `input` is a row, a
    one-dimensional `other` a column, and the result lacks that dimension. Any strides; nothing is copied. Sums are
    float32; float32 operands are multiplied as TF32 where torch.backends.cuda.matmul.allow_tf32 allows it. Raises
    ValueError on shapes that do not fit, on unequal devices and on an `out`, TypeError on unequal or other dtypes.
    """
    check_tensors("matmul", input=input, other=other)
    check_no_out("matmul", out)
    got = f"got input {tuple(input.shape)}, other {tuple(other.shape)}"
    if input.ndim == 0 or other.ndim == 0:
        raise ValueError(f"matmul: expected tensors of at least one dimension, {got}")
    if input.shape[-1] != other.shape[-2 if other.ndim > 1 else 0]:
        raise ValueError(f"matmul: expected input (..., M, K) and other (..., K, N) of one K, {got}")
    try:
        broadcast_shapes(input.shape[:-2], other.shape[:-2])
    except RuntimeError:
        raise ValueError(f"matmul: expected batch dimensions that broadcast, {got}") from None
    return _matmul(input, other)


@custom_op("matmul")
def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    rows = a if a.ndim > 1 else a[None, :]
    cols = b if b.ndim > 1 else b[:, None]
    batch = broadcast_shapes(rows.shape[:-2], cols.shape[:-2])
    out = a.new_empty(*batch, rows.shape[-2], cols.shape[-1])
    rows, cols = (t if t.shape[:-2] == batch else t.expand(*batch, -1, -1) for t in (rows, cols))
    compute_product(rows, cols, out)
    out = out if b.ndim > 1 else out.squeeze(-1)
    return out if a.ndim > 1 else out.squeeze(len(batch))


@torch.library.register_fake(_matmul)
def _(a, b):
    return torch.matmul(a, b)


def compute_product(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    prefetch: torch.Tensor | None = None,
    norm_statistics: torch.Tensor | None = None,
    norm_sums: torch.Tensor | None = None,
    norm_eps: float | None = None,
    statistics: torch.Tensor | None = None,
) -> None:
    """Writes activation(a @ b + bias) + residual to `out`, contiguous; all (*batch, rows, columns), but the bias.

    A `b` of two dimensions is one for the whole batch. `prefetch`, contiguous, is brought to the L2 cache for a later
    kernel. Of single matrices, a's rows can be normalised by their statistics, with b's column sums and an eps, and
    those of out's rows can be stored: see `Epilogue`.
    """
    if out.numel() == 0:
        return
    addresses = a.data_ptr() | b.data_ptr() | out.data_ptr() | (0 if residual is None else residual.data_ptr())
    problem = product_problem(
        out.shape, a.shape[-1], out.stride(), a.stride(), b.stride(), None if residual is None else residual.stride(),
        out.dtype, matmul_precision(out.dtype), activation, norm_statistics is not None, statistics is not None,
        addresses % 16 == 0,
    )
    norm_stride = None if norm_statistics is None else norm_statistics.stride(0)
    bias_stride = None if bias is None else bias.stride(0)
    residual_strides = (None, None) if residual is None else problem.residual_strides[-2:]
    epilogue = Epilogue(
        norm_statistics, norm_stride, norm_sums, norm_eps, bias, bias_stride, residual, *residual_strides, statistics
    )
    prefetch_size = 0 if prefetch is None else prefetch.numel()
    ENGINES.compute(problem, ProductOperands(a, b, out, epilogue, prefetch, prefetch_size))
