import torch

from course.kernels import hardsigmoid, hardswish, leaky_relu, linear, quick_gelu, relu6, sigmoid, silu, tanh
from course.kernels.parts.activation import ACTIVATIONS


def cases(dtype):
    x = torch.randn(64, 128, dtype=dtype)
    for activation in (hardsigmoid, hardswish, leaky_relu, quick_gelu, relu6, sigmoid, silu, tanh):
        yield activation.__name__, lambda activation=activation: activation(x)
    yield "strided", lambda: leaky_relu(x[:, :127], 0.2)
    rows, weight = torch.empty(2048, 1024, dtype=dtype), torch.empty(2048, 1024, dtype=dtype)
    for name in list(ACTIVATIONS)[4:]:
        yield f"fused {name}", lambda name=name: linear(rows, weight, activation=name)
