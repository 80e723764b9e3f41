"""Convolution of images with filters.

    y[n, k, p, q] = act(sum over r, s, c of x[n, c, h, w] * weight[k, c, r, s] + bias[k] + residual[n, k, p, q])
                    h = p * stride + r * dilation - padding, w = q * stride + s * dilation - padding

Cost: 2 * N * P * Q * K * R * S * C operations, and (N * C * H * W + K * C * R * S + N * K * P * Q) * itemsize bytes if
everything moves once. A 3x3 layer from 64 to 64 channels does 1152 operations for the 4 bytes that each output
element costs it in float16.

The engines; the first that can run computes. H200, float16, 16 images:

    depthwise       a filter for each channel
    merged_groups   groups of few channels, channels_last: several as one, on tensor cores
    tma             channels_last, on Hopper and datacenter Blackwell: 64 x 56 x 56, 3x3, in 12.8 us (cuDNN 15.5)
    few_channels    the same of at most 8 channels: a ResNet's 7x7/2 over 3 x 224 x 224 in 42.4 us (cuDNN 98.7)
    transposed      PyTorch's default format there, copied to channels_last and back
    direct          other groups so small that tensor cores would have next to nothing to multiply
    pointers        everything else
"""
import torch

from course.kernels.convolution import depthwise, direct, few_channels, merged_groups, pointers, tma, transposed
from course.kernels.convolution.problem import convolution_problem, pad_sides, result_format, result_shape
from course.kernels.parts.activation import ACTIVATIONS, Activation
from course.kernels.parts.checks import check_one_of, check_tensors, integer, pair
from course.kernels.parts.modes import torch_function
from course.operators import custom_op
from course.precision import conv_precision
from course.tuning import Engines

ENGINES = Engines("conv2d", depthwise, merged_groups, tma, few_channels, transposed, direct, pointers)


@torch_function("lower")
def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    tf32_operands: bool = False,
) -> torch.Tensor:
    """act(conv2d(input, weight) + bias + residual), everything but the last two as `torch.nn.functional.conv2d`.

    input is (N, C, H, W) or (C, H, W), weight (K, C / groups, R, S), bias (K,), residual (N, K, P, Q) or (K, P, Q) as
    the result; all of one dtype (float32, float16, bfloat16), any strides. `padding` may be "valid", or "same" where
    stride is 1. `activation` is None or one of `Activation`, and comes last, as in ResNet. The result is
    channels_last if input or weight is. Sums are float32, rounded once; float32 operands are multiplied as TF32 where
    torch.backends.cudnn.allow_tf32 allows it, but for groups so small that they do not go through tensor cores. With
    `tf32_operands`, x, weight and residual hold TF32 numbers, which are not rounded again, and so will the result.
    Where groups of few channels are computed several at a time, infinity or NaN in one makes the others' results NaN.
    Raises ValueError on sizes that do not fit together and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_tensors("conv2d", input=input, weight=weight, bias=bias, residual=residual)
    if weight.ndim != 4 or min(weight.shape[0], *weight.shape[2:]) < 1:
        raise ValueError(
            f"conv2d: expected weight (K, C / groups, R, S) with K, R and S at least 1, got {tuple(weight.shape)}"
        )
    if input.ndim not in (3, 4) or min(input.shape[-2:]) < 1:
        got = tuple(input.shape)
        raise ValueError(f"conv2d: expected input (N, C, H, W) or (C, H, W) with H and W at least 1, got {got}")
    K, C, R, S = weight.shape
    groups = integer("conv2d", "groups", groups)
    if groups < 1 or K % groups:
        raise ValueError(f"conv2d: expected groups that divide the {K} filters, got {groups}")
    if input.shape[-3] != C * groups:
        got = input.shape[-3]
        raise ValueError(f"conv2d: expected input with {C * groups} channels ({groups} groups of {C}), got {got}")
    if bias is not None and bias.shape != (K,):
        raise ValueError(f"conv2d: expected bias ({K},), got {tuple(bias.shape)}")
    check_one_of("conv2d", "activation", activation, ACTIVATIONS)
    stride = pair("conv2d", "stride", stride, minimum=1)
    dilation = pair("conv2d", "dilation", dilation, minimum=1)
    padding = pad_sides(padding, (R, S), stride, dilation)

    images = input if input.ndim == 4 else input.unsqueeze(0)
    shape = result_shape(images.shape, weight.shape, stride, padding, dilation)
    if min(shape[2:]) < 1:
        raise ValueError(f"conv2d: expected input that holds {R} by {S} taps at least once, got {tuple(input.shape)}")
    if residual is not None and residual.shape != shape[4 - input.ndim :]:
        raise ValueError(f"conv2d: expected residual {shape[4 - input.ndim :]}, got {tuple(residual.shape)}")
    if residual is not None and input.ndim == 3:
        residual = residual.unsqueeze(0)
    out = _conv2d(images, weight, bias, residual, stride, padding, dilation, groups, activation, tf32_operands)
    return out if input.ndim == 4 else out.squeeze(0)


@custom_op("conv2d")
def _conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int, activation: str | None,
    tf32_operands: bool = False,
) -> torch.Tensor:
    problem = convolution_problem(
        x.shape, x.stride(), weight.shape, weight.stride(), None if residual is None else residual.stride(),
        tuple(stride), tuple(padding), tuple(dilation), groups, activation, x.dtype,
        "tf32_operands" if tf32_operands else conv_precision(x.dtype), tf32_operands,
        (x.data_ptr() | weight.data_ptr()) % 16 == 0, residual is None or residual.data_ptr() % 16 == 0,
    )
    out = torch.empty(problem.result, dtype=x.dtype, device=x.device, memory_format=problem.memory_format)
    if out.numel() > 0:
        ENGINES.compute(problem, (x, weight, bias if bias is None else bias.contiguous(), residual, out))
    return out


@torch.library.register_fake(_conv2d)
def _(x, weight, bias, residual, stride, padding, dilation, groups, activation, tf32_operands=False):
    shape = result_shape(x.shape, weight.shape, stride, padding, dilation)
    memory_format = result_format(x.shape, x.stride(), weight.shape, weight.stride())
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
