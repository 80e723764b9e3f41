"""Means of few whole large images: each is cut into parts, so that every multiprocessor has work.

Two launches of `separate_windows`: the sum of each part, in float32, and from those sums the mean of each image.
"""
import torch

from course import runtime
from course.kernels.parts.sizes import cdiv
from course.kernels.pools import separate_windows
from course.kernels.pools.problem import WindowMeans, one_row
from course.kernels.pools.tiles import cache_line, channels_innermost
from course.kernels.pools.windows import Windows
from course.tuning import Config

PART_PIXELS = 64  # of a part, at least


def can_run(problem: WindowMeans) -> bool:
    """Images of which each is one window, fewer than it takes to fill the GPU."""
    row = one_row(problem)
    return row is not None and row.divisor is None and parts_of_an_image(row) > 1


def parts_of_an_image(row: WindowMeans) -> int:
    """Into about how many parts to cut an image, one row of pixels: four programs for each multiprocessor."""
    n, c, _, length = row.x_shape
    programs = n * cdiv(c, cache_line(row.dtype) if channels_innermost(row.x_strides) else c)
    return min(4 * runtime.num_sms() // programs, cdiv(length, PART_PIXELS))


def configs(problem: WindowMeans) -> list[Config]:
    """One configuration: the pixels of a part."""
    row = one_row(problem)
    part = cdiv(cdiv(row.x_shape[3], parts_of_an_image(row)), 16) * 16  # whole vectors
    return [Config("image_parts", {"PART": part})]


def launch(problem: WindowMeans, config: Config, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Writes the means of the images of x to y: the two `operands`."""
    row, (x, y) = one_row(problem), operands
    n, c, _, length = row.x_shape
    part = config.blocks["PART"]
    parts = cdiv(length, part)
    sums = torch.empty(n, 1, parts, c, dtype=torch.float32, device=x.device).permute(0, 3, 1, 2)
    of_parts = row._replace(
        y_shape=(n, c, 1, parts), y_strides=sums.stride(), cols=Windows(part, 1, part), divisor=1.0,
    )
    of_images = row._replace(
        x_shape=(n, c, 1, parts), x_strides=sums.stride(), cols=Windows(parts, 1, parts), divisor=float(length),
        dtype=torch.float32,
    )
    for means, tensors in ((of_parts, (x, sums)), (of_images, (sums, y))):
        separate_windows.launch(means, separate_windows.configs(means)[0], tensors)
