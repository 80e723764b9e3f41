"""The mean and the variance of every channel of a batch.

    mean[c] = 1 / n * sum_i x[i, c],    var[c] = 1 / n * sum_i (x[i, c] - mean[c])**2,    i over the n positions

In a single pass over x: numel * itemsize bytes. The difference E[x**2] - E[x]**2 would cancel where the mean is large.
Welford's recurrence (1962) does not, and Chan, Golub and LeVeque (1983) combine the statistics of parts of the batch.
Each element of a program's tile follows a part of its own. `statistics_kernel` combines those of a program, and
`combine_kernel`, a second launch, those of all programs. Without atomics the order is the same in every run, and so
are the bits.
"""
import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.norms.channels import find_tiles, position_offsets, tile_positions
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.vectors import aligned


@triton.jit
def statistics_kernel(
    x_ptr, parts_ptr, C, n_tiles, sizes, strides, stride_c,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, ALIGN_L: tl.constexpr, ALIGN_C: tl.constexpr,
):
    """count, mean and sum of squared deviations of BLOCK_C channels in one part of the batch: every n_parts-th tile.

    x_ptr: (N, C, ...); parts_ptr: (3, n_parts, C) in float32
    C, n_tiles: channels, and tiles that cover the positions
    sizes, strides, stride_c: of the loops over positions and of the channels, see `norms.channels`
    """
    part, n_parts = tl.program_id(1), tl.num_programs(1)
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channels < aligned(C, ALIGN_C)

    count = tl.zeros((BLOCK_L, 1), tl.float32)
    mean = tl.zeros((BLOCK_L, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_L, BLOCK_C), tl.float32)  # sum of (x - mean)**2
    for tile in range(part, n_tiles, n_parts):
        row, positions = tile_positions(tile, sizes, BLOCK_L)
        inside = (positions < aligned(sizes[len(sizes) - 1], ALIGN_L))[:, None]
        offs = position_offsets(row, positions, channels, sizes, strides, stride_c, ALIGN_L, ALIGN_C)
        x = tl.load(x_ptr + offs, mask=inside & inside_c[None, :], other=0.0).to(tl.float32)
        count += inside.to(tl.float32)
        away = tl.where(inside, x - mean, 0.0)
        mean += away * (1.0 / tl.maximum(count, 1.0))
        m2 += away * (x - mean)

    count, mean, m2 = combine(tl.broadcast_to(count, (BLOCK_L, BLOCK_C)), mean, m2)
    parts_ptr += part * C + channels
    tl.store(parts_ptr, count, mask=inside_c)
    tl.store(parts_ptr + n_parts * C, mean, mask=inside_c)
    tl.store(parts_ptr + 2 * n_parts * C, m2, mask=inside_c)


@triton.jit
def combine(count, mean, m2):
    """count, mean and m2 of all parts along axis 0 together: (parts, channels) each, then (channels,)."""
    total = tl.sum(count, axis=0)
    overall = tl.sum(count * mean, axis=0) / total
    overall += tl.sum(count * (mean - overall[None, :]), axis=0) / total  # the rounding error of the first sum
    away = mean - overall[None, :]
    return total, overall, tl.sum(m2 + count * away * away, axis=0)


@triton.jit
def combine_kernel(
    parts_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, running_mean_stride, running_var_stride,
    momentum, C, n_parts, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """The statistics of BLOCK_C channels in all parts, and the running statistics moved towards them.

    parts_ptr: (3, n_parts, C), as statistics_kernel stores them, of which BLOCK_P covers n_parts
    mean_ptr, var_ptr: (C,) in float32; running_mean_ptr, running_var_ptr: (C,) with strides, or both None
    """
    part = tl.arange(0, BLOCK_P)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    offs = part[:, None] * C + tl.minimum(c, C - 1)[None, :]  # past the end the last channel: no division by 0
    inside = (part < n_parts)[:, None]
    count = tl.load(parts_ptr + offs, mask=inside, other=0.0)
    mean = tl.load(parts_ptr + n_parts * C + offs, mask=inside, other=0.0)
    m2 = tl.load(parts_ptr + 2 * n_parts * C + offs, mask=inside, other=0.0)
    count, mean, m2 = combine(count, mean, m2)
    tl.store(mean_ptr + c, mean, mask=c < C)
    tl.store(var_ptr + c, m2 / count, mask=c < C)
    if running_mean_ptr is not None:
        move_towards(running_mean_ptr + c * running_mean_stride, mean, momentum, c < C)
        move_towards(running_var_ptr + c * running_var_stride, m2 / (count - 1), momentum, c < C)


@triton.jit
def move_towards(ptr, new, momentum, mask):
    """Moves what is stored at `ptr` towards `new`."""
    old = tl.load(ptr, mask=mask).to(tl.float32)
    tl.store(ptr, (1 - momentum) * old + momentum * new, mask=mask)


def batch_statistics(
    x: torch.Tensor, running_mean: torch.Tensor | None, running_var: torch.Tensor | None, momentum: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the biased variance of each channel of `x`, not empty: two tensors (C,) in float32.

    running_mean and running_var, where given, move towards them by `momentum`, running_var towards the unbiased one.
    """
    channels = x.shape[1]
    tiles = find_tiles(x, per_thread=16)  # for each element, a thread has a mean and an m2
    n_parts = min(tiles.n_positions, cdiv(4 * runtime.num_sms(), tiles.n_channels))
    parts = torch.empty(3, n_parts, channels, dtype=torch.float32, device=x.device)
    statistics_kernel[(tiles.n_channels, n_parts)](
        x, parts, channels, tiles.n_positions, tiles.sizes, *tiles.strides, x.stride(1), **tiles.blocks
    )
    mean, var = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    block_p = next_power_of_2(n_parts)
    block_c = min(next_power_of_2(channels), max(4096 // block_p, 1), 16)
    running_strides = (0, 0) if running_mean is None else (*running_mean.stride(), *running_var.stride())
    combine_kernel[(cdiv(channels, block_c),)](
        parts, mean, var, running_mean, running_var, *running_strides, momentum, channels, n_parts,
        BLOCK_P=block_p, BLOCK_C=block_c,
    )
    return mean, var
