"""The mean of each window over an image.

    y[n, c, i, j] = 1 / count[i, j] * sum_{r, s} x[n, c, i * stride_h - padding_h + r, j * stride_w - padding_w + s]

One addition for each of the window's elements: nothing beside the bytes, which are x read once and y written
once, (N * C * H * W + N * C * out_h * out_w) * itemsize.

Two kernels share the work. Where windows are short or overlap, a program computes a tile of outputs and takes the
windows' elements one after the other, as max_pool2d does. Where they are long and apart, or differ in size
(adaptive_avg_pool2d), the threads of a program read one window together, for some of the channels. Small whole
images, one row after the other in memory, go to _row_means, and with innermost channels to _image_means.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._checks import check_tensors
from course.kernels._early_start import early_start, let_next_start, wait_for_previous
from course.kernels._image_means import has_small_images, image_means
from course.kernels._row_means import has_short_rows, row_means
from course.kernels._sizes import cdiv
from course.kernels._window import (
    block_sizes, cache_line, channels_innermost, check_pool, empty_images, output_blocks, output_tile, pair,
    pooled_size, tile_index, tile_pointers,
)  # fmt: skip
from course.runtime import custom_op

TILE = 4096  # elements of windows that a program reads at a time
PART = 64  # elements, at least, of the parts that a long row is cut into
SHORT = 32  # elements of a window that one thread adds up


@triton.jit
def avg_pool2d_kernel(
    x_ptr, y_ptr,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    x_strides, y_strides,
    stride_h, stride_w, padding_h, padding_w, counted_h, counted_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    n, h, w, c = output_tile(C, OUT_H, OUT_W, BLOCK_H, BLOCK_W, BLOCK_C)
    top = h * stride_h - padding_h
    left = w * stride_w - padding_w
    first = tile_pointers(x_ptr, x_strides, n, top, left, c)

    wait_for_previous(EARLY)
    total = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for element in tl.range(0, KERNEL_H * KERNEL_W, loop_unroll_factor=UNROLL):
        down = element // KERNEL_W
        right = element % KERNEL_W
        inside = (top + down >= 0) & (top + down < H) & (left + right >= 0) & (left + right < W)
        away = down.to(tl.int64) * x_strides[2] + right.to(tl.int64) * x_strides[3]
        total += tl.load(first + away, mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
    let_next_start(EARLY)

    high = window_length(top, top + KERNEL_H, H, counted_h)
    wide = window_length(left, left + KERNEL_W, W, counted_w)
    count = tl.maximum(high * wide, 1)  # a pixel past the edge of y may have none, and is not stored
    y = total / count.to(tl.float32)[:, None]
    inside = ((h < OUT_H) & (w < OUT_W))[:, None] & (c < C)[None, :]
    tl.store(tile_pointers(y_ptr, y_strides, n, h, w, c), y, mask=inside)


@triton.jit
def window_length(start, end, size, counted):
    """How many elements of [start, end) there are in [0, size), with `counted` elements of padding on either side."""
    return tl.minimum(end, size + counted) - tl.maximum(start, -counted)


@triton.jit
def window_mean_kernel(
    x_ptr, y_ptr, divisor, C, H, W, OUT_H, OUT_W, x_strides, y_strides,
    step_h, over_h, reach_h, padding_h, counted_h, step_w, over_w, reach_w, padding_w, counted_w,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
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
            x = tl.load(tile_pointers(x_ptr, x_strides, n, row, col, channels),
                        mask=inside[:, None] & (channels < C)[None, :], other=0.0)  # fmt: skip
            total += x.to(tl.float32)

    if divisor is None:
        high = window_length(top, bottom, H, counted_h)
        wide = window_length(left, right, W, counted_w)
        divisor = (high * wide).to(tl.float32)
    y = tl.sum(total, axis=0) / divisor
    y_ptr += n * y_strides[0] + h.to(tl.int64) * y_strides[2] + w.to(tl.int64) * y_strides[3]
    tl.store(y_ptr + channels.to(tl.int64) * y_strides[1], y, mask=channels < C)


def avg_pool2d(
    x: torch.Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> torch.Tensor:
    """Mean over windows of `x` (N, C, H, W) or (C, H, W), as `torch.nn.functional.avg_pool2d`.

    `stride` is kernel_size unless given; the padding adds zeros, which `count_include_pad` counts. Adds in float32 and
    rounds once. x may be float32, float16 or bfloat16, with any strides. Raises ValueError on other shapes, on padding
    beyond half the kernel, on a window that does not fit; TypeError on other dtypes.
    """
    check_tensors("avg_pool2d", x=x)
    kernel = pair("avg_pool2d", "kernel_size", kernel_size, minimum=1)
    steps = kernel if stride is None else pair("avg_pool2d", "stride", stride, minimum=1)
    margin = pair("avg_pool2d", "padding", padding)
    check_pool("avg_pool2d", x, kernel, steps, margin, ceil_mode=ceil_mode)
    return _avg_pool2d(x, kernel, steps, margin, ceil_mode, count_include_pad)


@custom_op("avg_pool2d")
def _avg_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_include_pad: bool
) -> torch.Tensor:
    out = _empty_output(x, kernel, stride, padding, ceil_mode, count_include_pad)
    rows, cols = (Windows(s, 1, k - p, p, p * count_include_pad) for k, s, p in zip(kernel, stride, padding))
    return average(x, out, rows, cols)


@torch.library.register_fake(_avg_pool2d)
def _empty_output(x, kernel, stride, padding, ceil_mode, count_include_pad):
    h, w = (pooled_size(*dim, 1, ceil_mode) for dim in zip(x.shape[-2:], kernel, stride, padding))
    return empty_images(x, h, w)


class Windows(NamedTuple):
    """The windows along one dimension: number i spans [i * step // over - padding, (i * step + reach) // over)."""

    step: int
    over: int
    reach: int
    padding: int = 0
    counted: int = 0
    """how much of the padding counts on either side"""

    @property
    def length(self) -> int:
        return self.reach // self.over + self.padding


def average(x: torch.Tensor, y: torch.Tensor, rows: Windows, cols: Windows) -> torch.Tensor:
    """Writes the mean of each window of `x`, where one of `rows` crosses one of `cols`, to `y`, and returns it."""
    if y.numel() == 0:
        return y
    images, means = (x, y) if x.ndim == 4 else (x[None], y[None])
    height, width = images.shape[2:]
    equal = rows.over == cols.over == 1
    apart = all(dim.step >= dim.length or n == 1 for dim, n in zip((rows, cols), means.shape[2:]))
    if equal and not (apart and rows.length * cols.length > SHORT):
        grid, blocks = output_blocks(means)
        avg_pool2d_kernel[grid](
            images, means, *images.shape[1:], *means.shape[2:], images.stride(), means.stride(),
            rows.step, cols.step, rows.padding, cols.padding, rows.counted, cols.counted,
            KERNEL_H=rows.length, KERNEL_W=cols.length, UNROLL=min(rows.length * cols.length, 16),
            **blocks, **early_start(),
        )  # fmt: skip
    elif means.shape[2:] == (1, 1) and _whole(rows, height) and _whole(cols, width) and _flat(images):
        _mean_of_images(images, means)
    else:
        _mean_of_windows(images, means, rows, cols)
    return y


def _whole(windows: Windows, size: int) -> bool:
    return windows.padding == 0 and windows.length >= size


def _flat(images) -> bool:
    """Whether one row follows the other in memory."""
    return images.stride(2) == images.shape[3] * images.stride(3)


def _mean_of_images(x, y):
    """The mean of each channel of each image, as one row; where these are few, the row is cut into parts."""
    n, c, h, w = x.shape
    x = x.view(n, c, 1, h * w)
    if has_short_rows(x):
        return row_means(x, y)
    if has_small_images(x):
        return image_means(x, y)
    one, row = Windows(1, 1, 1), Windows(h * w, 1, h * w)
    programs = n * cdiv(c, cache_line(x) if channels_innermost(x) else c)
    parts = min(4 * runtime.num_sms() // programs, cdiv(h * w, PART))
    if parts <= 1:
        return _mean_of_windows(x, y, one, row)
    part = cdiv(cdiv(h * w, parts), 16) * 16  # whole vectors
    parts = cdiv(h * w, part)
    sums = torch.empty(n, 1, parts, c, dtype=torch.float32, device=x.device).permute(0, 3, 1, 2)
    _mean_of_windows(x, sums, one, Windows(part, 1, part), divisor=1.0)
    _mean_of_windows(sums, y, one, Windows(parts, 1, parts), divisor=float(h * w))


def _mean_of_windows(x, y, rows, cols, divisor=None):
    n, c, h, w = y.shape
    blocks = _window_blocks(x, n * h * w, rows, cols)
    grid = (n * h * w * cdiv(c, blocks["BLOCK_C"]),)
    window_mean_kernel[grid](x, y, divisor, *x.shape[1:], h, w, x.stride(), y.stride(), *rows, *cols, **blocks)


def _window_blocks(x, n_windows, rows, cols):
    """Threads that share a window have to add up their sums in the end. So where channels are innermost and the windows
    are many, a warp's threads lie along the channels, and each adds up whole windows on its own."""
    channels = x.shape[1]
    if not channels_innermost(x):
        return {**block_sizes(TILE, 16, BLOCK_W=cols.length, BLOCK_H=rows.length, BLOCK_C=channels), "UNROLL": 1}
    if runtime.INTERPRET or n_windows * channels < 16 * runtime.num_sms() * cache_line(x):
        sizes = dict(BLOCK_C=min(channels, cache_line(x)), BLOCK_W=cols.length, BLOCK_H=rows.length)
        return {**block_sizes(TILE, 64, **sizes), "UNROLL": 1}
    # 16 bytes a thread of each of four pixels, as a sum in float32 takes a register; four such tiles are under way
    run = 4 * cache_line(x)
    sizes = dict(BLOCK_C=min(channels, run), BLOCK_W=cols.length, BLOCK_H=rows.length)
    return {**block_sizes(4 * run, 4 * run // 32, **sizes), "UNROLL": 4}
