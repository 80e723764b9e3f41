"""The activations, as functions that a kernel takes as a constexpr, alone or fused into linear and conv2d.

They keep NaN, and at infinities give what PyTorch gives."""
from typing import Literal

import torch
import triton
import triton.language as tl


@triton.jit
def relu_op(x):
    return tl.where(x < 0, 0.0, x)  # not a maximum: NaN stays NaN, as in PyTorch


@triton.jit
def gelu_op(x):
    """x * Phi(x), with Phi the normal distribution's cumulative function (Hendrycks and Gimpel, 2016).

    log2(Phi(-a)) is nearly a parabola in a = |x|: this polynomial, fitted to it on [0, 9] by weighted least squares,
    gives Phi to 1e-7 in float32 (tests/kernels/elementwise/test_gelu.py), in a quarter of the instructions of an erf.
    Beyond 9 it goes on falling, so that Phi(-a) goes to 0.
    """
    a = tl.abs(x)
    log2_phi = 2.109068618e-07 - 5.038346185e-09 * a
    log2_phi = log2_phi * a - 3.631351320e-06
    log2_phi = log2_phi * a + 3.185116293e-05
    log2_phi = log2_phi * a - 1.223356812e-04
    log2_phi = log2_phi * a - 3.261151724e-04
    log2_phi = log2_phi * a + 7.334745023e-03
    log2_phi = log2_phi * a - 5.269014090e-02
    log2_phi = log2_phi * a - 4.591446817e-01
    log2_phi = log2_phi * a - 1.151112676e00
    log2_phi = log2_phi * a - 0.9999998808
    phi = tl.exp2(log2_phi)  # Phi(-|x|)
    return x * tl.where(x < 0, phi, 1.0 - phi)


@triton.jit
def half_gelu_op(x):
    """gelu_op for a result in float16 or bfloat16, in three instructions fewer: Phi to a relative error of 3e-6.

    The polynomial is of degree 7, fitted on [0, 6]. Rounding the result adds an error at least 80 times as large.
    """
    a = tl.abs(x)
    log2_phi = 5.917167800e-05 - 1.686943051e-06 * a
    log2_phi = log2_phi * a - 9.151392151e-04
    log2_phi = log2_phi * a + 8.460478857e-03
    log2_phi = log2_phi * a - 5.388687924e-02
    log2_phi = log2_phi * a - 4.585165977e-01
    log2_phi = log2_phi * a - 1.151237607e00
    log2_phi = log2_phi * a - 0.9999958277
    phi = tl.exp2(log2_phi)  # Phi(-|x|)
    return x * tl.where(x < 0, phi, 1.0 - phi)


@triton.jit
def gelu_tanh_op(x):
    """The tanh approximation, in the form tanh(z) = 2 * sigmoid(2 * z) - 1, which cannot overflow."""
    z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x * tl.sigmoid(2.0 * z)


@triton.jit
def exp_minus(a):
    """exp(-a) for a >= 0, to the last digit or two of float32, and down to its least numbers.

    tl.exp rounds a * log2(e) before it takes a power of 2, and of 2**70 that loses six bits. Here the multiple of ln 2
    next to a is taken off first, in two parts of which the first has few digits (Cody and Waite, Software Manual for
    the Elementary Functions, 1980). The hardware's powers of 2 end at 2**-126: hence the 64.
    """
    a = tl.minimum(a, 110.0, propagate_nan=tl.PropagateNan.ALL)  # exp(-110) is 0
    n = tl.floor(a * 1.4426950408889634 + 0.5)
    rest = (a - n * 0.693359375) + n * 2.12194440e-4
    return tl.exp2(rest * -1.4426950408889634) * tl.exp2(64.0 - n) * 5.421010862427522e-20  # 2**-64


@triton.jit
def sigmoid_op(x):
    """1 / (1 + exp(-x)), from an exponential that cannot overflow, and without subtracting from 1."""
    e = exp_minus(tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def silu_op(x):
    return x * sigmoid_op(x)


@triton.jit
def quick_gelu_op(x):
    return x * sigmoid_op(1.702 * x)


@triton.jit
def tanh_op(x):
    """(1 - e) / (1 + e) with e = exp(-2 |x|); where that would subtract neighbours, Cephes' polynomial (tanhf.c)."""
    a = tl.abs(x)
    square = x * x
    p = 2.06390887954e-2 - 5.70498872745e-3 * square
    p = p * square - 5.37397155531e-2
    p = p * square + 1.33314422036e-1
    p = p * square - 3.33332819422e-1
    e = exp_minus(2.0 * a)
    far = 1.0 - 2.0 * e / (1.0 + e)
    return tl.where(a < 0.625, x * (1.0 + square * p), tl.where(x < 0, -far, far))


@triton.jit
def relu6_op(x):
    return tl.where(x > 6, 6.0, relu_op(x))


@triton.jit
def hardsigmoid_op(x):
    return relu6_op(x + 3.0) * 0.16666666666666666


@triton.jit
def hardswish_op(x):
    return x * hardsigmoid_op(x)


@triton.jit
def leaky_relu_op(x, negative_slope=0.01):
    return tl.where(x > 0, x, x * negative_slope)


Activation = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "relu6", "hardswish", "hardsigmoid", "leaky_relu",
    "quick_gelu",
]
"""What linear and conv2d accept as `activation`, for those who check types. leaky_relu has PyTorch's slope, 0.01."""

ACTIVATIONS = {
    None: None,
    "relu": relu_op,
    "gelu": gelu_op,
    "gelu_tanh": gelu_tanh_op,
    "silu": silu_op,
    "sigmoid": sigmoid_op,
    "tanh": tanh_op,
    "relu6": relu6_op,
    "hardswish": hardswish_op,
    "hardsigmoid": hardsigmoid_op,
    "leaky_relu": leaky_relu_op,
    "quick_gelu": quick_gelu_op,
}
"""The function of each."""


def activation_op(activation: str | None, dtype: torch.dtype):
    """The function of `activation` for a result that is rounded to `dtype`; None for None."""
    return half_gelu_op if activation == "gelu" and dtype != torch.float32 else ACTIVATIONS[activation]
