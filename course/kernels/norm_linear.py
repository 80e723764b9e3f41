"""Layer norm and the linear layer after it, as one product: the norm has no kernel, and its result is never written.

With mean m and rstd r = 1 / sqrt(variance + eps) of each row of x, the norm's weight g and bias h:

    y[i, n] = act(sum over k of ((x[i, k] - m[i]) * r[i] * g[k] + h[k]) * w[n, k] + b[n])
            = act(r[i] * (sum over k of x[i, k] * w'[n, k] - m[i] * s[n]) + b'[n])

    w'[n, k] = w[n, k] * g[k],    s[n] = sum over k of w'[n, k],    b'[n] = b[n] + sum over k of w[n, k] * h[k]

w', s and b' belong to the weights and are made once, by `fold_norm`. What remains of the norm is a subtraction and a
multiplication for each sum, and m and r, for which nobody has to read x: the kernel that wrote it had its rows in
registers, piece by piece, and left what `mean_and_rstd` needs (`linear_with_statistics`).

Cost beside the product's: (K / 32) * 8 bytes a row, written once and read once for each tile. A layer norm would read
and write M * K elements, and be a launch of its own, which is what counts where rows are few. Where they are many, what
every tile does more at its end takes longer than the norm's one pass (course/fast_vit.py draws the line).

The mean is subtracted after the product, from sums that it is part of: they lose as many digits as |m| * r has.
"""
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._checks import check_tensors
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._matmul_tile import Norm
from course.kernels._row_statistics import PART, empty_statistics, number_of_parts, store_statistics
from course.kernels._sizes import cdiv, next_power_of_2
from course.kernels.linear import check_linear
from course.kernels.matmul import multiply
from course.runtime import custom_op


class FoldedNorm(NamedTuple):
    """A linear layer that has taken in the norm before it: `weight` (N, K), `bias` (N,), and in float32 `sums` (N,)."""

    weight: torch.Tensor
    bias: torch.Tensor
    sums: torch.Tensor


def fold_norm(
    weight: torch.Tensor, bias: torch.Tensor | None, norm_weight: torch.Tensor, norm_bias: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> FoldedNorm:  # fmt: skip
    """Parameters for `norm_linear`, from those of a linear layer, (N, K) and (N,), and of a layer norm, (K,) both.

    The folded weight and bias are of `dtype`, by default weight's. The sums are those of the rounded numbers, so that
    a row's mean cancels.
    """
    wide = weight.float()
    folded = (wide * norm_weight.float()).to(dtype or weight.dtype)
    shift = (wide * norm_bias.float()).sum(1)
    shift = shift if bias is None else shift + bias.float()
    return FoldedNorm(folded, shift.to(folded.dtype), folded.float().sum(1))


@triton.jit
def row_statistics_kernel(
    x_ptr, statistics_ptr, stride_xm, n_rows, n_cols, PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + rows.to(tl.int64)[:, None] * stride_xm + cols[None, :], mask=inside)  # int64: may pass 2**31
    store_statistics(x.to(tl.float32), statistics_ptr, rows, tl.program_id(1) * BLOCK_N, n_rows, n_cols, PARTS)


def row_statistics(x: torch.Tensor) -> torch.Tensor:
    """What `norm_linear` needs to know of the rows of `x` (..., K): (..., 2, parts), float32.

    float32, float16 or bfloat16, any strides. Raises ValueError where K is 0 or x a scalar, TypeError on other dtypes.
    """
    check_tensors("row_statistics", x=x)
    check_columns("row_statistics", x)
    return _row_statistics(x)


def check_columns(op: str, x: torch.Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{op}: expected x (..., K) with K of at least 1, got {tuple(x.shape)}")


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
        rows, statistics, rows.stride(0), n_rows, n_cols, PARTS=statistics.shape[-1], BLOCK_M=block_m, BLOCK_N=block_n,
        **early_start(math.prod(grid)),
    )  # fmt: skip
    return statistics


def as_matrix(t: torch.Tensor) -> torch.Tensor:
    """`t` (..., K) as (rows, K) with a row's elements side by side; a copy where its strides allow no view."""
    rows = t.reshape(t.numel() // t.shape[-1], t.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


@torch.library.register_fake(_row_statistics)
def _(x):
    return empty_statistics(x)


def linear_with_statistics(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    ahead: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, row_statistics(y)) with y = linear(x, weight, bias, residual=residual, ahead=ahead), in the same kernel."""
    check_linear("linear_with_statistics", x, weight, bias, residual, None, ahead)
    return _linear_with_statistics(x, weight, bias, residual, ahead)


@custom_op("linear_with_statistics")
def _linear_with_statistics(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    ahead: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    statistics = empty_statistics(out)
    if out.numel() > 0:
        n_rows = out.numel() // out.shape[-1]
        rows, out_rows, residual_rows = (t if t is None else t.reshape(n_rows, t.shape[-1]) for t in (x, out, residual))
        multiply(rows, weight.T, out_rows, bias, residual_rows, ahead=ahead, statistics=statistics)
    return out, statistics


@torch.library.register_fake(_linear_with_statistics)
def _(x, weight, bias, residual, ahead):
    out = torch.nn.functional.linear(x, weight, bias)
    return out, empty_statistics(out)


def norm_linear(
    x: torch.Tensor,
    statistics: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    sums: torch.Tensor,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    ahead: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(linear(layer_norm(x))), with the norm folded into `weight`, `bias` and `sums` by `fold_norm`.

    x is (..., K), weight (N, K) and bias (N,), of one dtype (float32, float16, bfloat16); statistics, which are
    row_statistics(x), and sums (N,) are float32. `activation` and `ahead` are those of `linear`. Raises ValueError on
    shapes that do not fit and on unequal devices, TypeError on other dtypes.
    """
    check_linear("norm_linear", x, weight, bias, None, activation, ahead)
    check_columns("norm_linear", x)
    check_tensors("norm_linear", statistics=statistics, sums=sums)
    expected = {"statistics": (*x.shape[:-1], 2, number_of_parts(x.shape[-1])), "sums": tuple(weight.shape[:1])}
    if statistics.dtype != torch.float32:
        raise TypeError(f"norm_linear: expected statistics in torch.float32, got {statistics.dtype}")
    if statistics.device != x.device:
        raise ValueError(f"norm_linear: expected statistics on {x.device} as x, got {statistics.device}")
    for name, t in (("statistics", statistics), ("sums", sums)):
        if tuple(t.shape) != expected[name]:
            raise ValueError(f"norm_linear: expected {name} {expected[name]}, got {tuple(t.shape)}")
    return _norm_linear(x, statistics, weight, bias, sums, eps, activation, ahead)


@custom_op("norm_linear")
def _norm_linear(
    x: torch.Tensor, statistics: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, sums: torch.Tensor, eps: float,
    activation: str | None, ahead: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    if out.numel() > 0:
        known = as_matrix(statistics.flatten(-2))
        norm = Norm(known, known.stride(0), sums.contiguous(), eps)
        out_rows = out.view(-1, out.shape[-1])
        multiply(as_matrix(x), weight.T, out_rows, bias, activation=activation, ahead=ahead, norm=norm)
    return out


@torch.library.register_fake(_norm_linear)
def _(x, statistics, weight, bias, sums, eps, activation, ahead):
    return torch.nn.functional.linear(x, weight)
