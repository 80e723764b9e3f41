"""Depthwise convolution: each channel of x under a filter of its own.

    y[n, c, p, q] = sum over r, s of x[n, c, p * stride + r, q * stride + s] * w[c, r, s]

A thread computes ROWS by COLS neighbouring pixels of the result in VEC channels, in float32 sums. It goes down the rows
of x that their windows cover: what it loads of a row, once, is multiplied for every window that meets it. A 3 by 3
filter of stride 1 then takes 27 loads for 14 pixels (ROWS = 7, COLS = 2) and not 126, a 7 by 7 filter 104 and not 686.

Where channels are innermost, the threads of a program follow the channels, and VEC of them side by side are one vector.
In PyTorch's default format they follow the pixels, and VEC is 1.

Cost: 2 * N * C * P * Q * R * S operations, outside tensor cores, and (N * C * H * W + N * C * P * Q) * itemsize bytes
if what neighbouring threads both read comes from the caches. 3 by 3 takes as long as its bytes; for 7 by 7 the 49
multiplications of an element take longer, on an H200 about twice as long.
"""
import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution.epilogue import finished
from course.kernels.convolution.problem import Convolution
from course.kernels.convolution.tile import Geometry, geometry_of, image_offset, index_dtype
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES
from course.runtime import per_gpu
from course.tuning import Config

MOST_TAPS = 49
"""Of a filter: all of its weights are in registers."""

MOST_REGISTERS = 160
"""For sums, weights and a row of x in one thread; what is loaded ahead and addresses take the rest."""

TILES = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (7, 1), (7, 2), (4, 4)]
"""ROWS, COLS: sevens because the images of most networks are 7, 14, 28, 56 or 112 pixels high."""

PART_BYTES = 128
"""Of a pixel's channels, what one program takes of many, so that its threads are neighbours among pixels as well."""


@triton.jit(do_not_specialize=["n_tiles", "n_vectors", "parts", "n_channels"])
def conv2d_depthwise_kernel(
    x_ptr, weight_ptr, epilogue, n_tiles, tiles, n_vectors, parts, n_channels, geometry, weight_strides,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, CHANNELS_INNERMOST: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, VEC: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):
    """BLOCK threads' tiles, each of ROWS by COLS pixels by VEC channels.

    x_ptr: x (N, C, H, W), with the strides in `geometry`
    weight_ptr, weight_strides: the filters, and the steps from channel to channel, row to row and column to column
    n_tiles, tiles: tiles of pixels in all images (and, unless CHANNELS_INNERMOST, channels); along (rows, columns)
    n_vectors, parts, n_channels: vectors of channels in a part; the parts that the channels are divided into; C
    INDEX: the dtype of offsets within a window
    """
    image, result, _, padding, _, x_strides = geometry
    part = tl.program_id(0) % parts
    # the first thread's tile is taken apart once, so that `first` may pass 2**31 and vectors need only short divisions
    first = (tl.program_id(0) // parts).to(tl.int64) * BLOCK
    vector = (first % n_vectors).to(tl.int32) + tl.arange(0, BLOCK)
    tile = first // n_vectors
    later = vector // n_vectors
    column = (tile % tiles[1]).to(tl.int32) + later
    row = (tile // tiles[1] % tiles[0]).to(tl.int32) + column // tiles[1]
    plane, planes_later = tile // tiles[1] // tiles[0], row // tiles[0]
    if CHANNELS_INNERMOST:
        n = plane + planes_later
        channel = (part * n_vectors + vector % n_vectors) * VEC
    else:
        channel = (plane % n_channels).to(tl.int32) + planes_later
        n = plane // n_channels + channel // n_channels
        channel = channel % n_channels
    inside = tile + later < n_tiles
    p, q = row % tiles[0] * ROWS, column % tiles[1] * COLS
    h, w = p * STRIDE[0] - padding[0], q * STRIDE[1] - padding[1]
    channels = channel[:, None] + tl.arange(0, VEC)[None, :]

    pdl_wait(PDL)
    weights = ()
    weight_ptrs = weight_ptr + channels * weight_strides[0]
    for tap in tl.static_range(R * S):
        offset = tap // S * weight_strides[1] + tap % S * weight_strides[2]
        weights = weights + (tl.load(weight_ptrs + offset, mask=inside[:, None], other=0.0).to(tl.float32),)

    sums = ()
    for _ in tl.static_range(ROWS * COLS):
        sums = sums + (tl.zeros((BLOCK, VEC), tl.float32),)
    x_offs = image_offset(n, h, w, x_strides)[:, None] + channels.to(tl.int64) * x_strides[1]
    for dh in tl.static_range((ROWS - 1) * STRIDE[0] + R):
        row_inside = inside & ((h + dh).to(tl.uint32) < tl.cast(image[0], tl.uint32))
        x_row = ()
        for dw in tl.static_range((COLS - 1) * STRIDE[1] + S):
            hit = row_inside & ((w + dw).to(tl.uint32) < tl.cast(image[1], tl.uint32))
            offs = x_offs + (tl.cast(dh, INDEX) * x_strides[2] + tl.cast(dw, INDEX) * x_strides[3])
            offs = tl.multiple_of(offs, (1, VEC))
            x_row = x_row + (tl.load(x_ptr + offs, mask=hit[:, None], other=0.0).to(tl.float32),)
        sums = add_row(sums, x_row, weights, dh, R, S, STRIDE, ROWS, COLS)

    bias = 0.0
    if epilogue.bias is not None:
        bias = tl.load(epilogue.bias + channels, mask=inside[:, None]).to(tl.float32)
    values = ()
    for i in tl.static_range(ROWS * COLS):
        hit = (inside & (p + i // COLS < result[0]) & (q + i % COLS < result[1]))[:, None]
        residual_ptrs = None
        if epilogue.residual is not None:
            residual_ptrs = epilogue.residual + image_offset(n, p + i // COLS, q + i % COLS, epilogue.residual_strides)[
                :, None] + channels.to(tl.int64) * epilogue.residual_strides[1]
        values = values + (finished(sums[i] + bias, epilogue, residual_ptrs, hit),)
    pdl_launch_dependents(PDL)
    for i in tl.static_range(ROWS * COLS):
        hit = (inside & (p + i // COLS < result[0]) & (q + i % COLS < result[1]))[:, None]
        out_offs = image_offset(n, p + i // COLS, q + i % COLS, epilogue.out_strides)[:, None]
        out_offs = tl.multiple_of(out_offs + channels.to(tl.int64) * epilogue.out_strides[1], (1, VEC))
        tl.store(epilogue.out + out_offs, values[i], mask=hit)


@triton.jit
def add_row(
    sums, x_row, weights, dh: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):
    """The sums of ROWS by COLS windows, and to them the products of row dh of x, where the first window has row 0."""
    added = ()
    for i in tl.static_range(ROWS * COLS):
        acc = sums[i]
        # this window begins in row i // COLS * STRIDE[0] of x
        if dh >= i // COLS * STRIDE[0] and dh < i // COLS * STRIDE[0] + R:
            for s in tl.static_range(S):
                acc += x_row[i % COLS * STRIDE[1] + s] * weights[(dh - i // COLS * STRIDE[0]) * S + s]
        added = added + (acc,)
    return added


@triton.jit(do_not_specialize=["n_channels"])
def pack_taps_kernel(
    weight_ptr, out_ptr, n_channels, strides, R: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """Writes the filters (C, 1, R, S), with `strides` of channels, rows and columns, as (R, S, C): one tap of BLOCK
    channels, whose weights are then neighbours."""
    pdl_wait(PDL)
    tap = tl.program_id(0) % (R * S)
    channels = tl.program_id(0) // (R * S) * BLOCK + tl.arange(0, BLOCK)
    offs = channels * strides[0] + tap // S * strides[1] + tap % S * strides[2]
    weight = tl.load(weight_ptr + offs, mask=channels < n_channels)
    pdl_launch_dependents(PDL)
    tl.store(out_ptr + tap * n_channels + channels, weight, mask=channels < n_channels)


def packed_taps(weight: torch.Tensor) -> torch.Tensor:
    """`weight` (C, 1, R, S) with its channels side by side: itself, if they are, or a copy."""
    C, _, R, S = weight.shape
    if weight.stride(0) == 1 or C == 1:
        return weight
    packed = weight.new_empty(R, S, 1, C).permute(3, 2, 0, 1)
    block = 1 << 16 if runtime.INTERPRET else 128
    block = min(block, next_power_of_2(C))
    strides = tuple(weight.stride(d) for d in (0, 2, 3))
    pack_taps_kernel[(R * S * cdiv(C, block),)](
        weight, packed, C, strides, R=R, S=S, BLOCK=block, **pdl_options()
    )
    return packed


def can_run(problem: Convolution) -> bool:
    """One filter for each channel, of few taps side by side."""
    p = problem
    return p.C == p.group_filters == 1 and p.R * p.S <= MOST_TAPS and max(p.stride) <= 4 and max(p.dilation) == 1


def most_channels(problem: Convolution) -> int:
    """Channels that a thread may load at once: as many as always begin at a multiple of their bytes."""
    p = problem
    if not (p.out_channels_last and p.x_strides[1] == 1 and p.aligned):
        return 1
    steps = (p.x_strides[d] for d, size in ((0, p.N), (2, p.H), (3, p.W)) if size > 1)
    return math.gcd(VECTOR_BYTES // p.dtype.itemsize, p.K, *steps)


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    """By their predicted time, in cycles of a multiprocessor."""
    p, most = problem, most_channels(problem)
    if runtime.INTERPRET:
        rows, cols = (2, 2) if min(p.P, p.Q) > 1 else (1, 1)
        threads = cdiv(p.P, rows) * cdiv(p.Q, cols) * p.N * cdiv(p.K, most)
        return [Config("depthwise", {"ROWS": rows, "COLS": cols, "VEC": most, "BLOCK": min(
            next_power_of_2(threads), 1 << 16)})]
    found = []
    for rows, cols in TILES:
        if rows >= 2 * p.P or cols >= 2 * p.Q:
            continue
        vec = most
        while vec >= 1:
            cost, fits = predicted(p, rows, cols, vec)
            if fits or (rows, cols, vec) == (1, 1, 1):
                blocks = {"ROWS": rows, "COLS": cols, "VEC": vec, "BLOCK": 128}
                found.append(Config("depthwise", blocks, num_warps=4, cost=cost))
            vec //= 2
    return sorted(found, key=lambda config: config.cost)


def predicted(problem: Convolution, rows: int, cols: int, vec: int) -> tuple[float, bool]:
    """Cycles that a GPU's multiprocessors take in tiles of so many rows, columns and channels, and whether what a
    thread keeps fits its registers."""
    p = problem
    taps, row = p.R * p.S, (cols - 1) * p.stride[1] + p.S
    loads, pixels = ((rows - 1) * p.stride[0] + p.R) * row, rows * cols
    registers = (pixels + taps + row) * vec
    # of a thread: its place, the weights, x, the products, the results
    instructions = 150 + taps * (2 + vec) + loads * (5 + 1.5 * vec) + taps * pixels * vec + pixels * (8 + vec)
    threads = p.N * cdiv(p.P, rows) * cdiv(p.Q, cols) * cdiv(p.K, vec)
    warps = cdiv(threads, 32) / runtime.num_sms()
    resident = min(64, 2048 // min(registers + 50, 255))
    issued = max(warps, 1) * instructions / 3
    latency = 2000 + 4 * instructions
    waves = max(1.0, warps / resident)
    return max(issued, waves * latency / 2) + latency / 2, registers <= MOST_REGISTERS


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, bias, residual, out = operands
    p = plan(problem, config)
    if problem.out_channels_last:
        weight = packed_taps(weight)
    conv2d_depthwise_kernel[p.grid](
        x, weight, problem.epilogue(bias, residual, out), *p.sizes, p.geometry,
        (weight.stride(0), weight.stride(2), weight.stride(3)), **p.options,
    )


class DepthwisePlan(NamedTuple):
    """What a launch takes beside the tensors."""

    grid: tuple[int]
    sizes: tuple
    """n_tiles, tiles, n_vectors, parts, n_channels of the kernel"""
    geometry: Geometry
    options: dict


@per_gpu
def plan(problem: Convolution, config: Config) -> DepthwisePlan:
    p, blocks = problem, config.blocks
    tiles = cdiv(p.P, blocks["ROWS"]), cdiv(p.Q, blocks["COLS"])
    n_tiles = p.N * math.prod(tiles)
    vectors = parts = 1
    if p.out_channels_last:
        vectors = part_of(p.K // blocks["VEC"], max(1, PART_BYTES // (blocks["VEC"] * p.dtype.itemsize)))
        parts = p.K // blocks["VEC"] // vectors
    else:
        n_tiles *= p.K
    return DepthwisePlan(
        (cdiv(n_tiles * vectors, blocks["BLOCK"]) * parts,), (n_tiles, tiles, vectors, parts, p.K), geometry_of(p),
        {"R": p.R, "S": p.S, "STRIDE": p.stride, "CHANNELS_INNERMOST": p.out_channels_last, "INDEX": index_dtype(p),
         **config.options, **pdl_options()},
    )


@functools.cache
def part_of(vectors: int, wanted: int) -> int:
    """The divisor of `vectors` next to `wanted`; of two, the larger."""
    divisors = [d for d in range(1, vectors + 1) if vectors % d == 0]
    return min(divisors, key=lambda d: (max(d / wanted, wanted / d), -d))
