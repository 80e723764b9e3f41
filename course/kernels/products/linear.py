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

from course.kernels.parts.activation import ACTIVATIONS, Activation
from course.kernels.parts.checks import check_one_of, check_tensors
from course.kernels.parts.modes import torch_function
from course.kernels.products.matmul import compute_product
from course.operators import custom_op


@torch_function("lower", kept=("prefetch",))
def linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    prefetch: torch.Tensor | None = None,
) -> torch.Tensor:
    """act(input @ weight.T + bias) + residual, everything but the keywords as `torch.nn.functional.linear`.

    input is (..., K), weight (N, K), bias (N,), residual (..., N) as the result; all of one dtype (float32, float16,
    bfloat16), any strides. `activation` is None or one of `Activation`. Sums and what follows them are float32, rounded
    once; float32 operands are multiplied as TF32 where torch.backends.cuda.matmul.allow_tf32 allows
    it. `prefetch`, contiguous, is what a later kernel will read: this one brings it to the GPU's L2 cache. Raises
    ValueError on shapes that do not fit and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_linear("linear", input, weight, bias, residual, activation, prefetch)
    return _linear(input, weight, bias, residual, activation, prefetch)


def check_linear(op: str, input, weight, bias, residual, activation, prefetch) -> None:
    """Checks the arguments of `op`, which are those of `linear`, and raises the errors that `linear` documents."""
    check_tensors(op, input=input, weight=weight, bias=bias, residual=residual, prefetch=prefetch)
    if weight.ndim != 2:
        raise ValueError(f"{op}: expected weight (N, K), got {tuple(weight.shape)}")
    N, K = weight.shape
    if input.ndim == 0 or input.shape[-1] != K:
        raise ValueError(f"{op}: expected input (..., {K}) for weight {tuple(weight.shape)}, got {tuple(input.shape)}")
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"{op}: expected bias ({N},), got {tuple(bias.shape)}")
    if residual is not None and residual.shape != (*input.shape[:-1], N):
        raise ValueError(f"{op}: expected residual {(*input.shape[:-1], N)}, got {tuple(residual.shape)}")
    check_one_of(op, "activation", activation, ACTIVATIONS)
    if prefetch is not None and not prefetch.is_contiguous():
        raise ValueError(f"{op}: expected prefetch to be contiguous, got strides {prefetch.stride()}")


@custom_op("linear")
def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    activation: str | None, prefetch: torch.Tensor | None = None,
) -> torch.Tensor:
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    rows, out_rows, residual_rows = x, out, residual
    if x.ndim == 1:
        rows, out_rows, residual_rows = x[None, :], out[None, :], None if residual is None else residual[None, :]
    compute_product(rows, weight.mT, out_rows, bias, residual_rows, activation, prefetch)
    return out


@torch.library.register_fake(_linear)
def _(x, weight, bias, residual, activation, prefetch=None):
    return torch.nn.functional.linear(x, weight, bias)
