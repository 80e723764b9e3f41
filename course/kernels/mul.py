"""Elementwise product of two tensors.

    out[i] = x[i] * y[i]

As for a sum, three elements move for one operation: 3 * n * itemsize bytes.
"""
import torch
import triton
import triton.language as tl  # noqa: F401  the interpreter wants it visible from every jit function

from course.kernels import _pointwise
from course.kernels._checks import check_broadcast, check_tensors
from course.runtime import custom_op


@triton.jit
def mul_op(x, y):
    return x * y


def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Product of `x` and `y`, of one dtype (float32, float16, bfloat16), broadcast as `torch.mul` does.

    Multiplies in float32 and rounds once. Raises ValueError on shapes that do not broadcast and on unequal
    devices, TypeError on unequal or other dtypes.
    """
    check_tensors("mul", x=x, y=y)
    check_broadcast("mul", x=x, y=y)
    return _mul(x, y)


@custom_op("mul")
def _mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _pointwise.launch(mul_op, _pointwise.empty_result(x, y), x, y)


@torch.library.register_fake(_mul)
def _(x, y):
    return torch.mul(x, y)
