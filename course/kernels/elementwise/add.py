"""Elementwise sum of two tensors.

    out[i] = x[i] + y[i]

Three elements move for one addition: 3 * n * itemsize bytes, which take all of the time.
"""
import torch
import triton
import triton.language as tl  # noqa: F401  the interpreter needs it in the module of every jit function

from course.kernels.elementwise import pointwise
from course.kernels.elementwise.operands import operands
from course.kernels.parts.checks import number
from course.kernels.parts.modes import torch_function
from course.operators import custom_op


@triton.jit
def add_op(x, y):
    return x + y


@triton.jit
def add_scaled_op(x, y, alpha):
    return x + alpha * y


@torch_function("widest")
def add(input: torch.Tensor, other: torch.Tensor | float, *, alpha: float = 1, out: None = None) -> torch.Tensor:
    """input + alpha * other, broadcast as `torch.add` does.

    Both of one dtype (float32, float16, bfloat16), or `other` a number; of two tensors, one without dimensions may be
    of any real dtype. Adds in float32 and rounds once. Raises ValueError on shapes that do not broadcast, on unequal
    devices and on an `out`, TypeError on unequal or other dtypes.
    """
    input, other, scalar = operands("add", input, other, out)
    if type(alpha) is not int or alpha != 1:
        if isinstance(alpha, bool):
            raise TypeError(f"add: expected alpha to be a number, got {alpha}")
        alpha = number("add", "alpha", alpha)
        scalar = alpha if scalar is None else alpha * scalar
    return _add(input, other, scalar)


@custom_op("add")
def _add(x: torch.Tensor, y: torch.Tensor | None, scalar: float | None = None) -> torch.Tensor:
    """x + y, x + scalar or x + scalar * y."""
    if y is None:
        return pointwise.launch(add_op, torch.empty_like(x), x, scalar=scalar)
    return pointwise.launch(add_op if scalar is None else add_scaled_op, pointwise.empty_result(x, y), x, y, scalar)


@torch.library.register_fake(_add)
def _(x, y, scalar=None):
    return torch.add(x, scalar if y is None else y)
