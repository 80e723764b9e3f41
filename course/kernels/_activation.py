"""The activations, as functions that a kernel takes as a constexpr: alone in relu and gelu, fused in linear, conv2d."""
import triton
import triton.language as tl


@triton.jit
def relu_op(x):
    return tl.where(x < 0, 0.0, x)  # not a maximum: NaN stays NaN, as in PyTorch


@triton.jit
def gelu_op(x):
    """x * Phi(x), with Phi the normal distribution's cumulative function (Hendrycks and Gimpel, 2016)."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh_op(x):
    """The tanh approximation, in the form tanh(z) = 2 * sigmoid(2 * z) - 1, which cannot overflow."""
    z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x * tl.sigmoid(2.0 * z)


ACTIVATIONS = {None: None, "relu": relu_op, "gelu": gelu_op, "gelu_tanh": gelu_tanh_op}
"""What linear and conv2d accept as `activation`."""
