"""Layer norm and the linear layer after it, as one product: the norm has no kernel, and its result is never written.

With mean m and rstd r = 1 / sqrt(variance + eps) of each row of x, the norm's weight g and bias h:

    y[i, n] = act(sum over k of ((x[i, k] - m[i]) * r[i] * g[k] + h[k]) * w[n, k] + b[n])
            = act(r[i] * (sum over k of x[i, k] * w'[n, k] - m[i] * s[n]) + b'[n])

    w'[n, k] = w[n, k] * g[k],    s[n] = sum over k of w'[n, k],    b'[n] = b[n] + sum over k of w[n, k] * h[k]

w', s and b' belong to the weights and are made once, by `fold_norm`. What remains of the norm is a subtraction and a
multiplication for each sum, and m and r. They take no pass over x: the kernel that wrote x had its rows in registers,
piece by piece, and stored the statistics that give m and r (`linear_with_statistics`).

Cost beside the product's: (K / 32) * 8 bytes a row, written once and read once for each tile. A layer norm would read
and write M * K elements, and be a launch of its own, which is what counts where rows are few. Where they are many, what
every tile does more at its end takes longer than the norm's one pass (course/fast/vit.py draws the line).

The mean is subtracted after the product, from sums that it is part of: they lose as many digits as |m| * r has. Of a
row of equal numbers nothing but rounding errors would be left. Its statistics are exact: m is that number and the
variance 0, of which r is made 0, so that y = act(b') exactly. (With eps = 0 it is 0 / 0, NaN, as PyTorch's layer_norm.)
"""
from typing import NamedTuple

import torch

from course.kernels.parts.activation import Activation
from course.kernels.parts.checks import check_tensors, number
from course.kernels.parts.modes import torch_function
from course.kernels.products.linear import check_linear
from course.kernels.products.matmul import compute_product
from course.kernels.products.row_statistics import as_matrix, check_columns, empty_statistics, number_of_parts
from course.operators import custom_op


class FoldedNorm(NamedTuple):
    """A linear layer that has taken in the norm before it: `weight` (N, K), `bias` (N,), and in float32 `sums` (N,)."""

    weight: torch.Tensor
    bias: torch.Tensor
    sums: torch.Tensor


def fold_norm(
    weight: torch.Tensor, bias: torch.Tensor | None, norm_weight: torch.Tensor, norm_bias: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> FoldedNorm:
    """Parameters for `norm_linear`, from those of a linear layer, (N, K) and (N,), and of a layer norm, (K,) both.

    The folded weight and bias are of `dtype`, by default weight's. The sums are those of the rounded numbers, so that
    a row's mean cancels.
    """
    wide = weight.float()
    folded = (wide * norm_weight.float()).to(dtype or weight.dtype)
    shift = (wide * norm_bias.float()).sum(1)
    shift = shift if bias is None else shift + bias.float()
    return FoldedNorm(folded, shift.to(folded.dtype), folded.float().sum(1))


@torch_function("lower", kept=("prefetch",))
def linear_with_statistics(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    prefetch: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, row_statistics(y)) for y = linear(input, weight, bias, residual=…, prefetch=…), in one kernel."""
    check_linear("linear_with_statistics", input, weight, bias, residual, None, prefetch)
    return _linear_with_statistics(input, weight, bias, residual, prefetch)


@custom_op("linear_with_statistics")
def _linear_with_statistics(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    prefetch: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    statistics = empty_statistics(out)
    if out.numel() > 0:
        n_rows = out.numel() // out.shape[-1]
        rows, out_rows, residual_rows = (t if t is None else t.reshape(n_rows, t.shape[-1]) for t in (x, out, residual))
        compute_product(rows, weight.T, out_rows, bias, residual_rows, prefetch=prefetch, statistics=statistics)
    return out, statistics


@torch.library.register_fake(_linear_with_statistics)
def _(x, weight, bias, residual, prefetch):
    out = torch.nn.functional.linear(x, weight, bias)
    return out, empty_statistics(out)


@torch_function("lower", kept=("statistics", "sums", "prefetch"))
def norm_linear(
    input: torch.Tensor,
    statistics: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    sums: torch.Tensor,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    prefetch: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(linear(layer_norm(input))), with the norm folded into `weight`, `bias` and `sums` by `fold_norm`.

    input is (..., K), weight (N, K) and bias (N,), of one dtype (float32, float16, bfloat16); statistics, which are
    row_statistics(input), and sums (N,) are float32. `activation` and `prefetch` are those of `linear`. Raises
    ValueError on shapes that do not fit and on unequal devices, TypeError on other dtypes.
    """
    check_linear("norm_linear", input, weight, bias, None, activation, prefetch)
    check_columns("norm_linear", input)
    check_tensors("norm_linear", statistics=statistics, sums=sums)
    expected = {"statistics": (*input.shape[:-1], 2, number_of_parts(input.shape[-1])), "sums": tuple(weight.shape[:1])}
    if statistics.dtype != torch.float32:
        raise TypeError(f"norm_linear: expected statistics in torch.float32, got {statistics.dtype}")
    if statistics.device != input.device:
        raise ValueError(f"norm_linear: expected statistics on {input.device} as input, got {statistics.device}")
    for name, t in (("statistics", statistics), ("sums", sums)):
        if tuple(t.shape) != expected[name]:
            raise ValueError(f"norm_linear: expected {name} {expected[name]}, got {tuple(t.shape)}")
    return _norm_linear(input, statistics, weight, bias, sums, number("norm_linear", "eps", eps), activation, prefetch)


@custom_op("norm_linear")
def _norm_linear(
    x: torch.Tensor, statistics: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, sums: torch.Tensor, eps: float,
    activation: str | None, prefetch: torch.Tensor | None,
) -> torch.Tensor:
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    if out.numel() > 0:
        compute_product(
            as_matrix(x), weight.T, out.view(-1, out.shape[-1]), bias, activation=activation, prefetch=prefetch,
            norm_statistics=as_matrix(statistics.flatten(-2)), norm_sums=sums.contiguous(), norm_eps=eps,
        )
    return out


@torch.library.register_fake(_norm_linear)
def _(x, statistics, weight, bias, sums, eps, activation, prefetch):
    return torch.nn.functional.linear(x, weight)
