"""Group normalisation: the channels of each image in groups (Wu and He, 2018, arXiv:1803.08494).

    y[n, c, ...] = (x[n, c, ...] - mean[n, g]) / sqrt(variance[n, g] + eps) * weight[c] + bias[c],    g = c // (C / G)

Mean and variance (of the population) are those of the C / G channels of group g at all positions of image n, whatever
else is in the batch. So a group of one image is what a channel is to batch_norm, whose kernels compute it: first
`batch_statistics` of x seen as N * G channels, then `normalise_channels` of x seen as N * C channels.

Cost: x is read twice and y written once, 3 * numel * itemsize bytes. Images whose channels are not the outermost
dimension in memory, such as channels_last, are copied before and after: 4 * numel * itemsize bytes more.
"""
import math

import torch

from course.kernels.norms.batch_norm import normalise_channels
from course.kernels.norms.batch_statistics import batch_statistics
from course.kernels.parts.checks import check_with_parameters, integer, number
from course.kernels.parts.images import empty_images
from course.kernels.parts.modes import torch_function
from course.operators import custom_op


@torch_function("float32")
def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`input` (N, C, ...) normalised per image and group of channels, as `torch.nn.functional.group_norm`.

    `weight` and `bias` are (C,); either may be None. float32, float16 or bfloat16, any strides, and the parameters of
    that dtype or both float32; computes in float32 and rounds once. The result has the memory format of input, on a
    GPU too, where PyTorch's is contiguous. Raises ValueError on shapes that do not fit, on a single value per group
    where there is one image, and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_with_parameters("group_norm", "input", input, weight=weight, bias=bias)
    num_groups = integer("group_norm", "num_groups", num_groups)
    shape = tuple(input.shape)
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(f"group_norm: expected input of shape (N, C, ...), C and what follows not 0, got {shape}")
    if num_groups < 1 or shape[1] % num_groups:
        raise ValueError(f"group_norm: expected num_groups to divide the {shape[1]} channels, got {num_groups}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and tuple(t.shape) != shape[1:2]:
            raise ValueError(f"group_norm: expected {name} of shape ({shape[1]},), got {tuple(t.shape)}")
    if shape[0] * shape[1] // num_groups * math.prod(shape[2:]) == 1:  # PyTorch's condition
        raise ValueError(f"group_norm: expected more than one value per group, got {shape} in {num_groups} groups")
    return _group_norm(input, num_groups, weight, bias, number("group_norm", "eps", eps))


@custom_op("group_norm")
def _group_norm(
    x: torch.Tensor, num_groups: int, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    y = empty_images(x, x.shape)
    if y.numel() == 0:
        return y
    N, C = x.shape[:2]
    images = x.contiguous()
    result = torch.empty_like(images)
    mean, var = batch_statistics(images.view(1, N * num_groups, -1), None, None, 0.0)
    # of each channel: its group's statistics, and in each image the same weight and bias
    mean, var = (t.repeat_interleave(C // num_groups) for t in (mean, var))
    weight, bias = (None if t is None else t.repeat(N) for t in (weight, bias))
    normalise_channels(images.view(1, N * C, -1), result.view(1, N * C, -1), mean, var, weight, bias, eps)
    return result if result.stride() == y.stride() else y.copy_(result)


@torch.library.register_fake(_group_norm)
def _(x, num_groups, weight, bias, eps):
    return empty_images(x, x.shape)
