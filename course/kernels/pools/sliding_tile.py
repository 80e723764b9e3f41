"""Means of short or overlapping windows: a program computes a tile of outputs, and slides it over the windows.

It takes the elements of its windows one after the other, each for all outputs of the tile, as max_pool2d does.
"""
import torch
import triton
import triton.language as tl

from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.pools.problem import WindowMeans
from course.kernels.pools.tiles import output_blocks, output_grid, output_tile, pixel_pointers
from course.tuning import Config

SHORT = 32  # elements of a window that one thread adds up


@triton.jit
def avg_pool2d_kernel(
    x_ptr, y_ptr,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    x_strides, y_strides,
    stride_h, stride_w, padding_h, padding_w, counted_h, counted_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
    PDL: tl.constexpr,
):
    """BLOCK_H * BLOCK_W pixels of BLOCK_C channels of one image.

    x_ptr (N, C, H, W), y_ptr (N, C, OUT_H, OUT_W), with their strides
    stride, padding, KERNEL: of the windows; counted: how many elements of the padding count on either side
    UNROLL: elements of a window whose loads are under way at once
    """
    n, h, w, c = output_tile(C, OUT_H, OUT_W, BLOCK_H, BLOCK_W, BLOCK_C)
    top = h * stride_h - padding_h
    left = w * stride_w - padding_w
    first = pixel_pointers(x_ptr, x_strides, n, top, left, c)

    pdl_wait(PDL)
    total = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for element in tl.range(0, KERNEL_H * KERNEL_W, loop_unroll_factor=UNROLL):
        down = element // KERNEL_W
        right = element % KERNEL_W
        inside = (top + down >= 0) & (top + down < H) & (left + right >= 0) & (left + right < W)
        away = down.to(tl.int64) * x_strides[2] + right.to(tl.int64) * x_strides[3]
        total += tl.load(first + away, mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
    pdl_launch_dependents(PDL)

    high = window_length(top, top + KERNEL_H, H, counted_h)
    wide = window_length(left, left + KERNEL_W, W, counted_w)
    count = tl.maximum(high * wide, 1)  # a pixel past the edge of y may have none, and is not stored
    y = total / count.to(tl.float32)[:, None]
    inside = ((h < OUT_H) & (w < OUT_W))[:, None] & (c < C)[None, :]
    tl.store(pixel_pointers(y_ptr, y_strides, n, h, w, c), y, mask=inside)


@triton.jit
def window_length(start, end, size, counted):
    """How many elements of [start, end) there are in [0, size), with `counted` elements of padding on either side."""
    return tl.minimum(end, size + counted) - tl.maximum(start, -counted)


def can_run(problem: WindowMeans) -> bool:
    """Windows of one size that are short or overlap."""
    rows, cols = problem.rows, problem.cols
    sides = (rows, problem.y_shape[2]), (cols, problem.y_shape[3])
    overlap = any(windows.step < windows.length and n > 1 for windows, n in sides)
    regular = rows.over == cols.over == 1 and problem.divisor is None
    return regular and (overlap or rows.length * cols.length <= SHORT)


def configs(problem: WindowMeans) -> list[Config]:
    """One configuration."""
    blocks, num_warps = output_blocks(problem.y_shape, problem.y_strides, problem.dtype)
    unroll = min(problem.rows.length * problem.cols.length, 16)
    return [Config("sliding_tile", {**blocks, "UNROLL": unroll}, num_warps)]


def launch(problem: WindowMeans, config: Config, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Writes the means of x's windows to y: the two `operands`."""
    p, rows, cols = problem, problem.rows, problem.cols
    avg_pool2d_kernel[output_grid(p.y_shape, config.blocks)](
        *operands, *p.x_shape[1:], *p.y_shape[2:], p.x_strides, p.y_strides,
        rows.step, cols.step, rows.padding, cols.padding, rows.counted, cols.counted,
        KERNEL_H=rows.length, KERNEL_W=cols.length, **config.blocks, num_warps=config.num_warps, **pdl_options(),
    )
