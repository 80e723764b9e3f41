"""The activations that need no file of their own.

    sigmoid(x)     = 1 / (1 + exp(-x))
    tanh(x)        = (1 - exp(-2 x)) / (1 + exp(-2 x))
    silu(x)        = x * sigmoid(x)                       (Elfwing, Uchibe and Doya, 2017, arXiv:1702.03118)
    quick_gelu(x)  = x * sigmoid(1.702 x)                 transformers' form of gelu, which CLIP has
    relu6(x)       = min(max(x, 0), 6)
    hardsigmoid(x) = min(max(x + 3, 0), 6) / 6
    hardswish(x)   = x * hardsigmoid(x)                   (Howard et al., 2019, arXiv:1905.02244)
    leaky_relu(x)  = x where x > 0, else negative_slope * x

Each element is read once and written once: 2 * n * itemsize bytes, which take longer than the arithmetic in
course/kernels/parts/activation.py. All but quick_gelu are torch.nn.functional's functions of the same names. `input` is
float32, float16 or bfloat16, of any shape and strides. All compute in float32 and round once; with `inplace` the result
is copied to `input`, and `input` returned. Raise TypeError on another dtype.
"""
import torch

from course.kernels.elementwise import pointwise
from course.kernels.parts.activation import ACTIVATIONS, leaky_relu_op
from course.kernels.parts.checks import check_tensors, number
from course.kernels.parts.modes import torch_function
from course.operators import custom_op


@torch_function()
def sigmoid(input: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-input)), as `torch.sigmoid`."""
    check_tensors("sigmoid", input=input)
    return _activation(input, "sigmoid")


@torch_function()
def tanh(input: torch.Tensor) -> torch.Tensor:
    """The hyperbolic tangent of `input`, as `torch.tanh`."""
    check_tensors("tanh", input=input)
    return _activation(input, "tanh")


@torch_function()
def silu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """input * sigmoid(input), as `torch.nn.functional.silu`."""
    check_tensors("silu", input=input)
    return finished(_activation(input, "silu"), input, inplace)


@torch_function()
def quick_gelu(input: torch.Tensor) -> torch.Tensor:
    """input * sigmoid(1.702 * input), as transformers' QuickGELUActivation."""
    check_tensors("quick_gelu", input=input)
    return _activation(input, "quick_gelu")


@torch_function()
def relu6(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """`input` with what is below 0 set to 0 and what is above 6 set to 6, as `torch.nn.functional.relu6`."""
    check_tensors("relu6", input=input)
    return finished(_activation(input, "relu6"), input, inplace)


@torch_function()
def hardsigmoid(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """relu6(input + 3) / 6, as `torch.nn.functional.hardsigmoid`."""
    check_tensors("hardsigmoid", input=input)
    return finished(_activation(input, "hardsigmoid"), input, inplace)


@torch_function()
def hardswish(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """input * relu6(input + 3) / 6, as `torch.nn.functional.hardswish`."""
    check_tensors("hardswish", input=input)
    return finished(_activation(input, "hardswish"), input, inplace)


@torch_function()
def leaky_relu(input: torch.Tensor, negative_slope: float = 0.01, inplace: bool = False) -> torch.Tensor:
    """`input` with what is not above 0 multiplied by `negative_slope`, as `torch.nn.functional.leaky_relu`."""
    check_tensors("leaky_relu", input=input)
    return finished(_leaky_relu(input, number("leaky_relu", "negative_slope", negative_slope)), input, inplace)


def finished(y: torch.Tensor, input: torch.Tensor, inplace: bool) -> torch.Tensor:
    return input.copy_(y) if inplace else y


@custom_op("activation")
def _activation(x: torch.Tensor, name: str) -> torch.Tensor:
    return pointwise.launch(ACTIVATIONS[name], torch.empty_like(x), x)


@torch.library.register_fake(_activation)
def _(x, name):
    return torch.empty_like(x)


@custom_op("leaky_relu")
def _leaky_relu(x: torch.Tensor, negative_slope: float) -> torch.Tensor:
    return pointwise.launch(leaky_relu_op, torch.empty_like(x), x, scalar=negative_slope)


@torch.library.register_fake(_leaky_relu)
def _(x, negative_slope):
    return torch.empty_like(x)
