"""Batch normalisation: every channel to mean 0 and variance 1, then scaled and shifted.

    y[n, c, ...] = (x[n, c, ...] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]

With given statistics x is read once and y written once: 2 * numel * itemsize bytes. In training the statistics are
those of the batch, which must be known before the first y: x is read twice, 3 * numel * itemsize bytes.
"""
import math

import torch
import triton
import triton.language as tl

from course.kernels._batch_statistics import batch_statistics
from course.kernels._channels import find_tiles, tile_offsets, tile_positions, within
from course.kernels._checks import check_tensors
from course.kernels._early_start import early_start, let_next_start, wait_for_previous
from course.kernels._memory_format import suggest_memory_format
from course.runtime import custom_op


@triton.jit
def batch_norm_kernel(
    x_ptr, y_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, eps,
    C, sizes, x_strides, x_stride_c, y_strides, y_stride_c,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, ALIGN_L: tl.constexpr, ALIGN_C: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    c_tiles = tl.cdiv(C, BLOCK_C)
    row, positions = tile_positions(tl.program_id(0) // c_tiles, sizes, BLOCK_L)
    channels = tl.program_id(0) % c_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = within(channels, C, ALIGN_C)
    inside = within(positions, sizes[len(sizes) - 1], ALIGN_L)[:, None] & inside_c[None, :]

    wait_for_previous(EARLY)
    x_offs = tile_offsets(row, positions, channels, sizes, x_strides, x_stride_c, ALIGN_L, ALIGN_C)
    x = tl.load(x_ptr + x_offs, mask=inside).to(tl.float32)
    mean = tl.load(mean_ptr + channels, mask=inside_c).to(tl.float32)
    scale = tl.rsqrt(tl.load(var_ptr + channels, mask=inside_c, other=1.0).to(tl.float32) + eps)
    if weight_ptr is not None:
        scale *= tl.load(weight_ptr + channels, mask=inside_c).to(tl.float32)
    y = (x - mean[None, :]) * scale[None, :]  # the mean first: as x * scale - mean * scale it would cancel
    if bias_ptr is not None:
        y += tl.load(bias_ptr + channels, mask=inside_c).to(tl.float32)[None, :]
    let_next_start(EARLY)
    y_offs = tile_offsets(row, positions, channels, sizes, y_strides, y_stride_c, ALIGN_L, ALIGN_C)
    tl.store(y_ptr + y_offs, y, mask=inside)


def batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`x` (N, C, ...) of 2 to 5 dimensions, normalised per channel, as `torch.nn.functional.batch_norm`.

    With `training`, by the mean and the (biased) variance of the batch, which also move running_mean and running_var,
    where given, by `momentum` (the variance unbiased); otherwise by running_mean and running_var. x may be float32,
    float16 or bfloat16, with any strides; the other tensors, (C,), have x's dtype or are all float32. Raises ValueError
    on other shapes, on missing statistics, on a single value per channel in training; TypeError on other dtypes.
    """
    check_tensors("batch_norm", x=x)
    if not 2 <= x.ndim <= 5:
        raise ValueError(f"batch_norm: expected x of shape (N, C, ...) with 2 to 5 dimensions, got {tuple(x.shape)}")
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    given = {name: t for name, t in tensors.items() if t is not None}
    if given:
        check_tensors("batch_norm", **given)
    for name, t in given.items():
        if t.dtype not in (x.dtype, torch.float32):
            raise TypeError(f"batch_norm: expected {name} in {x.dtype} as x, or in torch.float32, got {t.dtype}")
        if t.device != x.device:
            raise ValueError(f"batch_norm: expected {name} on {x.device} as x, got {t.device}")
        if t.shape != x.shape[1:2]:
            raise ValueError(f"batch_norm: expected {name} of shape ({x.shape[1]},), got {tuple(t.shape)}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: expected both of running_mean and running_var or neither, got one")
    if not training:
        if running_mean is None:
            raise ValueError("batch_norm: expected running_mean and running_var when not in training, got None")
        return _batch_norm(x, running_mean, running_var, weight, bias, eps)
    if x.shape[0] * math.prod(x.shape[2:]) == 1:
        raise ValueError(f"batch_norm: expected more than one value per channel in training, got {tuple(x.shape)}")
    return _batch_norm_training(x, running_mean, running_var, weight, bias, momentum, eps)


@custom_op("batch_norm")
def _batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    y = _empty_output(x)
    if y.numel() > 0:
        _normalise(x, y, mean, var, weight, bias, eps)
    return y


@custom_op("batch_norm_training", mutates_args=("running_mean", "running_var"))
def _batch_norm_training(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    y = _empty_output(x)
    if y.numel() > 0:
        mean, var = batch_statistics(x, running_mean, running_var, momentum)
        _normalise(x, y, mean, var, weight, bias, eps)
    return y


@torch.library.register_fake(_batch_norm)
def _(x, mean, var, weight, bias, eps):
    return _empty_output(x)


@torch.library.register_fake(_batch_norm_training)
def _(x, running_mean, running_var, weight, bias, momentum, eps):
    return _empty_output(x)


def _empty_output(x):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=suggest_memory_format(x))


def _normalise(x, y, mean, var, weight, bias, eps):
    # enough to be worth loading the parameters; with 64 bytes a thread, float32 is 3 % slower on an H200
    tiles = find_tiles(y, x, per_thread=32 // x.element_size())
    y_strides, x_strides = tiles.strides
    mean, var, weight, bias = (t if t is None else t.contiguous() for t in (mean, var, weight, bias))
    batch_norm_kernel[(tiles.n_positions * tiles.n_channels,)](
        x, y, mean, var, weight, bias, eps,
        x.shape[1], tiles.sizes, x_strides, x.stride(1), y_strides, y.stride(1), **tiles.blocks, **early_start(),
    )  # fmt: skip
