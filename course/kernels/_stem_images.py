"""Images of few channels, packed so that the copy engine can read the windows of a 7x7 convolution of stride 2.

    packed[n, TOP + h, LEFT + w, c] = x[n, c, h, w], and zeros everywhere else, in the fourth channel too

A window's row is then 8 pixels by 4 channels, 32 neighbours in memory (the first pixel's weights are zero), and the
next window's starts two pixels on. Cost: x read once, (N * H * W * 4 + border) * itemsize bytes written.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course.kernels._sizes import cdiv

TOP, LEFT = 3, 6  # the first window of a program's first group begins six pixels before the image
GROUP = 7
"""Pooled pixels of a group: 14 columns of the convolution, 28 of the image."""


class Sizes(NamedTuple):
    """What comes of images of one size: the convolution's, the pooled result's, the packed images', and the groups."""

    conv_h: int
    conv_w: int
    out_h: int
    out_w: int
    packed_h: int
    packed_w: int
    groups: int


def stem_sizes(H: int, W: int) -> Sizes:
    conv_h, conv_w = (H + 1) // 2, (W + 1) // 2
    out_h, out_w = (conv_h + 1) // 2, (conv_w + 1) // 2
    groups = cdiv(out_w, GROUP)
    return Sizes(conv_h, conv_w, out_h, out_w, 2 * conv_h + 5, 28 * groups + 10, groups)


@triton.jit
def pack_images_kernel(
    x_ptr, packed_ptr, x_strides, H, W, packed_h, packed_w, C: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    blocks_h, blocks_w = tl.cdiv(packed_h, BLOCK_H), tl.cdiv(packed_w, BLOCK_W)
    first = tl.program_id(0) % blocks_w * BLOCK_W
    row = tl.program_id(0) // blocks_w % blocks_h * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    n = (tl.program_id(0) // blocks_w // blocks_h).to(tl.int64)

    h, w = row - TOP, first - LEFT + tl.arange(0, BLOCK_W)[None, :]
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
    ptrs = x_ptr + n * x_strides[0] + h.to(tl.int64) * x_strides[2] + w.to(tl.int64) * x_strides[3]
    c0 = tl.load(ptrs, mask=inside, other=0.0)
    c1 = tl.load(ptrs + x_strides[1], mask=inside & (C > 1), other=0.0)
    c2 = tl.load(ptrs + 2 * x_strides[1], mask=inside & (C > 2), other=0.0)
    c3 = tl.load(ptrs + 3 * x_strides[1], mask=inside & (C > 3), other=0.0)
    pixels = tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(BLOCK_H, BLOCK_W * 4)

    element = first * 4 + tl.arange(0, BLOCK_W * 4)[None, :]
    inside = (row < packed_h) & (element < packed_w * 4)
    tl.store(packed_ptr + (n * packed_h + row) * (packed_w * 4) + element, pixels, mask=inside)


def pack_images(x: torch.Tensor) -> torch.Tensor:
    """x (N, C, H, W), C at most 4, as (N, packed_h, packed_w, 4)."""
    N, C, H, W = x.shape
    sizes = stem_sizes(H, W)
    packed = x.new_empty(N, sizes.packed_h, sizes.packed_w, 4)
    block_h, block_w = 4, 256
    programs = N * cdiv(sizes.packed_h, block_h) * cdiv(sizes.packed_w, block_w)
    pack_images_kernel[(programs,)](
        x, packed, x.stride(), H, W, sizes.packed_h, sizes.packed_w,
        C=C, TOP=TOP, LEFT=LEFT, BLOCK_H=block_h, BLOCK_W=block_w, num_warps=4,
    )  # fmt: skip
    return packed
