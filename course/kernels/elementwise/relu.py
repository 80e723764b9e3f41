"""Rectified linear unit.

    out[i] = max(x[i], 0), and NaN where x[i] is NaN

Each element is read once and written once: 2 * n * itemsize bytes, and no computation to hide them behind. A model
does better to fuse it into the kernel that computes x: see `activation` of linear and conv2d.
"""
import torch

from course.kernels.elementwise import pointwise
from course.kernels.parts.activation import relu_op
from course.kernels.parts.checks import check_tensors
from course.kernels.parts.modes import torch_function
from course.operators import custom_op


@torch_function()
def relu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """`input` (float32, float16 or bfloat16, any shape) with its negative elements set to 0.

    As `torch.nn.functional.relu`; with `inplace` the result is copied to `input`, and `input` returned. Raises
    TypeError on another dtype.
    """
    check_tensors("relu", input=input)
    y = _relu(input)
    return input.copy_(y) if inplace else y


@custom_op("relu")
def _relu(x: torch.Tensor) -> torch.Tensor:
    return pointwise.launch(relu_op, torch.empty_like(x), x)


@torch.library.register_fake(_relu)
def _(x):
    return torch.relu(x)
