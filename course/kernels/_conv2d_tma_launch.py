"""How a convolution gets to the kernel in `_conv2d_tma`: what the copy engine can read, and how it is told."""
import math

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels._activation import ACTIVATIONS
from course.kernels._arrivals import arrivals
from course.kernels._conv2d_tma import conv2d_tma_kernel
from course.kernels._conv2d_tma_configs import Layer, conv2d_tma_configs
from course.kernels._dot import conv_precision
from course.kernels._early_start import early_start
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import best_config


def tma_writes(x, weight, residual, out, padding, dilation, groups) -> bool:
    """Whether tensor cores multiply these numbers, and the copy engine can write the result."""
    precise = x.dtype == torch.float32 and conv_precision(x.dtype) == "ieee"
    if runtime.capability() not in ((9, 0), (10, 0)) or groups > 1 or precise:
        return False
    # no tap is so far away that 32 bits could not count the pixels
    near = all(d * taps < 2**24 for d, taps in zip(dilation, weight.shape[2:])) and max(padding) < 2**24
    return near and all(t is None or pixels_readable(t) for t in (residual, out))


def tma_reads(x, weight, residual, out, padding, dilation, groups) -> bool:
    """Whether beside that the copy engine can read images and filters as they are, 64 bytes or more at a time."""
    return (
        tma_writes(x, weight, residual, out, padding, dilation, groups) and pixels_readable(x)
        and x.shape[1] * x.itemsize % 64 == 0 and weight.data_ptr() % 16 == 0
    )  # fmt: skip


def pixels_readable(t: torch.Tensor) -> bool:
    """Whether the channels of every pixel lie side by side, from a multiple of 16 bytes on."""
    shape, strides, itemsize = t.shape, t.stride(), t.itemsize
    steps = [strides[d] * itemsize for d in (0, 2, 3) if shape[d] > 1]
    return strides[1] == 1 and t.data_ptr() % 16 == 0 and all([s > 0 and s % 16 == 0 for s in steps])


def pixel_steps(t: torch.Tensor) -> list[int]:
    """Steps to the next image, row and column; where there is none, one that the copy engine accepts."""
    shape, strides = t.shape, t.stride()
    return [strides[d] if shape[d] > 1 else 16 for d in (0, 2, 3)]


def conv2d_tma(x, weight, bias, residual, out, stride, padding, dilation, groups, activation):
    """Writes the convolution to `out`: 4-d, checked, not empty, and such that `tma_reads` says yes."""
    weight = weight.contiguous(memory_format=torch.channels_last)  # a copy, in the rare case that they are not
    whole = out
    K, C, R, S = weight.shape
    if R * S * max(stride) == 1 and max(padding) == 0:
        x, residual, out = one_pixel_each(x, residual, out)
    layer = Layer(x.shape[0], C, *x.shape[2:], K, *out.shape[2:], R, S, tuple(stride), tuple(padding[::2]),
                  tuple(dilation), x.dtype)  # fmt: skip

    def launch(config):
        blocks = dict(config.kwargs)
        most = blocks.pop("PER_SM") * runtime.num_sms()
        box, split = (blocks["IMAGES"], blocks["ROWS"], blocks["COLS"]), blocks["SPLIT_K"]
        boxes = tuple(map(cdiv, (layer.N, layer.P, layer.Q), box))
        tiles = cdiv(K, blocks["BLOCK_N"]) * math.prod(boxes)
        programs = min(most, tiles) if split == 1 else tiles * split
        parts = counters = None
        if split > 1:
            parts = x.new_empty(tiles * split * math.prod(box) * blocks["BLOCK_N"], dtype=torch.float32)
            counters = arrivals(tiles, x.device)
        slice_of_tile = [*slice_of_box(box, blocks["SLICES"]), blocks["BLOCK_N"]]
        conv2d_tma_kernel[(programs,)](
            describe_windows(x, layer, box, blocks["BLOCK_K"]),
            TensorDescriptor(weight, [K, R * S * C], [R * S * C, 1], [blocks["BLOCK_N"], blocks["BLOCK_K"]]),
            bias, residual if residual is None else describe_pixels(residual, slice_of_tile),
            describe_pixels(out, slice_of_tile), parts, counters,
            K, boxes, (layer.H, layer.W), layer.padding, layer.dilation, pixel_steps(x)[2],
            C=C, R=R, S=S, STRIDE=layer.stride, ACTIVATION=ACTIVATIONS[activation],
            PRECISION=conv_precision(x.dtype), **blocks,
            num_warps=config.num_warps, num_stages=config.num_stages,
            **early_start(programs, most=runtime.num_sms() // 2),
        )  # fmt: skip

    # batches of about one size share a choice
    key = ("tma", next_power_of_2(layer.N), *layer[1:])
    launch(best_config("conv2d", key, conv2d_tma_configs(layer), launch))
    return whole


def one_pixel_each(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    """The same memory as images of one pixel, if all of `tensors` allow it: filters of one tap need no more."""
    pixels = [t if t is None else t.permute(0, 2, 3, 1) for t in tensors]
    if not all(t is None or t.is_contiguous() for t in pixels):
        return list(tensors)
    return [t if t is None else t.view(-1, t.shape[-1], 1, 1) for t in pixels]


def describe_windows(x: torch.Tensor, layer: Layer, box: tuple[int, int, int], block_k: int) -> TensorDescriptor:
    """x such that one tap of a box of windows is a box: (images, rows / view, view, columns / view, view * channels).

    `view` is the stride where the box has more than one row or column, and 1 where it has not.
    """
    images, rows, cols = box
    view_h, view_w = (step if size > 1 else 1 for step, size in zip(layer.stride, (rows, cols)))
    image, row, col = pixel_steps(x)
    return TensorDescriptor(
        x, [layer.N, layer.H // view_h, view_h, layer.W // view_w, (view_w - 1) * col + x.shape[1]],
        [image, view_h * row, row, view_w * col, 1], [images, rows, 1, cols, block_k],
    )  # fmt: skip


def describe_pixels(t: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """A result or a residual, as (images, rows, columns, channels)."""
    n, c, h, w = t.shape
    return TensorDescriptor(t, [n, h, w, c], [*pixel_steps(t), 1], block)


def slice_of_box(box: tuple[int, int, int], slices: int) -> list[int]:
    """The first of `slices` equal parts of a box, cut along images first, then rows, then columns."""
    part = []
    for size in box:
        cut = min(size, slices)
        part.append(size // cut)
        slices //= cut
    return part
