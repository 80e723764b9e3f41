"""Convolution for every GPU and every convolution: one matrix product whose left matrix is never written out.

The implicit GEMM (Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014): a row for each output
pixel (n, p, q), a column for each filter k, and one flat index over the R * S * C products of each sum. The left
matrix, every window of x side by side (im2col), would be R * S times as large as x: instead each program works
out, at each step along the sum, where in x its rows have their elements, and takes zero for those in the padding.
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution.epilogue import store_result
from course.kernels.convolution.problem import Convolution
from course.kernels.convolution.split_k import sum_parts
from course.kernels.convolution.tile import Geometry, along, geometry_of, image_offset, index_dtype, output_pixels
from course.kernels.parts.dot import dot
from course.kernels.parts.grouped_tile import grouped_tile
from course.kernels.parts.predicted_time import (
    LoopTimes, loop_cycles, programs_at_once, sum_parts_cycles, tensor_core_cycles,
)
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.runtime import per_gpu
from course.tuning import Config

TILES = [  # BLOCK_M, BLOCK_N, warps, stages
    (256, 128, 8, 3), (128, 256, 8, 3), (128, 128, 8, 3), (256, 64, 8, 3), (128, 64, 8, 3),
    (128, 64, 4, 4), (64, 128, 4, 4), (64, 64, 4, 4), (128, 32, 4, 4), (64, 32, 4, 4), (64, 16, 4, 4),
]
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_CONFIGS = 10
TIMES = LoopTimes(step=0, bandwidth=72, latency=1500, end=100, byte=0.135)
PIXEL = 3
"""How many times as long a pixel takes to load as a filter: its address depends on the step, and on the padding."""


@triton.jit(do_not_specialize=["n_pixels"])
def conv2d_kernel(
    x_ptr, weight_ptr, parts_ptr, epilogue,
    n_pixels, n_filters, geometry,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, PADDED: tl.constexpr, CHANNELS_INNERMOST: tl.constexpr,
    X_PIXEL_DIM: tl.constexpr, OUT_PIXEL_DIM: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr,
):
    """One tile of BLOCK_M pixels by BLOCK_N filters of a group, or with SPLIT_K > 1 a part of its sums.

    x_ptr: x (N, C * groups, H, W), with the strides in `geometry`
    weight_ptr: the filters, contiguous: (K, R, S, C) if CHANNELS_INNERMOST, else (K, C, R, S)
    parts_ptr, epilogue: the sums' parts (SPLIT_K, n_pixels, K), float32, or what finishes them; the other is None
    n_pixels, n_filters: pixels of the result in all images, filters of a group
    PADDED: whether any window reaches beyond the image
    X_PIXEL_DIM, OUT_PIXEL_DIM: which dimension of a tile of x, and of the result, is the pixels'
    INDEX: the dtype of offsets within a window
    The grid: tiles, numbered by `grouped_tile`, parts, and groups.
    """
    TERMS: tl.constexpr = R * S * C
    STEPS: tl.constexpr = (TERMS + BLOCK_K * SPLIT_K - 1) // (BLOCK_K * SPLIT_K)
    K_DIM: tl.constexpr = 1 - X_PIXEL_DIM
    image, result, stride, padding, dilation, x_strides = geometry
    part, group = tl.program_id(1), tl.program_id(2)
    pid_m, pid_n = grouped_tile(tl.program_id(0), n_pixels, n_filters, BLOCK_M, BLOCK_N, 8)
    first = pid_m.to(tl.int64) * BLOCK_M
    n, p, q = output_pixels(first, n_pixels, result[0], result[1], BLOCK_M)
    filters = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)

    # once: the top left corner of every pixel's window, and every filter's first weight (past the end, the last one's)
    h, w = p * stride[0] - padding[0], q * stride[1] - padding[1]
    x_ptrs = x_ptr + group.to(tl.int64) * C * x_strides[1] + along(image_offset(n, h, w, x_strides), X_PIXEL_DIM)
    h, w = along(h, X_PIXEL_DIM), along(w, X_PIXEL_DIM)
    filter_rows = (group * n_filters + tl.minimum(filters, n_filters - 1)).to(tl.int64) * TERMS
    weight_ptrs = weight_ptr + filter_rows[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        start = (part * STEPS + step) * BLOCK_K
        terms = start + tl.arange(0, BLOCK_K)
        # each step: which filter tap and which channel a term belongs to
        if C % BLOCK_K == 0:  # the whole step lies in one tap: r and s are scalars, and the rows of x contiguous
            tap = start // C
            c = along(terms - tap * C, K_DIM)
        elif CHANNELS_INNERMOST:
            tap = along(terms // C, K_DIM)
            c = along(terms % C, K_DIM)
        else:
            tap = along(terms % (R * S), K_DIM)
            c = along(terms // (R * S), K_DIM)
        dh, dw = tap // S * dilation[0], tap % S * dilation[1]

        inside = along(terms, K_DIM) < TERMS
        if PADDED:
            inside &= (h + dh >= 0) & (h + dh < image[0]) & (w + dw >= 0) & (w + dw < image[1])
        offs = c.to(INDEX) * x_strides[1] + dh.to(INDEX) * x_strides[2] + dw.to(INDEX) * x_strides[3]
        x = tl.load(x_ptrs + offs, mask=inside, other=0.0)
        if X_PIXEL_DIM == 1:
            x = tl.trans(x)
        weight = tl.load(weight_ptrs + terms[:, None], mask=(terms < TERMS)[:, None], other=0.0)
        acc = dot(x, weight, acc, PRECISION)

    offs_m = first + tl.arange(0, BLOCK_M)
    k = group * n_filters + filters
    if parts_ptr is not None:
        n_channels = n_filters * tl.num_programs(2)
        rows = (part.to(tl.int64) * n_pixels + offs_m) * n_channels
        inside = (offs_m < n_pixels)[:, None] & (filters < n_filters)[None, :]
        tl.store(parts_ptr + rows[:, None] + k[None, :], acc, mask=inside)
    else:
        if OUT_PIXEL_DIM == 1:
            acc = tl.trans(acc)
        store_result(acc, epilogue, n, p, q, offs_m < n_pixels, k, filters < n_filters, OUT_PIXEL_DIM)


def can_run(problem: Convolution) -> bool:
    return True


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    """`n_pixels` by `n_filters` sums of `terms` products in each group, by their predicted time."""
    p = problem
    n_pixels, n_filters, terms = p.n_pixels, p.group_filters, p.R * p.S * p.C
    widest = max(next_power_of_2(n_filters), 16)
    # a step stays within one tap where that can be
    longest = p.C & -p.C if p.C % 16 == 0 else max(next_power_of_2(terms), 16)
    if runtime.INTERPRET:  # its time goes with the programs and their steps; a tile has 2**20 elements at most
        if longest < p.C:
            longest = next_power_of_2(terms)
        block_k, block_n = min(longest, 256), min(widest, 512)
        block_m = max(16, min(next_power_of_2(n_pixels), 2**20 // max(block_n, block_k)))
        return [tile_config(block_m, block_n, block_k, split=1, warps=4, stages=1)]

    # what else a thread keeps in registers, addresses above all, limits its part of the accumulator
    itemsize = p.dtype.itemsize
    if not p.on_tensor_cores:  # so the operands are there as well
        accumulators, block_k = 32, min(longest, 16)
    elif p.x_channels_last and p.out_channels_last and p.C % 16 == 0:  # whole rows of channels are read and written:
        accumulators, block_k = 256 // itemsize, min(longest, 128 // itemsize)  # 128 bytes are a row of shared memory
    else:
        accumulators, block_k = 32, min(longest, 32)
    found = []
    n_steps = cdiv(terms, block_k)
    for block_m, block_n, warps, stages in TILES:
        stages = min(stages, runtime.shared_memory() // ((block_m + block_n) * block_k * itemsize))
        if stages < 2 or block_n > widest or block_m * block_n > accumulators * 32 * warps:
            continue
        tiles = cdiv(n_pixels, block_m) * cdiv(n_filters, block_n) * p.groups
        for split in SPLITS:
            # split the sums only where the tiles alone leave multiprocessors idle, and into parts worth a program
            if split > 1 and (tiles * split > 2 * runtime.num_sms() or n_steps < 4 * split):
                break
            cost = predicted_cycles(p, block_m, block_n, block_k, split, warps, stages, tiles * split)
            found.append(tile_config(block_m, block_n, block_k, split, warps, stages, cost))
    return sorted(found, key=lambda config: config.cost)[:MOST_CONFIGS]


def predicted_cycles(
    problem: Convolution, block_m: int, block_n: int, block_k: int, split: int, warps: int, stages: int, programs: int
) -> float:
    p, itemsize, sums = problem, problem.dtype.itemsize, block_m * block_n
    if not p.on_tensor_cores:
        products = sums * block_k / 128  # one for each lane of four warps
    else:
        products = tensor_core_cycles(block_m, block_n, block_k, itemsize)
    loads = (PIXEL * block_m + block_n) * block_k * itemsize
    stored = sums * (4 if split > 1 else itemsize * (1 if p.residual_strides is None else 2))
    resident = programs_at_once(stages * (block_m + block_n) * block_k * itemsize, sums, warps)
    steps = cdiv(p.R * p.S * p.C, block_k * split)
    cycles = loop_cycles(TIMES, products, loads, steps, stages, stored, programs, resident)
    return cycles + sum_parts_cycles(split, p.n_pixels * p.K)


def tile_config(
    block_m: int, block_n: int, block_k: int, split: int, warps: int, stages: int, cost: float = 0.0
) -> Config:
    sizes = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "SPLIT_K": split}
    return Config("pointers", sizes, warps, stages, cost)


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, bias, residual, out = operands
    p = plan(problem, config)
    weight = weight.contiguous(memory_format=p.weight_format)  # copied if not in the order of the sum
    parts = epilogue = None
    if p.parts is None:
        epilogue = problem.epilogue(bias, residual, out)
    else:
        parts = x.new_empty(p.parts, dtype=torch.float32)
    conv2d_kernel[p.grid](
        x, weight, parts, epilogue, problem.n_pixels, problem.group_filters, p.geometry, **p.options
    )
    if parts is not None:
        sum_parts(problem, parts, bias, residual, out)


class PointersPlan(NamedTuple):
    """What a launch takes beside the tensors; `parts` is the shape of the parts of split sums, None without a split."""

    grid: tuple[int, int, int]
    weight_format: torch.memory_format
    parts: tuple[int, int, int] | None
    geometry: Geometry
    options: dict


@per_gpu
def plan(problem: Convolution, config: Config) -> PointersPlan:
    p, sizes = problem, config.blocks
    split = sizes["SPLIT_K"]
    tiles = cdiv(p.n_pixels, sizes["BLOCK_M"]) * cdiv(p.group_filters, sizes["BLOCK_N"])
    channels_innermost = p.x_channels_last or p.C % 16 == 0
    return PointersPlan(
        (tiles, split, p.groups), torch.channels_last if channels_innermost else torch.contiguous_format,
        (split, p.n_pixels, p.K) if split > 1 else None, geometry_of(p),
        {
            "C": p.C, "R": p.R, "S": p.S, "PADDED": max(p.padding) > 0, "CHANNELS_INNERMOST": channels_innermost,
            # pixels of windows far apart are no neighbours in memory, even where w is innermost
            "X_PIXEL_DIM": int(not p.x_channels_last and p.stride[1] < 8),
            "OUT_PIXEL_DIM": int(not p.out_channels_last), "PRECISION": p.precision, "INDEX": index_dtype(p),
            **config.options,
        },
    )
