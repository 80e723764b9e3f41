"""The mean of windows that divide an image into a given number of rows and columns.

    y[n, c, i, j] = mean of x[n, c, floor(i * H / out_h) : ceil((i + 1) * H / out_h),
                                    floor(j * W / out_w) : ceil((j + 1) * W / out_w)]

Where out_h does not divide H, the windows differ in size by one row and neighbours share one. Each window is reduced
by avg_pool2d's kernels, which x crosses once: (N * C * H * W + N * C * out_h * out_w) * itemsize bytes.
"""
import torch

from course.kernels._checks import check_tensors
from course.kernels._window import check_images, empty_images, pair
from course.kernels.avg_pool2d import Windows, average
from course.runtime import custom_op


def adaptive_avg_pool2d(x: torch.Tensor, output_size: int | tuple[int | None, int | None]) -> torch.Tensor:
    """Mean of `x` (N, C, H, W) or (C, H, W) over as many windows as `output_size` says, for height and width.

    As `torch.nn.functional.adaptive_avg_pool2d`: one integer stands for both, None in a pair keeps the input's size,
    1 is the global average. Adds in float32 and rounds once. x may be float32, float16 or bfloat16, with any strides.
    Raises ValueError on other shapes and negative sizes, TypeError on other dtypes.
    """
    check_tensors("adaptive_avg_pool2d", x=x)
    check_images("adaptive_avg_pool2d", x)
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(kept if size is None else size for size, kept in zip(output_size, x.shape[-2:]))
    return _adaptive_avg_pool2d(x, *pair("adaptive_avg_pool2d", "output_size", output_size))


@custom_op("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    y = empty_images(x, height, width)
    if y.numel() == 0:
        return y
    rows, cols = (_windows(size, out) for size, out in zip(x.shape[-2:], (height, width)))
    return average(x, y, rows, cols)


@torch.library.register_fake(_adaptive_avg_pool2d)
def _(x, height, width):
    return empty_images(x, height, width)


def _windows(size: int, out: int) -> Windows:
    """floor(i * size / out) to ceil((i + 1) * size / out) = floor((i * size + size + out - 1) / out)."""
    if size % out == 0:
        return Windows(size // out, 1, size // out)
    return Windows(size, out, size + out - 1)
