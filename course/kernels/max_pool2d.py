"""The largest element of each window that slides over an image.

    y[n, c, i, j] = max_{r, s} x[n, c, i * stride_h - padding_h + r * dilation_h,
                                       j * stride_w - padding_w + s * dilation_w]

One comparison for each of the window's elements: nothing beside the bytes, which are x read once and y written
once, (N * C * H * W + N * C * out_h * out_w) * itemsize, as long as what neighbouring windows share comes from
the cache. A program computes a tile of outputs, pixels by channels, and takes the windows' elements one after the
other, each for the whole tile. Whichever of the two lies innermost in memory gives the wide loads: the channels in
channels_last, the columns otherwise.
"""
import torch
import triton
import triton.language as tl

from course.kernels._checks import check_tensors
from course.kernels._early_start import early_start, let_next_start, wait_for_previous
from course.kernels._window import (
    check_pool, empty_images, output_blocks, output_tile, pair, pooled_size, tile_pointers,
)  # fmt: skip
from course.runtime import custom_op


@triton.jit
def max_pool2d_kernel(
    x_ptr, y_ptr,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    x_strides, y_strides,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    n, h, w, c = output_tile(C, OUT_H, OUT_W, BLOCK_H, BLOCK_W, BLOCK_C)
    top = h * stride_h - padding_h
    left = w * stride_w - padding_w
    # a window's first element, be it inside the image or not; the way from there to any other is the same for the tile
    first = tile_pointers(x_ptr, x_strides, n, top, left, c)

    wait_for_previous(EARLY)
    y = tl.full((BLOCK_H * BLOCK_W, BLOCK_C), -float("inf"), tl.float32)
    for element in tl.range(0, KERNEL_H * KERNEL_W, loop_unroll_factor=UNROLL):
        down = element // KERNEL_W * dilation_h
        right = element % KERNEL_W * dilation_w
        inside = (top + down >= 0) & (top + down < H) & (left + right >= 0) & (left + right < W)
        away = down.to(tl.int64) * x_strides[2] + right.to(tl.int64) * x_strides[3]
        x = tl.load(first + away, mask=inside[:, None] & (c < C)[None, :], other=-float("inf"))
        y = tl.maximum(y, x.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    let_next_start(EARLY)

    inside = ((h < OUT_H) & (w < OUT_W))[:, None] & (c < C)[None, :]
    tl.store(tile_pointers(y_ptr, y_strides, n, h, w, c), y, mask=inside)


def max_pool2d(
    x: torch.Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """Maximum over windows of `x` (N, C, H, W) or (C, H, W), as `torch.nn.functional.max_pool2d`.

    `stride` is kernel_size unless given; the padding counts as -inf; NaN wins over every number. x may be float32,
    float16 or bfloat16, with any strides. Raises ValueError on other shapes, on padding beyond half the kernel, on
    a window that does not fit; TypeError on other dtypes.
    """
    check_tensors("max_pool2d", x=x)
    kernel = pair("max_pool2d", "kernel_size", kernel_size, minimum=1)
    steps = kernel if stride is None else pair("max_pool2d", "stride", stride, minimum=1)
    margin = pair("max_pool2d", "padding", padding)
    spread = pair("max_pool2d", "dilation", dilation, minimum=1)
    check_pool("max_pool2d", x, kernel, steps, margin, spread, ceil_mode)
    return _max_pool2d(x, kernel, steps, margin, spread, ceil_mode)


@custom_op("max_pool2d")
def _max_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> torch.Tensor:
    out = _empty_output(x, kernel, stride, padding, dilation, ceil_mode)
    if out.numel() == 0:
        return out
    images, y = (x, out) if x.ndim == 4 else (x[None], out[None])
    grid, blocks = output_blocks(y)
    max_pool2d_kernel[grid](
        images, y, *images.shape[1:], *y.shape[2:], images.stride(), y.stride(), *stride, *padding, *dilation,
        KERNEL_H=kernel[0], KERNEL_W=kernel[1], UNROLL=min(kernel[0] * kernel[1], 16), **blocks, **early_start(),
    )  # fmt: skip
    return out


@torch.library.register_fake(_max_pool2d)
def _empty_output(x, kernel, stride, padding, dilation, ceil_mode):
    h, w = (pooled_size(*dim, ceil_mode) for dim in zip(x.shape[-2:], kernel, stride, padding, dilation))
    return empty_images(x, h, w)
