"""Means of windows one by one: the threads of a program read one window together, for some of the channels.

Windows may be long, and may differ in size, as those of adaptive_avg_pool2d do.
"""

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.sizes import cdiv
from course.kernels.pools.problem import WindowMeans, one_row
from course.kernels.pools.sliding_tile import window_length
from course.kernels.pools.tiles import block_sizes, cache_line, channels_innermost, pixel_pointers, tile_index
from course.runtime import per_gpu
from course.tuning import Config

TILE = 4096  # elements of windows that a program reads at a time


@triton.jit
def window_mean_kernel(
    x_ptr, y_ptr, divisor, C, H, W, OUT_H, OUT_W, x_strides, y_strides,
    step_h, over_h, reach_h, padding_h, counted_h, step_w, over_w, reach_w, padding_w, counted_w,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
):
    """One window of BLOCK_C channels of one image, BLOCK_H * BLOCK_W elements at a time.

    x_ptr (N, C, H, W), y_ptr (N, C, OUT_H, OUT_W), with their strides
    divisor: what the sum is divided by; None for the number of elements in the window
    step, over, reach, padding, counted: the rows' and the columns' `Windows`
    UNROLL: steps of the inner loop whose loads are under way at once
    """
    n, h, w, c = tile_index(OUT_H, OUT_W, tl.cdiv(C, BLOCK_C))
    top = h.to(tl.int64) * step_h // over_h - padding_h
    bottom = (h.to(tl.int64) * step_h + reach_h) // over_h
    left = w.to(tl.int64) * step_w // over_w - padding_w
    right = (w.to(tl.int64) * step_w + reach_w) // over_w
    channels = c * BLOCK_C + tl.arange(0, BLOCK_C)
    element = tl.arange(0, BLOCK_H * BLOCK_W)

    total = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for first_row in range(tl.maximum(top, 0), tl.minimum(bottom, H), BLOCK_H):
        last_col = tl.minimum(right, W)
        for first_col in tl.range(tl.maximum(left, 0), last_col, BLOCK_W, loop_unroll_factor=UNROLL):
            row = first_row + element // BLOCK_W
            col = first_col + element % BLOCK_W
            inside = (row < tl.minimum(bottom, H)) & (col < last_col)
            x = tl.load(pixel_pointers(x_ptr, x_strides, n, row, col, channels),
                        mask=inside[:, None] & (channels < C)[None, :], other=0.0)
            total += x.to(tl.float32)

    if divisor is None:
        high = window_length(top, bottom, H, counted_h)
        wide = window_length(left, right, W, counted_w)
        divisor = (high * wide).to(tl.float32)
    y = tl.sum(total, axis=0) / divisor
    y_ptr += n * y_strides[0] + h.to(tl.int64) * y_strides[2] + w.to(tl.int64) * y_strides[3]
    tl.store(y_ptr + channels.to(tl.int64) * y_strides[1], y, mask=channels < C)


def can_run(problem: WindowMeans) -> bool:
    """Always."""
    return True


@per_gpu
def configs(problem: WindowMeans) -> list[Config]:
    """One configuration.

    Threads that share a window have to add up their sums in the end. So where channels are innermost and the windows
    are many, the threads of a warp lie along the channels, and each adds up whole windows.
    """
    p = one_row(problem) or problem
    channels, windows = p.x_shape[1], p.y_shape[0] * p.y_shape[2] * p.y_shape[3]
    sides = {"BLOCK_W": p.cols.length, "BLOCK_H": p.rows.length}
    unroll = 1
    if not channels_innermost(p.x_strides):
        blocks, num_warps = block_sizes(TILE, 16, **sides, BLOCK_C=channels)
    elif runtime.INTERPRET or windows * channels < 16 * runtime.num_sms() * cache_line(p.dtype):
        blocks, num_warps = block_sizes(TILE, 64, BLOCK_C=min(channels, cache_line(p.dtype)), **sides)
    else:
        # 16 bytes a thread of each of four pixels, as a sum in float32 takes a register; four such tiles are under way
        run = 4 * cache_line(p.dtype)
        blocks, num_warps = block_sizes(4 * run, 4 * run // 32, BLOCK_C=min(channels, run), **sides)
        unroll = 4
    return [Config("separate_windows", {**blocks, "UNROLL": unroll}, num_warps)]


def launch(problem: WindowMeans, config: Config, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Writes the means of x's windows to y: the two `operands`."""
    p = one_row(problem) or problem
    n, c, h, w = p.y_shape
    window_mean_kernel[(n * h * w * cdiv(c, config.blocks["BLOCK_C"]),)](
        *operands, p.divisor, *p.x_shape[1:], h, w, p.x_strides, p.y_strides, *p.rows, *p.cols,
        **config.blocks, num_warps=config.num_warps,
    )
