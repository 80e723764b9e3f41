"""Convolution by the tensor memory accelerator (TMA), for Hopper and later: a persistent grid, fed by box copies.

    y[k, (n, p, q)] = sum over r, s, c of weight[k, (r, s, c)] * x[(r, s, c), (n, p, q)]

A tile's pixels are a box: some images by some rows by some columns of the result. At one filter tap their elements
of x are a box as well, the same one shifted by r rows and s columns, and TMA copies it to shared memory on one
instruction. What lies outside the image arrives as zeros: that is the padding, and no address and no mask is
left to compute. With a stride of 2 the box would have gaps; x is then seen as half as many columns of twice as many
channels, where it has none. Where there are many images, a box of one pixel each wastes nothing at the edges.

Taps that lie outside the image for the whole box are left out rather than multiplied by zeros (so an infinite
weight adds no NaN there). The product is taken filters by pixels: a tensor core wants 64 rows, of which a layer has
enough in its filters, and as few as 8 columns, so that small batches still give enough tiles; and the right
operand may be a box in shared memory as it is, where the left one would be copied through registers.

Where the tiles alone leave multiprocessors idle, SPLIT_K programs share a tile, each with a part of the sum. Each
writes its part to memory; the last one to arrive adds them all, in the order of the parts and not of their arrival,
so that the result has the same bits every time.
"""
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels.convolution.boxes import LEAST_FILTERS, box_configs
from course.kernels.convolution.problem import Convolution
from course.kernels.parts.activation import ACTIVATIONS
from course.kernels.parts.arrivals import arrivals
from course.kernels.parts.dot import dot
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv
from course.kernels.parts.tf32 import extent, rounded_to_tf32
from course.runtime import per_gpu
from course.tuning import Config

FARTHEST = 2**24
"""Rows or columns between two taps, or of padding, up to which 32 bits can count the pixels."""


@triton.jit(do_not_specialize=["n_filters", "x_column"])
def conv2d_tma_kernel(
    x_desc, w_desc, bias_ptr, residual_desc, out_desc, parts_ptr, arrivals_ptr,
    n_filters, boxes, image, padding, dilation, x_column,
    C: tl.constexpr, FILTERS: tl.constexpr, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr,
    ACTIVATION: tl.constexpr, ROUNDING: tl.constexpr, PRECISION: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr, SLICES: tl.constexpr, PDL: tl.constexpr,
):
    """Program i computes the tiles i, i + programs, ... of BLOCK_N filters by IMAGES * ROWS * COLS pixels, or with
    SPLIT_K > 1 the part i % SPLIT_K of the sums of tile i // SPLIT_K.

    x_desc: x as `windows_of` describes it, in boxes of BLOCK_K channels
    w_desc: the filters (K, R * S * C), in blocks of (BLOCK_N, BLOCK_K)
    residual_desc, out_desc: the residual and the result (N, P, Q, K), in one of SLICES equal slices of a tile
    bias_ptr: (K,)
    parts_ptr, arrivals_ptr: for each tile, parts (SPLIT_K, BLOCK_N, pixels), float32, and a counter of those written
    n_filters, boxes: K, and how many boxes there are of images, rows and columns
    C, FILTERS: channels and filters of a group; None for FILTERS where there is one group
    image, padding, x_column: (H, W), zeros at (top, left), elements from a column of x to the next
    """
    pdl_wait(PDL)
    PIXELS: tl.constexpr = IMAGES * ROWS * COLS
    C_STEPS: tl.constexpr = C // BLOCK_K
    # a box more than one pixel high reads every STRIDE-th row, and so sees x as STRIDE times fewer rows
    VIEW_H: tl.constexpr = STRIDE[0] if ROWS > 1 else 1
    VIEW_W: tl.constexpr = STRIDE[1] if COLS > 1 else 1
    programs = tl.num_programs(0)
    programs_needed = tl.cdiv(n_filters, BLOCK_N) * boxes[0] * boxes[1] * boxes[2] * SPLIT_K
    finished = tl.program_id(0) - programs  # counted apart from `program`: the flattened loop loads the next tile early
    for program in tl.range(tl.program_id(0), programs_needed, programs, flatten=SPLIT_K == 1):
        k, n, p, q = tile_start(program // SPLIT_K, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N)
        h, w = p * STRIDE[0] - padding[0], q * STRIDE[1] - padding[1]
        first_r, n_r = taps_inside(h, (ROWS - 1) * STRIDE[0], image[0], dilation[0], R)
        first_s, n_s = taps_inside(w, (COLS - 1) * STRIDE[1], image[1], dilation[1], S)
        steps = n_r * n_s * C_STEPS
        part = program % SPLIT_K
        group_c = 0
        if FILTERS is not None:  # a multiple of BLOCK_N
            group_c = k // FILTERS * C

        acc = tl.zeros((BLOCK_N, PIXELS), tl.float32)
        first, end = steps * part // SPLIT_K, steps * (part + 1) // SPLIT_K
        c = first % C_STEPS * BLOCK_K
        r, s = first_r + first // C_STEPS // n_s, first_s + first // C_STEPS % n_s
        for _ in range(first, end):
            weight = w_desc.load([k, (r * S + s) * C + c])
            # never negative, so that division rounds down
            tap_h, tap_w = h + r * dilation[0] + VIEW_H * padding[0], w + s * dilation[1] + VIEW_W * padding[1]
            x = x_desc.load([n, tap_h // VIEW_H - padding[0], tap_h % VIEW_H, tap_w // VIEW_W - padding[1],
                             tap_w % VIEW_W * x_column + group_c + c])
            acc = dot(weight, x.reshape(PIXELS, BLOCK_K).T, acc, PRECISION)
            # to the next channels, tap, row of taps: no division, which would take longer than a small product
            c += BLOCK_K
            s += (c == C).to(tl.int32)
            c = tl.where(c == C, 0, c)
            r += (s == first_s + n_s).to(tl.int32)
            s = tl.where(s == first_s + n_s, first_s, s)

        finished += programs
        tile = finished // SPLIT_K
        k, n, p, q = tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N)
        last = True
        if SPLIT_K > 1:
            acc, last = add_parts(acc, parts_ptr + tile.to(tl.int64) * (SPLIT_K * BLOCK_N * PIXELS), part,
                                  arrivals_ptr + tile, SPLIT_K)
        if last:
            if bias_ptr is not None:
                filters = k + tl.arange(0, BLOCK_N)
                acc += tl.load(bias_ptr + filters, mask=filters < n_filters).to(tl.float32)[:, None]
            store_slices(acc, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROUNDING, ROWS, COLS, SLICES, 0)


@triton.jit
def tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N):
    """A tile's first filter, image, row and column.

    Tiles that run at the same time share their pixels, or take the same pixels of other images. The last row of boxes
    is followed by the first: boxes at the edge have the fewest taps, and the last tiles decide how evenly the work is
    spread.
    """
    blocks_n = tl.cdiv(n_filters, BLOCK_N)
    box = tile // blocks_n
    p, q = (box // boxes[0] // boxes[2] + 1) % boxes[1], (box // boxes[0] + 1) % boxes[2]
    return tile % blocks_n * BLOCK_N, box % boxes[0] * IMAGES, p * ROWS, q * COLS


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
    """The tile's whole sum, and whether this program is the last to arrive and so has to store it."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    offs = tl.arange(0, FILTERS)[:, None] * PIXELS + tl.arange(0, PIXELS)[None, :]
    tl.store(parts_ptr + part * (FILTERS * PIXELS) + offs, acc)
    tl.debug_barrier()  # all threads have stored before one of them counts the program
    last = tl.atomic_add(arrivals_ptr, 1) == SPLIT_K - 1
    if last:
        acc = tl.load(parts_ptr + offs, cache_modifier=".cg")  # from the L2 cache, where the others' parts are
        for i in tl.static_range(1, SPLIT_K):
            acc += tl.load(parts_ptr + i * (FILTERS * PIXELS) + offs, cache_modifier=".cg")
        tl.store(arrivals_ptr, 0)  # for the next launch
    return acc, last


@triton.jit
def store_slices(
    acc, residual_desc, out_desc, k, n, p, q,
    ACTIVATION: tl.constexpr, ROUNDING: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, SLICES: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """Stores activation(acc + residual) slice by slice, each of some of the pixels, and so with less shared memory."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    if SLICES > 1:
        left, right = acc.reshape(FILTERS, 2, PIXELS // 2).permute(0, 2, 1).split()
        store_slices(left, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROUNDING, ROWS, COLS, SLICES // 2, OFFSET)
        store_slices(right, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROUNDING, ROWS, COLS, SLICES // 2,
                     OFFSET + PIXELS // 2)
    else:
        corner = [n + OFFSET // (ROWS * COLS), p + OFFSET % (ROWS * COLS) // COLS, q + OFFSET % COLS, k]
        if residual_desc is not None:
            acc += residual_desc.load(corner).reshape(PIXELS, FILTERS).T.to(tl.float32)
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        if ROUNDING is not None:
            acc = ROUNDING(acc)
        out_desc.store(corner, acc.to(out_desc.dtype).T.reshape(out_desc.block_shape))


def can_run(problem: Convolution) -> bool:
    """Images and filters that TMA can read as they are, to a result that it can write; groups of as many filters as a
    tile has.

    Where x has to be rounded first, all memory between its first element and its last is: not where that is much more.
    """
    p = problem
    sizes = (p.N, p.channels, p.H, p.W)
    dense = extent(sizes, p.x_strides) <= 2 * math.prod(sizes)
    groups = p.groups == 1 or p.group_filters % LEAST_FILTERS == 0
    return can_write(p) and groups and p.tma_reads and (dense or p.precision != "tf32")


def can_write(problem: Convolution) -> bool:
    """Whether tensor cores multiply these numbers, and TMA can write the result."""
    p = problem
    if not runtime.tma_feeds_tensor_cores() or not p.on_tensor_cores:
        return False
    near = all(d * taps < FARTHEST for d, taps in zip(p.dilation, (p.R, p.S))) and max(p.padding) < FARTHEST
    return near and p.tma_writes


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    return list({str(config): config for config in box_configs(problem.as_single_pixels())}.values())


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, bias, residual, out = operands
    p = plan(problem, config)
    weight = weight.contiguous(memory_format=torch.channels_last)  # copied if they are not
    if problem.precision == "tf32":  # TMA takes them past the registers
        x, weight = rounded_to_tf32(x), rounded_to_tf32(weight)
    parts = counters = None
    if p.parts > 0:
        parts = x.new_empty(p.parts, dtype=torch.float32)
        counters = arrivals(p.tiles, x.device)
    conv2d_tma_kernel[p.grid](
        TensorDescriptor(x, *p.windows), TensorDescriptor(weight, *p.filters), bias,
        residual if residual is None else TensorDescriptor(residual, *p.residual),
        TensorDescriptor(out, *p.result), parts, counters, *p.sizes, **p.options,
    )


Description = tuple[list[int], list[int], list[int]]
"""Of a tensor in a descriptor: its sizes, its strides, and the sizes of a block."""


class TmaPlan(NamedTuple):
    """What a launch takes beside the tensors, which it describes."""

    grid: tuple[int]
    windows: Description
    filters: Description
    residual: Description | None
    result: Description
    tiles: int
    parts: int
    """float32 numbers that the programs write where they share tiles, else 0"""
    sizes: tuple
    """the kernel's arguments after the tensors"""
    options: dict


@per_gpu
def plan(problem: Convolution, config: Config) -> TmaPlan:
    p, options = problem.as_single_pixels(), config.options
    box, block_n, split = (options["IMAGES"], options["ROWS"], options["COLS"]), options["BLOCK_N"], options["SPLIT_K"]
    resident = options.pop("PER_SM") * runtime.num_sms()
    boxes = tuple(map(cdiv, (p.N, p.P, p.Q), box))
    tiles = cdiv(p.K, block_n) * math.prod(boxes)
    programs = min(resident, tiles) if split == 1 else tiles * split
    terms = p.R * p.S * p.C
    pixels, block = [p.N, p.P, p.Q, p.K], [*slice_of_box(box, options["SLICES"]), block_n]
    return TmaPlan(
        grid=(programs,),
        windows=windows_of(p, box, options["BLOCK_K"]),
        filters=([p.K, terms], [terms, 1], [block_n, options["BLOCK_K"]]),
        residual=None if p.residual_strides is None else (pixels, [*pixel_steps(pixels, p.residual_strides), 1], block),
        result=(pixels, [*pixel_steps(pixels, p.out_strides), 1], block),
        tiles=tiles,
        parts=tiles * split * math.prod(box) * block_n if split > 1 else 0,
        sizes=(p.K, boxes, (p.H, p.W), p.padding[::2], p.dilation, pixel_steps((p.N, p.H, p.W), p.x_strides)[2]),
        options={
            "C": p.C, "FILTERS": p.group_filters if p.groups > 1 else None, "R": p.R, "S": p.S, "STRIDE": p.stride,
            "ACTIVATION": ACTIVATIONS[p.activation], "ROUNDING": p.rounding,
            "PRECISION": "tf32_operands" if p.dtype == torch.float32 else "ieee", **options,
            **pdl_options(programs, most=runtime.num_sms() // 2),
        },
    )


def pixel_steps(sizes, strides: tuple[int, ...]) -> list[int]:
    """Steps to the next image, row and column; where there is none, one that TMA accepts."""
    return [strides[d] if size > 1 else 16 for d, size in zip((0, 2, 3), sizes)]


def windows_of(p: Convolution, box: tuple[int, int, int], block_k: int) -> Description:
    """x such that one tap of a box of windows is a box: (images, rows / view, view, columns / view, view * channels).

    `view` is the stride where the box has more than one row or column, and 1 where it has not.
    """
    images, rows, cols = box
    view_h, view_w = (step if size > 1 else 1 for step, size in zip(p.stride, (rows, cols)))
    image, row, col = pixel_steps((p.N, p.H, p.W), p.x_strides)
    return (
        [p.N, p.H // view_h, view_h, p.W // view_w, (view_w - 1) * col + p.channels],
        [image, view_h * row, row, view_w * col, 1], [images, rows, 1, cols, block_k],
    )


def slice_of_box(box: tuple[int, int, int], slices: int) -> list[int]:
    """The first of `slices` equal parts of a box, cut along images first, then rows, then columns."""
    part = []
    for size in box:
        cut = min(size, slices)
        part.append(size // cut)
        slices //= cut
    return part
