"""The largest element of each window that slides over an image.

    y[n, c, i, j] = max_{r, s} x[n, c, i * stride_h - padding_h + r * dilation_h,
                                       j * stride_w - padding_w + s * dilation_w]

One comparison for each of the window's elements: nothing beside the bytes, which are x read once and y written
once, (N * C * H * W + N * C * out_h * out_w) * itemsize, as long as what neighbouring windows share comes from
the cache. A program computes a tile of outputs, pixels by channels, and takes the elements of its windows one after the
other, each for the whole tile. What lies innermost in memory is loaded in vectors: the channels in channels_last, the
columns otherwise. An H200 takes 22.2 us for 3 x 3 / 2 of 42 images (64, 112, 112) in channels_last and float16 (PyTorch
148).
"""
import torch
import triton
import triton.language as tl

from course.kernels.parts.checks import check_tensors, flag, in_one_line, pair
from course.kernels.parts.images import empty_images
from course.kernels.parts.modes import torch_function
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.pools.tiles import output_blocks, output_grid, output_tile, pixel_pointers
from course.kernels.pools.windows import check_pool, pooled_size
from course.operators import custom_op


@triton.jit
def max_pool2d_kernel(
    x_ptr, y_ptr,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    x_strides, y_strides,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, UNROLL: tl.constexpr,
    PDL: tl.constexpr,
):
    """BLOCK_H * BLOCK_W pixels of BLOCK_C channels of one image.

    x_ptr (N, C, H, W), y_ptr (N, C, OUT_H, OUT_W), with their strides
    stride, padding, dilation, KERNEL: of the windows
    UNROLL: elements of a window whose loads are under way at once
    """
    n, h, w, c = output_tile(C, OUT_H, OUT_W, BLOCK_H, BLOCK_W, BLOCK_C)
    top = h * stride_h - padding_h
    left = w * stride_w - padding_w
    # the first element of each window, inside the image or not: from there, any other is equally far in all windows
    first = pixel_pointers(x_ptr, x_strides, n, top, left, c)

    pdl_wait(PDL)
    y = tl.full((BLOCK_H * BLOCK_W, BLOCK_C), -float("inf"), tl.float32)
    for element in tl.range(0, KERNEL_H * KERNEL_W, loop_unroll_factor=UNROLL):
        down = element // KERNEL_W * dilation_h
        right = element % KERNEL_W * dilation_w
        inside = (top + down >= 0) & (top + down < H) & (left + right >= 0) & (left + right < W)
        away = down.to(tl.int64) * x_strides[2] + right.to(tl.int64) * x_strides[3]
        x = tl.load(first + away, mask=inside[:, None] & (c < C)[None, :], other=-float("inf"))
        y = tl.maximum(y, x.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    pdl_launch_dependents(PDL)

    inside = ((h < OUT_H) & (w < OUT_W))[:, None] & (c < C)[None, :]
    tl.store(pixel_pointers(y_ptr, y_strides, n, h, w, c), y, mask=inside)


@torch_function()
def max_pool2d(
    input: torch.Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor:
    """Maximum over windows of `input` (N, C, H, W) or (C, H, W), as `torch.nn.functional.max_pool2d`.

    `stride` is kernel_size unless given; the padding counts as -inf; NaN wins over every number. input may be
    float32, float16 or bfloat16, with any strides. Raises ValueError on other shapes, on padding beyond half the
    kernel, on a window that does not fit, and on return_indices=True, as nothing keeps the indices; TypeError on other
    dtypes.
    """
    check_tensors("max_pool2d", input=input)
    if return_indices:
        got = in_one_line(return_indices)
        raise ValueError(f"max_pool2d: expected return_indices=False, got {got}: the kernel keeps no indices")
    kernel = pair("max_pool2d", "kernel_size", kernel_size, minimum=1)
    steps = kernel if stride is None or stride in ((), []) else pair("max_pool2d", "stride", stride, minimum=1)
    margin = pair("max_pool2d", "padding", padding)
    spread = pair("max_pool2d", "dilation", dilation, minimum=1)
    check_pool("max_pool2d", input, kernel, steps, margin, spread, flag("max_pool2d", "ceil_mode", ceil_mode))
    return _max_pool2d(input, kernel, steps, margin, spread, ceil_mode)


def empty_maxima(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> torch.Tensor:
    """An uninitialised result."""
    height = pooled_size(x.shape[-2], kernel[0], stride[0], padding[0], dilation[0], ceil_mode)
    width = pooled_size(x.shape[-1], kernel[1], stride[1], padding[1], dilation[1], ceil_mode)
    return empty_images(x, (*x.shape[:-2], height, width))


@custom_op("max_pool2d")
def _max_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> torch.Tensor:
    out = empty_maxima(x, kernel, stride, padding, dilation, ceil_mode)
    if out.numel() == 0:
        return out
    images, y = (x, out) if x.ndim == 4 else (x[None], out[None])
    blocks, num_warps = output_blocks(y.shape, y.stride(), y.dtype)
    max_pool2d_kernel[output_grid(y.shape, blocks)](
        images, y, *images.shape[1:], *y.shape[2:], images.stride(), y.stride(), *stride, *padding, *dilation,
        KERNEL_H=kernel[0], KERNEL_W=kernel[1], UNROLL=min(kernel[0] * kernel[1], 16),
        **blocks, num_warps=num_warps, **pdl_options(),
    )
    return out


torch.library.register_fake(_max_pool2d, empty_maxima)
