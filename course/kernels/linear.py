"""Linear layer, with its activation and the residual that follows it.

    y[m, n] = act(sum over k of x[m, k] * weight[n, k] + bias[n]) + residual[m, n]

The matrix product of `matmul` with the weights transposed: only their strides change places. What follows the sum
happens while the tile is still in registers. An activation of its own would read and write the result once more, and
an addition read it, read the residual and write it: 2 and 3 times M * N * itemsize bytes, where the fused layer reads
the residual alone.

Cost: 2 * M * N * K operations, and (M * K + K * N + N + 2 * M * N) * itemsize bytes, residual included, if everything
moves once.
"""
import torch

from course.kernels._activation import ACTIVATIONS
from course.kernels._checks import check_tensors
from course.kernels.matmul import multiply
from course.runtime import custom_op


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    ahead: torch.Tensor | None = None,
) -> torch.Tensor:
    """act(x @ weight.T + bias) + residual, everything but the keywords as `torch.nn.functional.linear`.

    x is (..., K), weight (N, K), bias (N,), residual (..., N) as the result; all of one dtype (float32, float16,
    bfloat16), any strides. `activation` is None, "relu", "gelu" or "gelu_tanh". Sums and what follows them are
    float32, rounded once; float32 operands are multiplied as TF32 where torch.backends.cuda.matmul.allow_tf32 allows
    it. `ahead`, contiguous, is what a later kernel will read: this one brings it to the GPU's cache. Raises ValueError
    on shapes that do not fit and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_linear("linear", x, weight, bias, residual, activation, ahead)
    return _linear(x, weight, bias, residual, activation, ahead)


def check_linear(op: str, x, weight, bias, residual, activation, ahead) -> None:
    """Raises what `linear` does, in the name of `op`."""
    check_tensors(op, x=x, weight=weight, bias=bias, residual=residual, ahead=ahead)
    if weight.ndim != 2:
        raise ValueError(f"{op}: expected weight (N, K), got {tuple(weight.shape)}")
    N, K = weight.shape
    if x.ndim == 0 or x.shape[-1] != K:
        raise ValueError(f"{op}: expected x (..., {K}) for weight {tuple(weight.shape)}, got {tuple(x.shape)}")
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"{op}: expected bias ({N},), got {tuple(bias.shape)}")
    if residual is not None and residual.shape != (*x.shape[:-1], N):
        raise ValueError(f"{op}: expected residual {(*x.shape[:-1], N)}, got {tuple(residual.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: expected activation to be one of {list(ACTIVATIONS)}, got {activation!r}")
    if ahead is not None and not ahead.is_contiguous():
        raise ValueError(f"{op}: expected ahead to be contiguous, got strides {ahead.stride()}")


@custom_op("linear")
def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    activation: str | None, ahead: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    rows, out_rows, residual_rows = (t if t is None or t.ndim > 1 else t[None, :] for t in (x, out, residual))
    multiply(rows, weight.mT, out_rows, bias, residual_rows, activation, ahead)
    return out


@torch.library.register_fake(_linear)
def _(x, weight, bias, residual, activation, ahead=None):
    return torch.nn.functional.linear(x, weight, bias)
