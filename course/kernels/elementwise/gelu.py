"""Gaussian error linear unit (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

    out[i] = x[i] * Phi(x[i]),    Phi(x) = (1 + erf(x / sqrt(2))) / 2
    approximate="tanh":           Phi(x) = (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2

Phi is the cumulative distribution function of the normal distribution. Each element is read once and written once,
2 * n * itemsize bytes, and the twenty or so operations in between take less time than the bytes.
"""
from typing import Literal

import torch

from course.kernels.elementwise import pointwise
from course.kernels.parts.activation import gelu_op, gelu_tanh_op
from course.kernels.parts.checks import check_one_of, check_tensors
from course.kernels.parts.modes import torch_function
from course.operators import custom_op

OPS = {"none": gelu_op, "tanh": gelu_tanh_op}


@torch_function()
def gelu(input: torch.Tensor, approximate: Literal["none", "tanh"] = "none") -> torch.Tensor:
    """GELU of `input` (float32, float16 or bfloat16, any shape), as `torch.nn.functional.gelu`.

    `approximate` is "none" or "tanh". Computes in float32 and rounds once. Raises ValueError on another
    `approximate`, TypeError on another dtype.
    """
    check_tensors("gelu", input=input)
    check_one_of("gelu", "approximate", approximate, OPS)
    return _gelu(input, approximate)


@custom_op("gelu")
def _gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    return pointwise.launch(OPS[approximate], torch.empty_like(x), x)


@torch.library.register_fake(_gelu)
def _(x, approximate):
    return torch.nn.functional.gelu(x, approximate=approximate)
