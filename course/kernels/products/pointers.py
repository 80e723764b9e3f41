"""Matrix product for every GPU: tiles through pointers, any strides, one matrix or a batch of them.

A program owns a tile of BLOCK_M x BLOCK_N sums and walks along K, BLOCK_K products at a step. Where tiles are few and
sums long, SPLIT_K programs share a tile, and `split_k` adds their parts.
"""

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.dot import dot
from course.kernels.parts.grouped_tile import grouped_tile
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.predicted_time import LoopTimes, programs_at_once
from course.kernels.parts.prefetch import prefetch_to_l2
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.products.epilogue import NO_EPILOGUE, finish_tile
from course.kernels.products.problem import Product, ProductOperands
from course.kernels.products.row_statistics import PART
from course.kernels.products.split_k import sum_matmul_parts
from course.kernels.products.tiles import FEWEST_STEPS, SPLITS, STAGES, predicted_cycles, step_size
from course.runtime import per_gpu
from course.tuning import Config

TILES = [  # BLOCK_M, BLOCK_N, warps
    (256, 128, 8), (128, 256, 8), (128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (64, 32, 4), (32, 64, 4),
    (16, 128, 4), (16, 64, 4), (16, 32, 4),
]
FLOAT32_TILES = [(128, 64, 8), (64, 64, 4), (32, 64, 4), (16, 64, 4), (16, 32, 4)]  # without tensor cores
TIMES = LoopTimes(step=0, bandwidth=40, latency=900, end=1500, byte=0.07)


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, out_ptr, epilogue, prefetch_ptr, prefetch_size,
    M, N, K, batch_sizes, a_strides, b_strides, residual_batch_strides,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr, PDL: tl.constexpr,
    ACTIVATION: tl.constexpr = None, A_PARTS: tl.constexpr = None, OUT_PARTS: tl.constexpr = None,
):
    """Tiles of out (*batch_sizes, M, N), contiguous, or with SPLIT_K > 1 of parts (SPLIT_K, M, N) of one matrix's sums.

    a (*batch_sizes, M, K) and b (*batch_sizes, K, N) have one stride a dimension, and the residual those of the batch's
    dimensions besides its epilogue's.
    epilogue, and what is compiled in of it (ACTIVATION, A_PARTS, OUT_PARTS): see `epilogue`.
    prefetch_ptr: `prefetch_size` elements that a later kernel will read, or None.
    The grid: tiles of all matrices, numbered by `grouped_tile` in groups of GROUP_M rows, and SPLIT_K.
    """
    prefetch_to_l2(prefetch_ptr, prefetch_size, PDL)
    pdl_wait(PDL)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    tile_m, tile_n = grouped_tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(0) // tiles
    a_ptr += batch_offset(batch, batch_sizes, a_strides)
    b_ptr += batch_offset(batch, batch_sizes, b_strides)

    # this program's part of the sum
    part = tl.program_id(1)
    length = tl.cdiv(K, BLOCK_K * SPLIT_K) * BLOCK_K
    first_k = part * length
    offs_k = first_k + tl.arange(0, BLOCK_K)

    # rows and columns past the edge start over at 0: their sums are not stored, and so they need no mask here
    a_rows = (offs_m % M).to(tl.int64)[:, None] * a_strides[-2]  # int64: M * stride may pass 2**31
    b_cols = (offs_n % N).to(tl.int64)[None, :] * b_strides[-1]
    a_ptrs = a_ptr + a_rows + offs_k.to(tl.int64)[None, :] * a_strides[-1]
    b_ptrs = b_ptr + b_cols + offs_k.to(tl.int64)[:, None] * b_strides[-2]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(first_k, tl.minimum(first_k + length, K), BLOCK_K):
        inside = tl.arange(0, BLOCK_K) < K - k
        a = tl.load(a_ptrs, mask=inside[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=inside[:, None], other=0.0)
        acc = dot(a, b, acc, PRECISION)
        a_ptrs += tl.cast(a_strides[-1], tl.int64) * BLOCK_K
        b_ptrs += tl.cast(b_strides[-2], tl.int64) * BLOCK_K

    # out holds one matrix for each of a batch, or for each part of the sums: there are never both
    out_ptr += (batch + part).to(tl.int64) * M * N
    residual_offset = 0
    if epilogue.residual is not None:
        residual_offset = batch_offset(batch, batch_sizes, residual_batch_strides)
    finish_tile(acc, out_ptr, epilogue, residual_offset, tile_m * BLOCK_M, tile_n * BLOCK_N, M, N, K,
                ACTIVATION, A_PARTS, OUT_PARTS)


@triton.jit
def batch_offset(batch, sizes, strides):
    """Where matrix number `batch` starts. `sizes` and the first of `strides` are those of the batch's dimensions."""
    DIMS: tl.constexpr = len(sizes)
    offset = tl.zeros((), tl.int64)
    for d in tl.static_range(DIMS):
        offset += (batch % sizes[DIMS - 1 - d]).to(tl.int64) * strides[DIMS - 1 - d]
        batch //= sizes[DIMS - 1 - d]
    return offset


def can_run(problem: Product) -> bool:
    return True


@per_gpu
def configs(problem: Product) -> list[Config]:
    """Of each size of tile, those two that split the sums into the most promising numbers of parts."""
    p, block_k = problem, step_size(problem)
    if runtime.INTERPRET:  # its time goes with the number of programs
        sizes = (p.M, 16, 256), (p.N, PART.value, 512), (p.K, 16, 512)
        block_m, block_n, block_k = (min(max(next_power_of_2(size), least), most) for size, least, most in sizes)
        return [pointers_config(block_m, block_n, block_k, split=1, warps=4, stages=1, cost=0.0)]

    steps, itemsize = cdiv(p.K, block_k), p.dtype.itemsize
    found = []
    for block_m, block_n, warps in TILES if p.on_tensor_cores else FLOAT32_TILES:
        stage = (block_m + block_n) * block_k * itemsize
        stages = min(STAGES, runtime.shared_memory() // stage)
        if stages < 2:
            continue
        resident = programs_at_once(stages * stage, block_m * block_n, warps)
        # Hopper's instruction takes 64 rows; for fewer the one before it is used, at half the rate
        slowdown = 2 if block_m < 64 and runtime.capability() == (9, 0) else 1
        tiles = p.batch * cdiv(p.M, block_m) * cdiv(p.N, block_n)
        of_this_size = []
        for split in SPLITS:
            # only where the tiles alone leave multiprocessors idle, and into parts worth a program
            if split > 1 and (p.batch > 1 or tiles * split > 2 * runtime.num_sms() or steps < FEWEST_STEPS * split):
                continue
            cost = predicted_cycles(p, TIMES, block_m, block_n, block_k, split, stages, resident, slowdown)
            of_this_size.append(pointers_config(block_m, block_n, block_k, split, warps, stages, cost))
        found += sorted(of_this_size, key=lambda config: config.cost)[:2]
    return found


def pointers_config(
    block_m: int, block_n: int, block_k: int, split: int, warps: int, stages: int, cost: float
) -> Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "SPLIT_K": split}
    return Config("pointers", blocks, warps, stages, cost)


def launch(problem: Product, config: Config, operands: ProductOperands) -> None:
    p, split = problem, config.blocks["SPLIT_K"]
    grid, residual_batch_strides, options = plan(problem, config)
    out, epilogue = operands.out, operands.epilogue
    if split > 1:
        out, epilogue = out.new_empty(split, p.M, p.N, dtype=torch.float32), NO_EPILOGUE
    matmul_kernel[grid](
        operands.a, operands.b, out, epilogue, operands.prefetch, operands.prefetch_size,
        p.M, p.N, p.K, p.batch_sizes, p.a_strides, p.b_strides, residual_batch_strides, **options,
    )
    if split > 1:
        sum_matmul_parts(p, out, operands)


@per_gpu
def plan(problem: Product, config: Config) -> tuple[tuple[int, int], tuple[int, ...], dict]:
    """The grid, the residual's strides from matrix to matrix, and what is compiled in."""
    p, blocks = problem, config.blocks
    split = blocks["SPLIT_K"]
    programs = p.batch * cdiv(p.M, blocks["BLOCK_M"]) * cdiv(p.N, blocks["BLOCK_N"])
    finishing = p.finishing_options if split == 1 else {}
    options = {"PRECISION": p.precision, **config.options, **finishing, **pdl_options(programs * split)}
    return (programs, split), (p.residual_strides or ())[:-2], options
