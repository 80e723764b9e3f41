"""A ResNet's first layers in one kernel: 7x7 convolution, bias, ReLU and 3x3 max pool, the two windows of stride 2.

    y[n, k, i, j] = relu(bias[k] + max over p = 2i - 1 .. 2i + 1, q = 2j - 1 .. 2j + 1 of conv[n, k, p, q])
    conv[n, k, p, q] = sum over r, s, c of x[n, c, 2p - 3 + r, 2q - 3 + s] * weight[k, c, r, s]

The convolution's 64 channels at a quarter of the pixels are five times the bytes of the images; here they never leave
the registers. Bias and ReLU come after the maximum, which leaves the result as it is and a quarter of the work.

The images are packed first, such that what one row of a filter sees lies side by side:

    packed[n, TOP + h, LEFT + w, c] = x[n, c, h, w], and zeros everywhere else, in the fourth channel too

A window's row is then 8 pixels by 4 channels, 32 neighbours in memory (the first pixel's weights are zero), and the
next window's starts two pixels on. A descriptor whose rows overlap lets TMA bring a tile's windows as one box, where
pointers would gather.

A program computes some rows of y in a strip, from top to bottom. Nine packed rows serve the two rows of the
convolution that each row of y adds; the third is the lower one of the row before. A strip's columns are SPANS spans of
16, each of which begins 14 after the last: what 7 pooled pixels see, and one more. They are taken in the order
(8, spans, 2), because a tensor core leaves pairs of neighbouring columns, and every fourth pair, with one thread: in
this order a thread has whole spans, and the pool is between its registers.

Cost: 2 * N * P * Q * K * 224 operations, of which 147 of 224 count, and 8/7 of that for the spans' overlap;
N * H * W * (4 + K / 16) * itemsize bytes, after the packing's N * H * W * (C + 4) * itemsize.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels.convolution.conv2d import conv2d
from course.kernels.parts.activation import relu_op
from course.kernels.parts.checks import check_tensors
from course.kernels.parts.dot import dot
from course.kernels.parts.modes import torch_function
from course.kernels.parts.sizes import cdiv
from course.kernels.parts.tf32 import round_to_tf32, rounded_to_tf32
from course.kernels.pools.max_pool2d import max_pool2d
from course.operators import custom_op
from course.precision import conv_precision

TOP, LEFT = 3, 6  # the first window of a program's first span begins six pixels before the image
POOLED = 7  # pixels of y in a span: 14 columns of the convolution, 28 of the image
SPANS = 4  # of a strip: 28 pixels of y
BLOCK_N = 64


class Sizes(NamedTuple):
    """What images of one size become: the convolution's rows and columns, y's, the packed images', and y's spans."""

    conv_h: int
    conv_w: int
    out_h: int
    out_w: int
    packed_h: int
    packed_w: int
    spans: int


def stem_sizes(H: int, W: int) -> Sizes:
    conv_h, conv_w = (H + 1) // 2, (W + 1) // 2
    out_h, out_w = (conv_h + 1) // 2, (conv_w + 1) // 2
    spans = cdiv(out_w, POOLED)
    return Sizes(conv_h, conv_w, out_h, out_w, 2 * conv_h + 5, 28 * spans + 10, spans)


@triton.jit
def pack_images_kernel(
    x_ptr, packed_ptr, x_strides, H, W, packed_h, packed_w,
    C: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ROUNDING: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):
    """Packs BLOCK_H by BLOCK_W pixels of x (N, C, H, W), C at most 4, into `packed` (N, packed_h, packed_w, 4)."""
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
    if ROUNDING is not None:
        pixels = ROUNDING(pixels)

    element = first * 4 + tl.arange(0, BLOCK_W * 4)[None, :]
    inside = (row < packed_h) & (element < packed_w * 4)
    tl.store(packed_ptr + (n * packed_h + row) * (packed_w * 4) + element, pixels, mask=inside)


def pack_images(x: torch.Tensor, sizes: Sizes, rounding: triton.JITFunction | None) -> torch.Tensor:
    """x (N, C, H, W), C at most 4, as (N, packed_h, packed_w, 4), each number as `rounding` makes it."""
    N, C, H, W = x.shape
    packed = x.new_empty(N, sizes.packed_h, sizes.packed_w, 4)
    block_h, block_w = 4, 256
    programs = N * cdiv(sizes.packed_h, block_h) * cdiv(sizes.packed_w, block_w)
    pack_images_kernel[(programs,)](
        x, packed, x.stride(), H, W, sizes.packed_h, sizes.packed_w,
        C=C, TOP=TOP, LEFT=LEFT, ROUNDING=rounding, BLOCK_H=block_h, BLOCK_W=block_w, num_warps=4,
    )
    return packed


@triton.jit(do_not_specialize=["packed_h", "conv_h", "conv_w", "out_h", "out_w", "strips", "chunks", "rows"])
def stem_kernel(
    packed_desc, weight_ptr, bias_ptr, y_ptr,
    n_filters, packed_h, conv_h, conv_w, out_h, out_w, strips, chunks, rows,
    ROUNDING: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, SPANS: tl.constexpr,
):
    """`rows` rows of y in one strip, for BLOCK_N of the filters.

    packed_desc: the packed images (N * packed_h, 8, spans, 2, 32), a row of the windows of SPANS spans at a time
    weight_ptr, bias_ptr: (K, 7, 8, 4) and (K,), contiguous
    y_ptr: (N, out_h, out_w, K), contiguous
    strips, chunks: how many an image has beside each other, and how many a strip has below each other
    """
    COLS: tl.constexpr = 16 * SPANS
    span = tl.program_id(0) % strips * SPANS
    start = tl.program_id(0) // strips % chunks * rows
    n = tl.program_id(0) // strips // chunks
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]

    col = tl.arange(0, COLS)[None, :]
    q = (span + col // 2 % SPANS) * 14 + col // (2 * SPANS) * 2 + col % 2 - 1
    pixel = tl.arange(0, 8 * SPANS)[None, :]
    j = (span + pixel // 8) * 7 + pixel % 8
    inside = (pixel % 8 < 7) & (j < out_w) & (k < n_filters)

    w = weight_ptr + tl.minimum(k, n_filters - 1) * (7 * 32) + tl.arange(0, 32)[None, :]
    weights = (tl.load(w), tl.load(w + 32), tl.load(w + 64), tl.load(w + 96), tl.load(w + 128), tl.load(w + 160),
               tl.load(w + 192))
    bias = tl.load(bias_ptr + k, mask=k < n_filters).to(tl.float32)

    above = tl.zeros((BLOCK_N, COLS), tl.float32)
    for i in range(start - 1, tl.minimum(start + rows, out_h)):  # one row early, for its lower half
        upper = tl.zeros((BLOCK_N, COLS), tl.float32)
        lower = tl.zeros((BLOCK_N, COLS), tl.float32)
        for r in tl.static_range(9):
            x = packed_desc.load([n * packed_h + 4 * i + r, 0, span, 0, 0]).reshape(COLS, 32).T
            if r < 7:
                upper = dot(weights[r], x, upper, PRECISION)
            if r >= 2:
                lower = dot(weights[r - 2], x, lower, PRECISION)
        lower = tl.where((i >= 0) & (2 * i + 1 < conv_h), lower, -float("inf"))
        conv = tl.where((q >= 0) & (q < conv_w), largest(above, upper, lower), -float("inf"))
        if i >= start:
            y = relu_op(pool_spans(conv) + bias)
            if ROUNDING is not None:
                y = ROUNDING(y)
            tl.store(y_ptr + ((n.to(tl.int64) * out_h + i) * out_w + j) * n_filters + k, y, mask=inside)
        above = lower


@triton.jit
def largest(a, b, c):
    a = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(a, c, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def pool_spans(conv):
    """(filters, (8, spans, 2)) -> (filters, (spans, 8)), where the last of each 8 means nothing."""
    FILTERS: tl.constexpr = conv.shape[0]
    SPANS: tl.constexpr = conv.shape[1] // 16
    even, odd = conv.reshape(FILTERS, 8, SPANS, 2).split()
    a0, a1, a2, a3, a4, a5, a6, a7 = eighths(even)
    b0, b1, b2, b3, b4, b5, b6, b7 = eighths(odd)
    y04 = tl.join(largest(a0, b0, a1), largest(a4, b4, a5))
    y26 = tl.join(largest(a2, b2, a3), largest(a6, b6, a7))
    y15 = tl.join(largest(a1, b1, a2), largest(a5, b5, a6))
    y37 = tl.join(largest(a3, b3, a4), b7)
    return tl.join(tl.join(y04, y26), tl.join(y15, y37)).reshape(FILTERS, SPANS * 8)


@triton.jit
def eighths(t):
    """The eight (filters, spans) in t (filters, 8, spans), in their order."""
    t0246, t1357 = alternate(t)
    t04, t26 = alternate(t0246)
    t15, t37 = alternate(t1357)
    t0, t4 = alternate(t04)
    t2, t6 = alternate(t26)
    t1, t5 = alternate(t15)
    t3, t7 = alternate(t37)
    return t0, t1, t2, t3, t4, t5, t6, t7


@triton.jit
def alternate(t):
    """Those of even and those of odd index along the middle dimension."""
    return t.reshape(t.shape[0], t.shape[1] // 2, 2, t.shape[2]).permute(0, 1, 3, 2).split()


@torch_function("lower")
def stem(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, tf32_operands: bool = False
) -> torch.Tensor:
    """max_pool2d(relu(conv2d(x, w, bias, stride=2, padding=3)), 3, 2, 1), where `weight` is stem_weight(w).

    x is (N, C, H, W) with 1 to 4 channels and any strides, bias (K,), all of one dtype (float32, float16, bfloat16);
    the result is channels_last. Sums are float32; float32 operands are multiplied as TF32 where
    torch.backends.cudnn.allow_tf32 allows it. With `tf32_operands`, weight holds TF32 numbers, and so will the result.
    Windows are read one column too wide, with a weight of zero: where that
    column holds an infinity or a NaN, the result is NaN, though PyTorch does not look at it.
    Raises ValueError on other shapes and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_tensors("stem", x=x, weight=weight, bias=bias)
    if x.ndim != 4 or not 1 <= x.shape[1] <= 4 or min(x.shape[2:]) < 1:
        raise ValueError(f"stem: expected x (N, C, H, W) with C from 1 to 4 and H, W at least 1, got {tuple(x.shape)}")
    if weight.shape[1:] != (7, 8, 4) or len(weight) < 1:
        raise ValueError(f"stem: expected weight (K, 7, 8, 4), as stem_weight gives it, got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"stem: expected bias ({len(weight)},), got {tuple(bias.shape)}")
    return _stem(x, weight, bias, tf32_operands)


def stem_weight(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weight (K, C, 7, 7), C up to 4, as `stem` reads it: (K, 7, 8, 4), with zeros around."""
    packed = weight.new_zeros(len(weight), 7, 8, 4)
    packed[:, :, 1:, : weight.shape[1]] = weight.permute(0, 2, 3, 1)
    return packed


@custom_op("stem")
def _stem(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, tf32_operands: bool = False) -> torch.Tensor:
    y = _empty_result(x, weight, bias)
    if y.numel() == 0:
        return y
    precision = "tf32_operands" if tf32_operands else conv_precision(x.dtype)
    precise = x.dtype == torch.float32 and precision == "ieee"
    if precise or not runtime.INTERPRET and not runtime.tma_feeds_tensor_cores():
        w = weight[:, :, 1:, : x.shape[1]].permute(0, 3, 1, 2)
        x = rounded_to_tf32(x) if tf32_operands else x
        y = conv2d(x, w, bias, stride=2, padding=3, activation="relu", tf32_operands=tf32_operands)
        y = max_pool2d(y, 3, 2, 1)
        return y.contiguous(memory_format=torch.channels_last)

    N, K, sizes = len(x), len(weight), stem_sizes(*x.shape[2:])
    weight, bias = weight.contiguous(), bias.contiguous()
    if precision == "tf32":
        weight = rounded_to_tf32(weight)
    packed = pack_images(x, sizes, round_to_tf32 if x.dtype == torch.float32 else None)
    strips, blocks_n = cdiv(sizes.spans, SPANS), cdiv(K, BLOCK_N)
    # two programs for each multiprocessor, if that leaves them a row
    rows = min(cdiv(N * strips * blocks_n * sizes.out_h, 2 * runtime.num_sms()), sizes.out_h)
    chunks = cdiv(sizes.out_h, rows)
    pitch = 4 * sizes.packed_w
    windows = TensorDescriptor(
        packed, [N * sizes.packed_h, 8, sizes.spans, 2, 32], [pitch, 16, 112, 8, 1], [1, 8, SPANS, 2, 32]
    )
    stem_kernel[(N * strips * chunks, blocks_n)](
        windows, weight, bias, y,
        K, sizes.packed_h, sizes.conv_h, sizes.conv_w, sizes.out_h, sizes.out_w, strips, chunks, rows,
        ROUNDING=round_to_tf32 if tf32_operands else None,
        PRECISION="ieee" if precision == "ieee" else "tf32_operands", BLOCK_N=BLOCK_N, SPANS=SPANS,
        num_warps=4, num_stages=2 if x.dtype != torch.float32 or runtime.capability() == (9, 0) else 1,
    )
    return y


@torch.library.register_fake(_stem)
def _empty_result(x, weight, bias, tf32_operands=False):
    sizes = stem_sizes(*x.shape[2:])
    shape = len(x), len(weight), sizes.out_h, sizes.out_w
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
