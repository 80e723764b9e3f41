"""Gaussian error linear unit (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

    out[i] = x[i] * Phi(x[i]),    Phi(x) = (1 + erf(x / sqrt(2))) / 2
    approximate="tanh":           Phi(x) = (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2

Phi is the distribution function of the normal distribution. An element is read and one written,
2 * n * itemsize bytes, and the twenty or so operations between them take less time than the bytes.
"""
import torch

from course.kernels import _pointwise
from course.kernels._activation import gelu_op, gelu_tanh_op
from course.kernels._checks import check_tensors
from course.runtime import custom_op

OPS = {"none": gelu_op, "tanh": gelu_tanh_op}


def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """GELU of `x` (float32, float16 or bfloat16, any shape), as `torch.nn.functional.gelu`.

    `approximate` is "none" or "tanh". Computes in float32 and rounds once. Raises ValueError on another
    `approximate`, TypeError on another dtype.
    """
    check_tensors("gelu", x=x)
    if approximate not in OPS:
        raise ValueError(f"gelu: expected approximate 'none' or 'tanh', got {approximate!r}")
    return _gelu(x, approximate)


@custom_op("gelu")
def _gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    return _pointwise.launch(OPS[approximate], torch.empty_like(x), x)


@torch.library.register_fake(_gelu)
def _(x, approximate):
    return torch.nn.functional.gelu(x, approximate=approximate)
