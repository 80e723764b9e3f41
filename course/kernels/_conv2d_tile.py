"""What conv2d's kernels share: which pixels a tile holds, how it lies in memory, and how it becomes the result.

A tile holds pixels along one dimension and channels along the other. Neighbouring threads follow the last
dimension, so that one has to be the one whose elements are neighbours in memory: the channels of a
channels_last tensor (PIXEL_DIM = 0), the pixels of a contiguous one (PIXEL_DIM = 1).
"""
from collections.abc import Sequence

import torch
import triton
import triton.language as tl


@triton.jit
def along(v, DIM: tl.constexpr):
    """The vector v along dimension DIM of a tile, with size 1 along the other."""
    return tl.expand_dims(v, 1 - DIM)


@triton.jit
def output_pixels(first, n_pixels, P, Q, BLOCK: tl.constexpr):
    """Image, row and column of the output pixels first, first + 1, ... (the last one again past the end).

    `first` may pass 2**31: it is taken apart once, so that the vectors need only short divisions.
    """
    row = first // Q
    ahead = tl.minimum(tl.arange(0, BLOCK), n_pixels - 1 - first).to(tl.int32) + (first % Q).to(tl.int32)
    p = (row % P).to(tl.int32) + ahead // Q
    return row // P + p // P, p % P, ahead % Q


@triton.jit
def finish(
    acc, bias_ptr, residual_ptr, out_ptr, n, p, q, pixel_inside, k, k_inside, residual_strides, out_strides,
    ACTIVATION: tl.constexpr, PIXEL_DIM: tl.constexpr,
):  # fmt: skip
    """Stores activation(acc + bias + residual), computed in float32, at the pixels n, p, q and the channels k."""
    K_DIM: tl.constexpr = 1 - PIXEL_DIM
    inside = along(pixel_inside, PIXEL_DIM) & along(k_inside, K_DIM)
    if bias_ptr is not None:
        acc += along(tl.load(bias_ptr + k, mask=k_inside).to(tl.float32), K_DIM)
    if residual_ptr is not None:
        offs = image_offset(n, p, q, residual_strides)
        residual_ptrs = residual_ptr + along(offs, PIXEL_DIM) + along(k.to(tl.int64) * residual_strides[1], K_DIM)
        acc += tl.load(residual_ptrs, mask=inside).to(tl.float32)
    if ACTIVATION is not None:
        acc = ACTIVATION(acc)
    offs = image_offset(n, p, q, out_strides)
    out_ptrs = out_ptr + along(offs, PIXEL_DIM) + along(k.to(tl.int64) * out_strides[1], K_DIM)
    tl.store(out_ptrs, acc, mask=inside)


@triton.jit
def image_offset(n, h, w, strides):
    return n.to(tl.int64) * strides[0] + h.to(tl.int64) * strides[2] + w.to(tl.int64) * strides[3]


def geometry(
    x: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor, kernel_size: tuple[int, int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> dict:  # fmt: skip
    """The arguments that say where everything lies, the same for every kernel; of `padding` the top and the left."""
    # int64 within a window only where an image needs it
    reach = [d * k for d, k in zip(dilation, kernel_size)]
    farthest = x.shape[1] * x.stride(1) + reach[0] * x.stride(2) + reach[1] * x.stride(3)
    return dict(
        n_pixels=out.shape[0] * out.shape[2] * out.shape[3],
        image=tuple(x.shape[2:]), result=tuple(out.shape[2:]),
        stride=tuple(stride), padding=(padding[0], padding[2]), dilation=tuple(dilation),
        x_strides=x.stride(), out_strides=out.stride(),
        residual_strides=out.stride() if residual is None else residual.stride(),
        INDEX=tl.int32 if farthest < 2**31 else tl.int64,
    )  # fmt: skip
