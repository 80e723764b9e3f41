"""Convolution for Hopper and later: a persistent grid, fed by the tensor memory accelerator (TMA).

    y[k, (n, p, q)] = sum over r, s, c of weight[k, (r, s, c)] * x[(r, s, c), (n, p, q)]

A tile's pixels are a box: some images by some rows by some columns of the result. At one filter tap their elements
of x are a box as well, the same one shifted by r rows and s columns, and the copy engine brings it to shared memory
on one instruction. What lies outside the image arrives as zeros: that is the padding, and no address and no mask is
left to compute. With a stride of 2 the box would have gaps; x is then seen as half as many columns of twice as many
channels, where it has none. Where there are many images, a box of one pixel each wastes nothing at the edges.

Taps that lie outside the image for the whole box are left out rather than multiplied by zeros (so an infinite
weight adds no NaN there). The product is taken filters by pixels: a tensor core wants 64 rows, of which a layer has
enough in its filters, and as few as 8 columns, so that small batches still give enough tiles; and the right
operand may be a box in shared memory as it is, where the left one would be copied through registers.

Where the tiles alone leave multiprocessors idle, SPLIT_K programs share a tile, each with a part of the sum. Each
writes its part to memory; the one that comes last adds them all, in the order of the parts and not as they
came, so that the result has the same bits every time.
"""
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels._activation import ACTIVATIONS
from course.kernels._arrivals import arrivals
from course.kernels._conv2d_tma_configs import Layer, conv2d_tma_configs
from course.kernels._dot import conv_precision, dot
from course.runtime import best_config


@triton.jit(do_not_specialize=["n_filters", "boxes", "image", "padding", "dilation", "x_column"])
def conv2d_tma_kernel(
    x_desc, w_desc, bias_ptr, residual_desc, out_desc, parts_ptr, arrivals_ptr,
    n_filters, boxes, image, padding, dilation, x_column,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, IMAGES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr, SLICES: tl.constexpr, IMAGES_FIRST: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = IMAGES * ROWS * COLS
    C_STEPS: tl.constexpr = C // BLOCK_K
    # a box more than one pixel high reads every STRIDE-th row, and so sees x as STRIDE times fewer rows
    VIEW_H: tl.constexpr = STRIDE[0] if ROWS > 1 else 1
    VIEW_W: tl.constexpr = STRIDE[1] if COLS > 1 else 1
    programs = tl.num_programs(0)
    programs_needed = tl.cdiv(n_filters, BLOCK_N) * boxes[0] * boxes[1] * boxes[2] * SPLIT_K
    finished = tl.program_id(0) - programs  # counted apart from `program`, which the flattened loop runs ahead
    for program in tl.range(tl.program_id(0), programs_needed, programs, flatten=SPLIT_K == 1):
        k, n, p, q = tile_start(program // SPLIT_K, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N, IMAGES_FIRST)
        h, w = p * STRIDE[0] - padding[0], q * STRIDE[1] - padding[1]
        first_r, n_r = taps_inside(h, (ROWS - 1) * STRIDE[0], image[0], dilation[0], R)
        first_s, n_s = taps_inside(w, (COLS - 1) * STRIDE[1], image[1], dilation[1], S)
        steps = n_r * n_s * C_STEPS
        part = program % SPLIT_K

        acc = tl.zeros((BLOCK_N, PIXELS), tl.float32)
        for step in range(steps * part // SPLIT_K, steps * (part + 1) // SPLIT_K):
            r, s = first_r + step // C_STEPS // n_s, first_s + step // C_STEPS % n_s
            c = step % C_STEPS * BLOCK_K
            weight = w_desc.load([k, (r * S + s) * C + c])
            # never negative, so that division rounds down
            tap_h, tap_w = h + r * dilation[0] + VIEW_H * padding[0], w + s * dilation[1] + VIEW_W * padding[1]
            x = x_desc.load([n, tap_h // VIEW_H - padding[0], tap_h % VIEW_H, tap_w // VIEW_W - padding[1],
                             tap_w % VIEW_W * x_column + c])  # fmt: skip
            acc = dot(weight, x.reshape(PIXELS, BLOCK_K).T, acc, PRECISION)

        finished += programs
        tile = finished // SPLIT_K
        k, n, p, q = tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N, IMAGES_FIRST)
        last = True
        if SPLIT_K > 1:
            acc, last = add_parts(acc, parts_ptr + tile.to(tl.int64) * (SPLIT_K * BLOCK_N * PIXELS), part,
                                  arrivals_ptr + tile, SPLIT_K)  # fmt: skip
        if last:
            if bias_ptr is not None:
                filters = k + tl.arange(0, BLOCK_N)
                acc += tl.load(bias_ptr + filters, mask=filters < n_filters).to(tl.float32)[:, None]
            finish_slices(acc, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES, 0)


@triton.jit
def tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N, IMAGES_FIRST: tl.constexpr):
    """A tile's first filter, image, row and column. Tiles that run at the same time share their pixels.

    The last row of boxes is followed by the first: those at the edge have the fewest taps, and what comes last
    decides how evenly the work is spread.
    """
    blocks_n = tl.cdiv(n_filters, BLOCK_N)
    k = tile % blocks_n * BLOCK_N
    box = tile // blocks_n
    if IMAGES_FIRST:
        n = box % boxes[0]
        box = box // boxes[0]
    else:
        n = box // (boxes[1] * boxes[2])
        box = box % (boxes[1] * boxes[2])
    p, q = (box // boxes[2] + 1) % boxes[1], (box + 1) % boxes[2]
    return k, n * IMAGES, p * ROWS, q * COLS


@triton.jit
def taps_inside(first, extent, size, dilation, TAPS: tl.constexpr):
    """The first tap that meets an image of `size`, and how many do: at least one, if only to find nothing but zeros.

    Tap 0 meets rows (or columns) from `first` to `first + extent`.
    """
    start = tl.minimum(tl.maximum(tl.cdiv(-first - extent, dilation), 0), TAPS - 1)
    end = tl.minimum(tl.cdiv(size - first, dilation), TAPS)
    return start, tl.maximum(end - start, 1)


@triton.jit
def add_parts(acc, parts_ptr, part, arrivals_ptr, SPLIT_K: tl.constexpr):
    """The tile's whole sum, and whether this program is the last to arrive and so has to finish it."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    offs = tl.arange(0, FILTERS)[:, None] * PIXELS + tl.arange(0, PIXELS)[None, :]
    tl.store(parts_ptr + part * (FILTERS * PIXELS) + offs, acc)
    tl.debug_barrier()  # all threads have stored before one of them says so
    last = tl.atomic_add(arrivals_ptr, 1) == SPLIT_K - 1
    if last:
        acc = tl.load(parts_ptr + offs, cache_modifier=".cg")  # from the L2 cache, where the others' parts are
        for i in tl.static_range(1, SPLIT_K):
            acc += tl.load(parts_ptr + i * (FILTERS * PIXELS) + offs, cache_modifier=".cg")
        tl.store(arrivals_ptr, 0)  # for the next launch
    return acc, last


@triton.jit
def finish_slices(
    acc, residual_desc, out_desc, k, n, p, q, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    SLICES: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Stores activation(acc + residual) slice by slice, each of some of the pixels, and so with less shared memory."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    if SLICES > 1:
        left, right = acc.reshape(FILTERS, 2, PIXELS // 2).permute(0, 2, 1).split()
        finish_slices(left, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES // 2, OFFSET)
        finish_slices(right, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES // 2,
                      OFFSET + PIXELS // 2)  # fmt: skip
    else:
        corner = [n + OFFSET // (ROWS * COLS), p + OFFSET % (ROWS * COLS) // COLS, q + OFFSET % COLS, k]
        if residual_desc is not None:
            acc += residual_desc.load(corner).reshape(PIXELS, FILTERS).T.to(tl.float32)
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        out_desc.store(corner, acc.to(out_desc.dtype).T.reshape(out_desc.block_shape))


def tma_reads(x, weight, residual, out, padding, dilation, groups) -> bool:
    """Whether the copy engine can read and write all of this convolution, and tensor cores multiply it."""
    precise = x.dtype == torch.float32 and conv_precision(x.dtype) == "ieee"
    if runtime.capability() not in ((9, 0), (10, 0)) or groups > 1 or precise:
        return False
    # a step reads 64 bytes of a pixel at least, and no tap is so far away that 32 bits could not count the pixels
    near = all(d * taps < 2**24 for d, taps in zip(dilation, weight.shape[2:])) and max(padding) < 2**24
    return near and x.shape[1] * x.itemsize % 64 == 0 and weight.data_ptr() % 16 == 0 and all(
        t is None or pixels_readable(t) for t in (x, residual, out)
    )  # fmt: skip


def pixels_readable(t: torch.Tensor) -> bool:
    """Whether the channels of every pixel lie side by side, from a multiple of 16 bytes on."""
    steps = [t.stride(d) * t.itemsize for d in (0, 2, 3) if t.shape[d] > 1]
    return t.stride(1) == 1 and t.data_ptr() % 16 == 0 and all(s > 0 and s % 16 == 0 for s in steps)


def pixel_steps(t: torch.Tensor) -> list[int]:
    """Steps to the next image, row and column; where there is none, one that the copy engine accepts."""
    return [t.stride(d) if t.shape[d] > 1 else 16 for d in (0, 2, 3)]


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
        boxes = tuple(map(triton.cdiv, (layer.N, layer.P, layer.Q), box))
        tiles = triton.cdiv(K, blocks["BLOCK_N"]) * math.prod(boxes)
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
            PRECISION=conv_precision(x.dtype), **blocks, num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip

    # batches of about one size share a choice
    key = ("tma", triton.next_power_of_2(layer.N), *layer[1:])
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
        x, [layer.N, layer.H // view_h, view_h, layer.W // view_w, (view_w - 1) * col + layer.C],
        [image, view_h * row, row, view_w * col, 1], [images, rows, 1, cols, block_k],
    )  # fmt: skip


def describe_pixels(t: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """A result or a residual, as (images, rows, columns, channels)."""
    return TensorDescriptor(t, [t.shape[d] for d in (0, 2, 3, 1)], [*pixel_steps(t), 1], block)


def slice_of_box(box: tuple[int, int, int], slices: int) -> list[int]:
    """The first of `slices` equal parts of a box, cut along images first, then rows, then columns."""
    part = []
    for size in box:
        cut = min(size, slices)
        part.append(size // cut)
        slices //= cut
    return part
