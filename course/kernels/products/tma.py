"""Matrix product for Hopper and later: a persistent grid, fed by the tensor memory accelerator (TMA).

One program on each multiprocessor, or two, takes tile after tile. TMA loads whole blocks of a and b to shared memory,
each for one instruction: it computes the addresses, and the zeros past the edges, so that the warps have nothing to do
but multiply. The loop over tiles and the loop over K are flattened into one: the first blocks of the next tile are
being loaded while this tile is finished and stored.

A tile is finished slice by slice. With AT_ONCE all that its epilogue reads is loaded before the first slice: this
takes registers, but otherwise every slice waits for its own loads. A program with ONE_TILE starts these loads before
its first product, so that they are complete after its last.

Where tiles are few and sums long, SPLIT_K programs share a tile, and `split_k` adds their parts.

TMA takes matrices whose rows (or columns) start at multiples of 16 bytes: `Product.fits_tma`.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels.parts.dot import dot
from course.kernels.parts.grouped_tile import grouped_tile
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.predicted_time import LoopTimes
from course.kernels.parts.prefetch import prefetch_to_l2
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.tf32 import extent, rounded_to_tf32
from course.kernels.products.epilogue import NO_EPILOGUE, normalise_sums
from course.kernels.products.problem import Product, ProductOperands
from course.kernels.products.row_statistics import PART, load_statistics, mean_and_rstd, store_statistics
from course.kernels.products.split_k import sum_matmul_parts
from course.kernels.products.tiles import FEWEST_STEPS, SPLITS, predicted_cycles, step_size
from course.runtime import per_gpu
from course.tuning import Config

TILES = [  # BLOCK_M, BLOCK_N, rows of shared memory a step, warps, programs on a multiprocessor: of two, one
    # multiplies while the other finishes
    (128, 256, 1, 8, 1), (256, 128, 1, 8, 1), (128, 128, 1, 8, 1), (128, 128, 1, 4, 2), (64, 256, 1, 4, 1),
    (128, 64, 1, 4, 1), (128, 64, 1, 4, 2), (64, 128, 1, 4, 2), (64, 128, 2, 4, 1), (64, 64, 2, 4, 1),
    (64, 32, 2, 4, 1),
]
STAGES = 6
TIMES = LoopTimes(step=135, bandwidth=85, latency=2000, end=100, byte=0.1)
PARTS = 1000
"""Cycles more where sums are split: it takes so long until the next kernel sees what TMA wrote."""
FINISHING = 2**15  # bytes of a multiprocessor's shared memory for slices that are being finished


@triton.jit
def matmul_tma_kernel(
    a_desc, b_desc, out_desc, residual_desc, epilogue, prefetch_ptr, prefetch_size, M, N, K,
    A_BY_ROWS: tl.constexpr, B_BY_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    SLICES: tl.constexpr, AT_ONCE: tl.constexpr, ONE_TILE: tl.constexpr, SPLIT_K: tl.constexpr, PDL: tl.constexpr,
    ACTIVATION: tl.constexpr = None, A_PARTS: tl.constexpr = None, OUT_PARTS: tl.constexpr = None,
):
    """Tiles of out (M, N), or with SPLIT_K > 1 of the SPLIT_K parts of its sums, which lie one below the other.

    a_desc, b_desc: a (M, K) and b (K, N) in blocks, or if not A_BY_ROWS and B_BY_ROWS, their transposes.
    out_desc, residual_desc: out, and without AT_ONCE the residual, (M, N), in slices of BLOCK_M x (BLOCK_N // SLICES).
    epilogue, and what is compiled in of it (ACTIVATION, A_PARTS, OUT_PARTS): see `epilogue`.
    prefetch_ptr: `prefetch_size` elements that a later kernel will read, or None.
    The grid: programs, as many as there are tiles if ONE_TILE, and SPLIT_K.
    """
    prefetch_to_l2(prefetch_ptr, prefetch_size, PDL)
    pdl_wait(PDL)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    programs = tl.num_programs(0)
    if ONE_TILE and AT_ONCE:
        tile_m, tile_n = grouped_tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
        row, col = tile_m * BLOCK_M, tile_n * BLOCK_N
        if epilogue.norm_statistics is not None:
            means, squares = load_row_statistics(epilogue, row, M, K, BLOCK_M, A_PARTS)
        slices = load_slices(epilogue, residual_desc, row, col, M, N, BLOCK_M, BLOCK_N, SLICES)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        # this program's part of the sum: at least one step, or ptxas may run the products one by one
        steps = tl.maximum(tl.cdiv(K, BLOCK_K * SPLIT_K), 1)
        part = tl.program_id(1)
        for k in range(part * steps, part * steps + steps):  # past the end of K there are zeros
            a, b = load_step(a_desc, b_desc, tile_m, tile_n, k, A_BY_ROWS, B_BY_ROWS, BLOCK_M, BLOCK_N, BLOCK_K)
            acc = dot(a, b, acc, PRECISION)
        row_norms = ()
        if epilogue.norm_statistics is not None:
            row_norms = mean_and_rstd(means, squares, K, epilogue.norm_eps)
        if SPLIT_K > 1:
            row += part * tl.cdiv(M, BLOCK_M) * BLOCK_M
        finish_slices(acc, out_desc, residual_desc, epilogue, row_norms, slices, row, col, M, N,
                      ACTIVATION, OUT_PARTS, AT_ONCE, 0, SLICES)
    else:
        tl.static_assert(SPLIT_K == 1, "programs that share a tile have one tile, and ask AT_ONCE")
        finished = tl.program_id(0) - programs  # a number of its own: the flattened loop has a later `tile` by then
        for tile in tl.range(tl.program_id(0), tiles, programs, flatten=True):
            tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(tl.cdiv(K, BLOCK_K)):
                a, b = load_step(a_desc, b_desc, tile_m, tile_n, k, A_BY_ROWS, B_BY_ROWS, BLOCK_M, BLOCK_N, BLOCK_K)
                acc = dot(a, b, acc, PRECISION)

            finished += programs
            tile_m, tile_n = grouped_tile(finished, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            row, col = tile_m * BLOCK_M, tile_n * BLOCK_N
            row_norms = ()
            if epilogue.norm_statistics is not None:  # first of all: many registers, and few once they are summed
                means, squares = load_row_statistics(epilogue, row, M, K, BLOCK_M, A_PARTS)
                row_norms = mean_and_rstd(means, squares, K, epilogue.norm_eps)
            slices = ()
            if AT_ONCE:
                slices = load_slices(epilogue, residual_desc, row, col, M, N, BLOCK_M, BLOCK_N, SLICES)
            finish_slices(acc, out_desc, residual_desc, epilogue, row_norms, slices, row, col, M, N,
                          ACTIVATION, OUT_PARTS, AT_ONCE, 0, SLICES)


@triton.jit
def load_step(
    a_desc, b_desc, tile_m, tile_n, k, A_BY_ROWS: tl.constexpr, B_BY_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """The blocks of a and b that step `k` of a tile multiplies: (BLOCK_M, BLOCK_K) and (BLOCK_K, BLOCK_N)."""
    if A_BY_ROWS:
        a = a_desc.load([tile_m * BLOCK_M, k * BLOCK_K])
    else:
        a = a_desc.load([k * BLOCK_K, tile_m * BLOCK_M]).T
    if B_BY_ROWS:
        b = b_desc.load([k * BLOCK_K, tile_n * BLOCK_N])
    else:
        b = b_desc.load([tile_n * BLOCK_N, k * BLOCK_K]).T
    return a, b


@triton.jit
def load_row_statistics(epilogue, row, M, K, BLOCK_M: tl.constexpr, A_PARTS: tl.constexpr):
    """Statistics of BLOCK_M rows of a from `row` on: means and squares of their parts."""
    rows = row + tl.arange(0, BLOCK_M)
    return load_statistics(epilogue.norm_statistics, epilogue.norm_stride, rows, M, K, A_PARTS)


@triton.jit
def load_slices(
    epilogue, residual_desc, row, col, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr,
):
    """`load_slice` of all slices of the tile at `row` and `col`."""
    slices = ()
    for i in tl.static_range(SLICES):
        slices += (load_slice(epilogue, residual_desc, row, col + i * (BLOCK_N // SLICES), M, N, BLOCK_M,
                              BLOCK_N // SLICES, True),)
    return slices


@triton.jit
def load_slice(
    epilogue, residual_desc, row, col, M, N, ROWS: tl.constexpr, COLS: tl.constexpr, AT_ONCE: tl.constexpr,
):
    """(column sums, bias, residual) for the slice at `row` and `col`; 0 where the epilogue has no such thing."""
    offs_n = col + tl.arange(0, COLS)
    sums = 0.0
    bias = 0.0
    residual = 0.0
    if epilogue.norm_statistics is not None:
        sums = tl.load(epilogue.norm_sums + offs_n, mask=offs_n < N)
    if epilogue.bias is not None:
        bias = tl.load(epilogue.bias + offs_n * epilogue.bias_stride, mask=offs_n < N).to(tl.float32)
    if epilogue.residual is not None:
        if AT_ONCE:  # through pointers: the compiler would wait for each of TMA's blocks before it asks for the next
            rows = (row + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # int64: M * N may pass 2**31
            cols = offs_n.to(tl.int64)[None, :]
            residual_ptrs = epilogue.residual + rows * epilogue.residual_stride_m + cols * epilogue.residual_stride_n
            residual = tl.load(residual_ptrs, mask=(rows < M) & (cols < N))
        else:
            residual = residual_desc.load([row, col])
    return sums, bias, residual


@triton.jit
def finish_slices(
    acc, out_desc, residual_desc, epilogue, row_norms, slices, row, col, M, N,
    ACTIVATION: tl.constexpr, OUT_PARTS: tl.constexpr, AT_ONCE: tl.constexpr, FIRST: tl.constexpr, SLICES: tl.constexpr,
):
    """Finishes and stores the tile `acc` in SLICES pieces of some columns each, and so with less shared memory.

    The tile begins at `row` and `col`. `slices` are those of the whole tile, if AT_ONCE, and FIRST is the first of acc.
    """
    COLS: tl.constexpr = acc.shape[1]
    if SLICES > 1:
        left, right = acc.reshape(acc.shape[0], 2, COLS // 2).permute(0, 2, 1).split()
        finish_slices(left, out_desc, residual_desc, epilogue, row_norms, slices, row, col, M, N,
                      ACTIVATION, OUT_PARTS, AT_ONCE, FIRST, SLICES // 2)
        finish_slices(right, out_desc, residual_desc, epilogue, row_norms, slices, row, col + COLS // 2, M, N,
                      ACTIVATION, OUT_PARTS, AT_ONCE, FIRST + SLICES // 2, SLICES // 2)
    else:
        if AT_ONCE:
            sums, bias, residual = slices[FIRST]
        else:
            sums, bias, residual = load_slice(epilogue, residual_desc, row, col, M, N, acc.shape[0], COLS, AT_ONCE)
        if epilogue.norm_statistics is not None:
            acc = normalise_sums(acc, row_norms, sums)
        if epilogue.bias is not None:
            acc += bias[None, :]
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        if epilogue.residual is not None:
            acc += residual.to(tl.float32)
        out = acc.to(out_desc.dtype)
        out_desc.store([row, col], out)
        if epilogue.statistics is not None:
            rows = row + tl.arange(0, acc.shape[0])
            store_statistics(out, epilogue.statistics, rows, col, M, N, OUT_PARTS)


def can_run(problem: Product) -> bool:
    """Matrices that TMA can read and write. Where a and b have to be rounded first, all memory between their first
    elements and their last is: not where that is much more."""
    p = problem
    dense = extent((p.M, p.K), p.a_strides) <= 2 * p.M * p.K and extent((p.K, p.N), p.b_strides) <= 2 * p.K * p.N
    return p.fits_tma and (p.precision != "tf32" or dense)


@per_gpu
def configs(problem: Product) -> list[Config]:
    """Each size of tile; where tiles are few, also with the sums split into parts that are worth a program."""
    p = problem
    found = []
    for block_m, block_n, rows, warps, per_sm in TILES:
        block_k = rows * step_size(p)
        tiles = cdiv(p.M, block_m) * cdiv(p.N, block_n)
        for split in SPLITS:
            few = tiles * split <= runtime.num_sms() and cdiv(p.K, block_k) >= FEWEST_STEPS * split
            if split == 1 or few:
                found.append(tma_config(p, block_m, block_n, block_k, warps, per_sm, split))
    return found


def tma_config(
    problem: Product, block_m: int, block_n: int, block_k: int, warps: int, per_sm: int, split: int
) -> Config:
    """Stages and slices that fit the shared memory: FINISHING for slices, the rest for blocks of a and b."""
    p, itemsize = problem, problem.dtype.itemsize
    tiles = cdiv(p.M, block_m) * cdiv(p.N, block_n)
    free = runtime.shared_memory() - FINISHING - 1024 * per_sm
    stages = min(STAGES, free // ((block_m + block_n) * block_k * itemsize * per_sm))
    if split > 1:
        bytes_of_sum = 4  # the parts are float32
    else:
        bytes_of_sum = itemsize if p.residual_strides is None else 2 * itemsize
    slices = min(next_power_of_2(cdiv(block_m * block_n * bytes_of_sum * per_sm, FINISHING)), block_n // PART.value)
    # a program with one tile has no other loads under way while it waits for those of its epilogue
    at_once = tiles <= runtime.num_sms() * per_sm
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "SLICES": slices,
              "PER_SM": per_sm, "AT_ONCE": at_once, "SPLIT_K": split}
    cost = predicted_cycles(p, TIMES, block_m, block_n, block_k, split, stages, per_sm) + (PARTS if split > 1 else 0)
    return Config("tma", blocks, warps, stages, cost)


def launch(problem: Product, config: Config, operands: ProductOperands) -> None:
    p, split = problem, config.blocks["SPLIT_K"]
    grid, a_block, b_block, out_block, residual_block, options = plan(problem, config)
    a, b, out, epilogue = operands.a, operands.b, operands.out, operands.epilogue
    if p.precision == "tf32":  # TMA takes them past the registers
        a, b = rounded_to_tf32(a), rounded_to_tf32(b)
    if split > 1:
        out, epilogue = out.new_empty(out_block[0], dtype=torch.float32), NO_EPILOGUE
    matmul_tma_kernel[grid](
        TensorDescriptor(a, *a_block), TensorDescriptor(b, *b_block),
        TensorDescriptor(out, *out_block),
        None if residual_block is None else TensorDescriptor(epilogue.residual, *residual_block),
        epilogue, operands.prefetch, operands.prefetch_size, p.M, p.N, p.K, **options,
    )
    if split > 1:
        sum_matmul_parts(p, out.view(split, -1, p.N), operands)


@per_gpu
def plan(problem: Product, config: Config) -> tuple:
    """The grid; the shape, the strides and the block of each descriptor; and what is compiled in."""
    p, options = problem, config.options
    block_m, block_n, block_k, split = (options[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K"))
    tiles_m = cdiv(p.M, block_m)
    tiles = tiles_m * cdiv(p.N, block_n)
    resident = options.pop("PER_SM") * runtime.num_sms()
    programs = tiles if split > 1 else min(tiles, resident)

    slice_block = [block_m, block_n // options["SLICES"]]
    out_rows = p.M if split == 1 else split * tiles_m * block_m
    by_tma = split == 1 and p.residual_strides is not None and not options["AT_ONCE"]
    return (
        (programs, split),
        descriptor_arguments(p.a_order, [p.M, p.K], p.a_strides, [block_m, block_k]),
        descriptor_arguments(p.b_order, [p.K, p.N], p.b_strides, [block_k, block_n]),
        descriptor_arguments("rows", [out_rows, p.N], (p.N, 1), slice_block),
        descriptor_arguments("rows", [p.M, p.N], p.residual_strides, slice_block) if by_tma else None,
        {"A_BY_ROWS": p.a_order == "rows", "B_BY_ROWS": p.b_order == "rows",
         "PRECISION": "tf32_operands" if p.dtype == torch.float32 else "ieee", "ONE_TILE": tiles == programs, **options,
         **(p.finishing_options if split == 1 else {}), **pdl_options(programs * split)},
    )


def descriptor_arguments(
    order: str, shape: list[int], strides: tuple[int, int], block: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Shape, strides and block of a matrix that TMA reads by "rows", or of its transpose, if it reads by "columns"."""
    strides = list(strides)
    return (shape, strides, block) if order == "rows" else (shape[::-1], strides[::-1], block[::-1])
