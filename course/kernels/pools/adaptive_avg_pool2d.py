"""The mean of windows that divide an image into a given number of rows and columns.

    y[n, c, i, j] = mean of x[n, c, floor(i * H / out_h) : ceil((i + 1) * H / out_h),
                                    floor(j * W / out_w) : ceil((j + 1) * W / out_w)]

Where out_h does not divide H, the windows differ in size by one row and neighbours share one. The engines are those of
avg_pool2d, which read x once: (N * C * H * W + N * C * out_h * out_w) * itemsize bytes.
"""
import torch

from course.kernels.parts.checks import check_tensors, in_one_line, pair
from course.kernels.parts.images import check_images, empty_images
from course.kernels.parts.modes import torch_function
from course.kernels.pools.avg_pool2d import average
from course.kernels.pools.windows import Windows
from course.operators import custom_op


@torch_function()
def adaptive_avg_pool2d(input: torch.Tensor, output_size: int | tuple[int | None, int | None]) -> torch.Tensor:
    """Mean of `input` (N, C, H, W) or (C, H, W) over as many windows as `output_size` says, for height and width.

    As `torch.nn.functional.adaptive_avg_pool2d`: one integer stands for both, None in a pair keeps the input's size,
    1 is the global average. Adds in float32 and rounds once. input may be float32, float16 or bfloat16, with any
    strides. Raises ValueError on other shapes and negative sizes, TypeError on other dtypes.
    """
    check_tensors("adaptive_avg_pool2d", input=input)
    check_images("adaptive_avg_pool2d", input)
    if isinstance(output_size, (tuple, list)):
        if len(output_size) != 2:
            got = in_one_line(output_size)
            raise ValueError(f"adaptive_avg_pool2d: expected output_size to be an integer or a pair, got {got}")
        output_size = tuple(kept if size is None else size for size, kept in zip(output_size, input.shape[-2:]))
    return _adaptive_avg_pool2d(input, *pair("adaptive_avg_pool2d", "output_size", output_size))


@custom_op("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    y = empty_images(x, (*x.shape[:-2], height, width))
    if y.numel() > 0:
        average(x, y, adaptive_windows(x.shape[-2], height), adaptive_windows(x.shape[-1], width))
    return y


@torch.library.register_fake(_adaptive_avg_pool2d)
def _(x, height, width):
    return empty_images(x, (*x.shape[:-2], height, width))


def adaptive_windows(size: int, out: int) -> Windows:
    """`out` windows over `size` elements, from floor(i * size / out) to ceil((i + 1) * size / out).

    The end is floor((i * size + size + out - 1) / out), in the form of `Windows`.
    """
    if size % out == 0:
        return Windows(size // out, 1, size // out)
    return Windows(size, out, size + out - 1)
