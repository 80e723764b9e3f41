"""The activations, as functions that a kernel takes as a constexpr: alone in relu and gelu, fused in linear, conv2d."""
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
    gives Phi to 1e-7 in float32 (tests/kernels/test_gelu.py), in a quarter of the instructions of an erf. Beyond
    9 it goes on falling, and Phi(-a) to 0.
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
    """The same for a result in float16 or bfloat16, in three instructions fewer: Phi to a relative error of 3e-6.

    The polynomial is of degree 7, fitted on [0, 6]. Rounding the result brings in an error 80 times as large, or more.
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


ACTIVATIONS = {None: None, "relu": relu_op, "gelu": gelu_op, "gelu_tanh": gelu_tanh_op}
"""What linear and conv2d accept as `activation`."""


def epilogue(activation: str | None, dtype: torch.dtype):
    """The activation as the last step of a kernel whose result is of `dtype`."""
    return half_gelu_op if activation == "gelu" and dtype != torch.float32 else ACTIVATIONS[activation]
