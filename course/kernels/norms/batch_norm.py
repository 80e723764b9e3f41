"""Batch normalisation: every channel to mean 0 and variance 1, then scaled and shifted.

    y[n, c, ...] = (x[n, c, ...] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]

Which kernels run depends on the statistics:

    batch_norm_kernel    normalises by given ones: x is read once and y written once, 2 * numel * itemsize bytes. An
                         H200 takes 35.6 us for 42 images (64, 112, 112) in float16 (PyTorch 85.6)
    batch_statistics     two kernels more, in training, when the statistics are those of the batch and must be known
                         before the first y: x is read twice, 3 * numel * itemsize bytes
"""
import math

import torch
import triton
import triton.language as tl

from course.kernels.norms.batch_statistics import batch_statistics
from course.kernels.norms.channels import find_tiles, position_offsets, tile_positions
from course.kernels.parts.checks import check_tensors, flag, number
from course.kernels.parts.images import empty_images
from course.kernels.parts.modes import torch_function
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.vectors import aligned
from course.operators import custom_op


@triton.jit
def batch_norm_kernel(
    x_ptr, y_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, eps,
    C, sizes, x_strides, x_stride_c, y_strides, y_stride_c,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, ALIGN_L: tl.constexpr, ALIGN_C: tl.constexpr,
    PDL: tl.constexpr,
):
    """BLOCK_L positions of BLOCK_C channels.

    x_ptr, y_ptr: (N, C, ...), with the strides of the loops over positions and of the channels, see `norms.channels`
    mean_ptr, var_ptr, weight_ptr, bias_ptr: (C,), contiguous; the last two may be None
    sizes: of the loops over positions
    """
    c_tiles = tl.cdiv(C, BLOCK_C)
    row, positions = tile_positions(tl.program_id(0) // c_tiles, sizes, BLOCK_L)
    channels = tl.program_id(0) % c_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channels < aligned(C, ALIGN_C)
    inside = (positions < aligned(sizes[len(sizes) - 1], ALIGN_L))[:, None] & inside_c[None, :]

    pdl_wait(PDL)
    x_offs = position_offsets(row, positions, channels, sizes, x_strides, x_stride_c, ALIGN_L, ALIGN_C)
    x = tl.load(x_ptr + x_offs, mask=inside).to(tl.float32)
    mean = tl.load(mean_ptr + channels, mask=inside_c).to(tl.float32)
    scale = tl.rsqrt(tl.load(var_ptr + channels, mask=inside_c, other=1.0).to(tl.float32) + eps)
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + channels, mask=inside_c).to(tl.float32)
    y = (x - mean[None, :]) * scale[None, :]  # the mean first: as x * scale - mean * scale it would cancel
    if bias_ptr is not None:
        y += tl.load(bias_ptr + channels, mask=inside_c).to(tl.float32)[None, :]
    pdl_launch_dependents(PDL)
    y_offs = position_offsets(row, positions, channels, sizes, y_strides, y_stride_c, ALIGN_L, ALIGN_C)
    tl.store(y_ptr + y_offs, y, mask=inside)


@torch_function()
def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`input` (N, C, ...) of 2 to 5 dimensions, normalised per channel, as `torch.nn.functional.batch_norm`.

    With `training`, by the mean and the (biased) variance of the batch, which also move running_mean and running_var,
    where given, by `momentum` (the variance unbiased); otherwise by running_mean and running_var. Every tensor may be
    float32, float16 or bfloat16, with any strides; the others are (C,), input may also be (0,). Raises ValueError on
    other shapes, on missing statistics, on a single value per channel in training; TypeError on other dtypes.
    """
    check_tensors("batch_norm", input=input)
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    given = {name: t for name, t in tensors.items() if t is not None}
    if given:
        check_tensors("batch_norm", **given)
    flag("batch_norm", "training", training)
    momentum, eps = number("batch_norm", "momentum", momentum), number("batch_norm", "eps", eps)
    shape = tuple(input.shape)
    if shape == (0,):
        return torch.empty_like(input)  # PyTorch, too, returns nothing normalised before it looks for channels
    if not 2 <= len(shape) <= 5:
        raise ValueError(f"batch_norm: expected input of shape (N, C, ...) with 2 to 5 dimensions, got {shape}")
    for name, t in given.items():
        if t.device != input.device:
            raise ValueError(f"batch_norm: expected {name} on {input.device} as input, got {t.device}")
        if t.shape != shape[1:2]:
            raise ValueError(f"batch_norm: expected {name} of shape ({shape[1]},), got {tuple(t.shape)}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: expected both of running_mean and running_var or neither, got one")
    if not training:
        if running_mean is None:
            raise ValueError("batch_norm: expected running_mean and running_var when not in training, got None")
        return _batch_norm(input, running_mean, running_var, weight, bias, eps)
    if shape[0] * math.prod(shape[2:]) == 1:
        raise ValueError(f"batch_norm: expected more than one value per channel in training, got {shape}")
    return _batch_norm_training(input, running_mean, running_var, weight, bias, momentum, eps)


@custom_op("batch_norm")
def _batch_norm(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    y = empty_images(x, x.shape)
    if y.numel() > 0:
        normalise_channels(x, y, mean, var, weight, bias, eps)
    return y


@custom_op("batch_norm_training", mutates_args=("running_mean", "running_var"))
def _batch_norm_training(
    x: torch.Tensor, running_mean: torch.Tensor | None, running_var: torch.Tensor | None,
    weight: torch.Tensor | None, bias: torch.Tensor | None, momentum: float, eps: float,
) -> torch.Tensor:
    y = empty_images(x, x.shape)
    if y.numel() > 0:
        mean, var = batch_statistics(x, running_mean, running_var, momentum)
        normalise_channels(x, y, mean, var, weight, bias, eps)
    return y


@torch.library.register_fake(_batch_norm)
def _(x, mean, var, weight, bias, eps):
    return empty_images(x, x.shape)


@torch.library.register_fake(_batch_norm_training)
def _(x, running_mean, running_var, weight, bias, momentum, eps):
    return empty_images(x, x.shape)


def normalise_channels(
    x: torch.Tensor, y: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, weight: torch.Tensor | None,
    bias: torch.Tensor | None, eps: float,
) -> None:
    """Writes `x`, not empty, normalised by the statistics given, to `y`."""
    # 32 bytes a thread repay loading the parameters; with 64, float32 is 3 % slower on an H200
    tiles = find_tiles(y, x, per_thread=32 // x.element_size())
    y_strides, x_strides = tiles.strides
    mean, var, weight, bias = (t if t is None else t.contiguous() for t in (mean, var, weight, bias))
    batch_norm_kernel[(tiles.n_positions * tiles.n_channels,)](
        x, y, mean, var, weight, bias, eps,
        x.shape[1], tiles.sizes, x_strides, x.stride(1), y_strides, y.stride(1), **tiles.blocks, **pdl_options(),
    )
