"""The mean of each window over an image.

    y[n, c, i, j] = 1 / count[i, j] * sum_{r, s} x[n, c, i * stride_h - padding_h + r, j * stride_w - padding_w + s]

One addition for each of the window's elements: nothing beside the bytes, which are x read once and y written
once, (N * C * H * W + N * C * out_h * out_w) * itemsize.

The engines, of which the first that can run computes; on an H200, in float16 with innermost channels:

    sliding_tile        windows that are short or overlap: 2 x 2 of 42 images (64, 112, 112) in 21.9 us (PyTorch 203)
    row_means           small whole images, one pixel after the other in memory
    image_means         small whole images, innermost channels: 334 images (512, 7, 7) in 6.2 us (PyTorch 10.6)
    image_parts         few large whole images
    separate_windows    everything else: windows that are long and apart, differ in size, or have a divisor of their own
"""
import torch

from course.kernels.parts.checks import LARGEST, check_tensors, flag, integer, pair
from course.kernels.parts.images import empty_images
from course.kernels.parts.modes import torch_function
from course.kernels.pools import image_means, image_parts, row_means, separate_windows, sliding_tile
from course.kernels.pools.problem import WindowMeans
from course.kernels.pools.windows import Windows, check_pool, pooled_size
from course.operators import custom_op
from course.tuning import Engines

ENGINES = Engines("avg_pool2d", sliding_tile, row_means, image_means, image_parts, separate_windows)


@torch_function()
def avg_pool2d(
    input: torch.Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Mean over windows of `input` (N, C, H, W) or (C, H, W), as `torch.nn.functional.avg_pool2d`.

    `stride` is kernel_size unless given; the padding adds zeros, which `count_include_pad` counts;
    `divisor_override`, not 0, divides every sum in place of the number of elements. Adds in float32 and rounds once.
    input may be float32, float16 or bfloat16, with any strides. Raises ValueError on other shapes, on padding beyond
    half the kernel, on a window that does not fit; TypeError on other dtypes.
    """
    check_tensors("avg_pool2d", input=input)
    kernel = pair("avg_pool2d", "kernel_size", kernel_size, minimum=1)
    steps = kernel if stride is None or stride in ((), []) else pair("avg_pool2d", "stride", stride, minimum=1)
    margin = pair("avg_pool2d", "padding", padding)
    check_pool("avg_pool2d", input, kernel, steps, margin, ceil_mode=flag("avg_pool2d", "ceil_mode", ceil_mode))
    flag("avg_pool2d", "count_include_pad", count_include_pad)
    divisor = None
    if divisor_override is not None:
        divisor = integer("avg_pool2d", "divisor_override", divisor_override)
        if not 1 <= abs(divisor) <= LARGEST:
            raise ValueError(f"avg_pool2d: expected divisor_override other than 0, up to {LARGEST}, got {divisor}")
    return _avg_pool2d(input, kernel, steps, margin, ceil_mode, count_include_pad, divisor)


def empty_means(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_include_pad: bool,
    divisor: int | None = None,
) -> torch.Tensor:
    """An uninitialised result."""
    height = pooled_size(x.shape[-2], kernel[0], stride[0], padding[0], ceil_mode=ceil_mode)
    width = pooled_size(x.shape[-1], kernel[1], stride[1], padding[1], ceil_mode=ceil_mode)
    return empty_images(x, (*x.shape[:-2], height, width))


@custom_op("avg_pool2d")
def _avg_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, count_include_pad: bool,
    divisor: int | None = None,
) -> torch.Tensor:
    y = empty_means(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    if y.numel() > 0:
        rows = kernel_windows(kernel[0], stride[0], padding[0], count_include_pad)
        cols = kernel_windows(kernel[1], stride[1], padding[1], count_include_pad)
        average(x, y, rows, cols, None if divisor is None else float(divisor))
    return y


torch.library.register_fake(_avg_pool2d, empty_means)


def kernel_windows(kernel: int, stride: int, padding: int, count_include_pad: bool) -> Windows:
    """Windows of `kernel` elements, `stride` apart, of which the first begins `padding` elements before the image."""
    return Windows(stride, 1, kernel - padding, padding, counted=padding if count_include_pad else 0)


def average(x: torch.Tensor, y: torch.Tensor, rows: Windows, cols: Windows, divisor: float | None = None) -> None:
    """Writes the mean of each window of `x`, where one of `rows` crosses one of `cols`, to `y`, not empty.

    A `divisor` divides the sums in place of the number of elements.
    """
    if x.ndim == 3:
        x, y = x[None], y[None]
    ENGINES.compute(WindowMeans(x.shape, y.shape, x.stride(), y.stride(), rows, cols, x.dtype, divisor), (x, y))
