"""What becomes of the sums of a product, while they are still in registers.

    out = activation(normalised(a @ b) + bias) + residual

The kernels take all of it but the activation as one argument, an `Epilogue`. What must be known when they are compiled
are constexpr arguments of their own, `Product.finishing_options`:

    ACTIVATION  the activation's function
    A_PARTS     parts of a row of a whose statistics the norm loads
    OUT_PARTS   parts of a row of out whose statistics are stored, and whether all of them are whole

each None where there is no such thing.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course.kernels.products.row_statistics import load_statistics, mean_and_rstd, store_statistics


class Epilogue(NamedTuple):
    """The tensors that finish a product, and their strides in elements; None where there is no such thing.

    It is flat because Triton 3.6 cannot take a stride of 1 in a tuple within a tuple into a loop.
    """

    norm_statistics: torch.Tensor | None = None
    """(M, 2 * parts), float32: those of a's rows, which a norm normalises, in the form of `row_statistics`"""
    norm_stride: int | None = None
    """from one row of `norm_statistics` to the next, whose elements are adjacent"""
    norm_sums: torch.Tensor | None = None
    """(N,), float32, contiguous: the sums of b's columns"""
    norm_eps: float | None = None
    bias: torch.Tensor | None = None
    """(N,)"""
    bias_stride: int | None = None
    residual: torch.Tensor | None = None
    """(M, N), or a batch"""
    residual_stride_m: int | None = None
    residual_stride_n: int | None = None
    statistics: torch.Tensor | None = None
    """(M, 2 * parts), contiguous, float32: where those of out's rows are stored"""


NO_EPILOGUE = Epilogue()
"""For a kernel that leaves its sums to another one, which finishes them."""


@triton.jit
def finish_tile(
    acc, out_ptr, epilogue, residual_offset, first_m, first_n, M, N, K,
    ACTIVATION: tl.constexpr, A_PARTS: tl.constexpr, OUT_PARTS: tl.constexpr,
):
    """Finishes the tile `acc` of float32 sums, and stores it in the contiguous matrix (M, N) at `out_ptr`.

    The tile begins at row `first_m` and column `first_n`; `residual_offset` is where its matrix of the residual begins.
    """
    offs_m = first_m + tl.arange(0, acc.shape[0])
    offs_n = first_n + tl.arange(0, acc.shape[1])
    if epilogue.norm_statistics is not None:
        means, squares = load_statistics(epilogue.norm_statistics, epilogue.norm_stride, offs_m, M, K, A_PARTS)
        row_norms = mean_and_rstd(means, squares, K, epilogue.norm_eps)
        acc = normalise_sums(acc, row_norms, tl.load(epilogue.norm_sums + offs_n, mask=offs_n < N))
    if epilogue.bias is not None:
        bias = tl.load(epilogue.bias + offs_n * epilogue.bias_stride, mask=offs_n < N)
        acc += bias.to(tl.float32)[None, :]
    if ACTIVATION is not None:
        acc = ACTIVATION(acc)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    rows, cols = offs_m.to(tl.int64)[:, None], offs_n.to(tl.int64)[None, :]  # int64: M * N may pass 2**31
    if epilogue.residual is not None:
        row_ptrs = epilogue.residual + residual_offset + rows * epilogue.residual_stride_m
        acc += tl.load(row_ptrs + cols * epilogue.residual_stride_n, mask=inside).to(tl.float32)
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows * N + cols, out, mask=inside)
    if epilogue.statistics is not None:
        store_statistics(out, epilogue.statistics, offs_m, first_n, M, N, OUT_PARTS)


@triton.jit
def normalise_sums(acc, row_norms, sums):
    """The sums that normalised rows would have given. `row_norms` are the rows' (mean, rstd), `sums` b's columns'."""
    return (acc - row_norms[0][:, None] * sums[None, :]) * row_norms[1][:, None]
