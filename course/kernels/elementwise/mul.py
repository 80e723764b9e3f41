"""Elementwise product of two tensors.

    out[i] = x[i] * y[i]

As for a sum, three elements move for one operation: 3 * n * itemsize bytes.
"""
import torch
import triton
import triton.language as tl  # noqa: F401  the interpreter needs it in the module of every jit function

from course.kernels.elementwise import pointwise
from course.kernels.elementwise.operands import operands
from course.kernels.parts.modes import torch_function
from course.operators import custom_op


@triton.jit
def mul_op(x, y):
    return x * y


@torch_function("widest")
def mul(input: torch.Tensor, other: torch.Tensor | float, *, out: None = None) -> torch.Tensor:
    """input * other, broadcast as `torch.mul` does.

    Both of one dtype (float32, float16, bfloat16), or `other` a number; of two tensors, one without dimensions may be
    of any real dtype. Multiplies in float32 and rounds once. Raises ValueError on shapes that do not broadcast, on
    unequal devices and on an `out`, TypeError on unequal or other dtypes.
    """
    return _mul(*operands("mul", input, other, out))


@custom_op("mul")
def _mul(x: torch.Tensor, y: torch.Tensor | None, scalar: float | None = None) -> torch.Tensor:
    """x * y or x * scalar."""
    out = torch.empty_like(x) if y is None else pointwise.empty_result(x, y)
    return pointwise.launch(mul_op, out, x, y, scalar)


@torch.library.register_fake(_mul)
def _(x, y, scalar=None):
    return torch.mul(x, scalar if y is None else y)
