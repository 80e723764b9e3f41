"""Matrix product for Hopper whose warps have different tasks, in tiles whose number suits the GPU.

In `tma` all warps ask for the next blocks, and meet at a barrier for it at every step. Here one warp does nothing but
load, as many steps before the products as there is room for. The others form two or three warp groups of four warps,
each with 64 columns of the tile. A warp group waits for a block to be loaded, multiplies it, and signals that its place
may be overwritten; no warp group waits for another. Triton has no way to give warps different tasks: this is Gluon, the
language below it, in which the author also chooses the layouts of registers and shared memory.

A tensor core instruction takes 64 rows of its left operand and any multiple of 8 columns of its right one. The number
of a's rows is rarely a multiple of 64; that of b's columns, a layer's features, usually is. So each warp group computes
its part of the result transposed, with b's columns on the left, and a tile may have as many rows as give all
multiprocessors equal work. 1,576 rows by 768 columns, a layer of a ViT for 8 images, are 132 tiles of 72 x 128, one for
each multiprocessor of an H200; of 128 x 128 they are 78, which leave 54 multiprocessors idle. Tensors in registers have
sizes that are powers of two, so the 72 rows are two tensors, of 64 and 8 rows, and take two instructions.
"""
import functools

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from course import runtime
from course.kernels.parts.gluon import DTYPES, accumulator_layout, async_load, async_store, phase
from course.kernels.parts.grouped_tile import grouped_tile
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.predicted_time import LoopTimes
from course.kernels.parts.sizes import cdiv
from course.kernels.products.problem import Product, ProductOperands
from course.kernels.products.tiles import predicted_cycles, step_size
from course.runtime import per_gpu
from course.tuning import Config

COLS = gl.constexpr(64)  # of a warp group
GROUP_M = gl.constexpr(4)  # tiles whose rows follow each other, and which use the same columns of b
TILE_ROWS = [(64,), (64, 8), (64, 16), (64, 32), (128,), (128, 16), (128, 32)]  # in one tensor, or in two
TIMES = LoopTimes(step=120, bandwidth=90, latency=0, end=0, byte=0.02)
MEMORY = 226 * 1024  # bytes of shared memory for blocks, of a program's 227 KB
REGISTERS = {2: (168, 232), 3: (128, 152)}
"""By the number of warp groups: registers of a thread when the kernel is launched, of 65,536 in all, and of a thread
that multiplies once the tasks begin."""


@gluon.jit
def matmul_hopper_kernel(
    a_desc, a_rest_desc, b_desc, out_desc, out_rest_desc, residual_desc, residual_rest_desc, bias_ptr, bias_stride,
    prefetch_ptr, prefetch_size, M, N, K,
    ROWS: gl.constexpr, WARP_GROUPS: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    MULTIPLY_REGISTERS: gl.constexpr, ACTIVATION: gl.constexpr, PDL: gl.constexpr,
):
    """out (M, N) = act(a (M, K) @ b (K, N) + bias (N,)) + residual (M, N), in tiles of sum(ROWS) x (WARP_GROUPS * 64).

    a_desc, a_rest_desc: a in blocks of ROWS[0] x BLOCK_K and, where a tile has two tensors, of ROWS[1] x BLOCK_K.
    b_desc: the transpose of b, (N, K), in blocks of 64 x BLOCK_K.
    out_desc, residual_desc and their rest: in blocks of ROWS[0] x 64 and ROWS[1] x 64.
    prefetch_ptr: `prefetch_size` elements that a later kernel will read, or None.
    STAGES: blocks of a and b that shared memory has room for.
    """
    a_descs = (a_desc,)
    out_descs = (out_desc,)
    residual_descs = (residual_desc,)
    if len(ROWS) == 2:
        a_descs = (a_desc, a_rest_desc)
        out_descs = (out_desc, out_rest_desc)
        residual_descs = (residual_desc, residual_rest_desc)
    if prefetch_ptr is not None:
        gluon_prefetch_to_l2(prefetch_ptr, prefetch_size)
    b_blocks = gl.allocate_shared_memory(b_desc.dtype, [STAGES * WARP_GROUPS, COLS, BLOCK_K], b_desc.layout)
    a_blocks = ()
    tiles = ()
    for part in gl.static_range(len(ROWS)):
        a_blocks += (gl.allocate_shared_memory(b_desc.dtype, [STAGES, ROWS[part], BLOCK_K], a_descs[part].layout),)
        tiles += (gl.allocate_shared_memory(b_desc.dtype, [WARP_GROUPS, ROWS[part], COLS], out_descs[part].layout),)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    residual_full = gl.allocate_shared_memory(gl.int64, [WARP_GROUPS, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=WARP_GROUPS)
    for warp_group in gl.static_range(WARP_GROUPS):
        mbarrier.init(residual_full.index(warp_group), count=1)
    fence_async_shared()  # for TMA, which arrives at some of them

    sizes = (M, N, K)
    blocks = (a_blocks, b_blocks, full, empty)
    result = (out_descs, residual_descs, bias_ptr, bias_stride, tiles, residual_full)
    # the first task is that of the kernel's own warps, to which the others leave the rest of the registers
    if WARP_GROUPS == 2:
        gl.warp_specialize([
            (multiply_blocks, (0, sizes, blocks, result, ACTIVATION, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
            (multiply_blocks, (1, sizes, blocks, result, ACTIVATION, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
            (load_blocks, (a_descs, b_desc, sizes, blocks, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
        ], worker_num_warps=[4, 1], worker_num_regs=[MULTIPLY_REGISTERS, 40])
    else:
        gl.warp_specialize([
            (multiply_blocks, (0, sizes, blocks, result, ACTIVATION, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
            (multiply_blocks, (1, sizes, blocks, result, ACTIVATION, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
            (multiply_blocks, (2, sizes, blocks, result, ACTIVATION, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
            (load_blocks, (a_descs, b_desc, sizes, blocks, ROWS, WARP_GROUPS, BLOCK_K, STAGES, PDL)),
        ], worker_num_warps=[4, 4, 1], worker_num_regs=[MULTIPLY_REGISTERS, MULTIPLY_REGISTERS, 40])


@gluon.constexpr_function
def total(sizes):
    return sum(sizes)


@gluon.jit
def gluon_prefetch_to_l2(ptr, size):
    """`parts.prefetch.prefetch_to_l2` in Gluon, which has to be given a layout."""
    LINE: gl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth  # elements of a cache line's 128 bytes
    lines = gl.cdiv(size, LINE)
    for first in range(gl.program_id(0) * 128, lines, gl.num_programs(0) * 128):
        line = gl.minimum(first + gl.arange(0, 128, gl.BlockedLayout([1], [32], [4], [0])), lines - 1)
        gl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptr + line * LINE],
                                  dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def load_blocks(
    a_descs, b_desc, sizes, blocks,
    ROWS: gl.constexpr, WARP_GROUPS: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """The task of the warp that loads: one step's blocks after the other, for all tiles of this program."""
    pdl_wait(PDL)
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    BLOCK_M: gl.constexpr = total(ROWS)
    BLOCK_N: gl.constexpr = WARP_GROUPS * COLS
    BYTES: gl.constexpr = (BLOCK_M + BLOCK_N) * BLOCK_K * b_desc.dtype.primitive_bitwidth // 8
    step = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        for k in range(gl.cdiv(K, BLOCK_K)):
            stage = step % STAGES
            bar = full.index(stage)
            mbarrier.wait(empty.index(stage), phase(step // STAGES - 1))
            mbarrier.expect(bar, BYTES)
            for warp_group in gl.static_range(WARP_GROUPS):
                async_load(b_desc, [tile_n * BLOCK_N + warp_group * COLS, k * BLOCK_K], bar,
                           b_blocks.index(stage * WARP_GROUPS + warp_group))
            for part in gl.static_range(len(ROWS)):
                async_load(a_descs[part], [tile_m * BLOCK_M + part * ROWS[0], k * BLOCK_K], bar,
                           a_blocks[part].index(stage))
            step += 1


@gluon.jit
def multiply_blocks(
    WARP_GROUP: gl.constexpr, sizes, blocks, result, ACTIVATION: gl.constexpr,
    ROWS: gl.constexpr, WARP_GROUPS: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """The task of a warp group: its columns of all tiles of this program, each finished and stored."""
    pdl_wait(PDL)
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    out_descs, residual_descs, bias_ptr, bias_stride, tiles, residual_full = result
    BLOCK_M: gl.constexpr = total(ROWS)
    BLOCK_N: gl.constexpr = WARP_GROUPS * COLS
    step = 0
    finished = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        row, col = tile_m * BLOCK_M, tile_n * BLOCK_N + WARP_GROUP * COLS
        accs = ()
        biases = ()
        for part in gl.static_range(len(ROWS)):
            accs += (gl.full([COLS, ROWS[part]], 0.0, gl.float32, accumulator_layout(ROWS[part])),)
            if bias_ptr is not None:
                cols = col + gl.arange(0, COLS, gl.SliceLayout(1, accumulator_layout(ROWS[part])))
                biases += (gl.load(bias_ptr + cols * bias_stride, mask=cols < N),)
        # at least one step: where a loop might be skipped, ptxas may run its products one after the other
        for k in range(gl.maximum(gl.cdiv(K, BLOCK_K), 1)):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), phase(step // STAGES))
            b = b_blocks.index(stage * WARP_GROUPS + WARP_GROUP)
            sums = ()
            for part in gl.static_range(len(ROWS)):
                sums += (warpgroup_mma(b, a_blocks[part].index(stage).permute((1, 0)), accs[part], is_async=True),)
            if residual_descs[0] is not None:
                if k == 0:
                    # while the tensor cores multiply: once the tile before is stored, the residual takes its place
                    tma.store_wait(0)
                    mbarrier.expect(residual_full.index(WARP_GROUP),
                                    BLOCK_M * COLS * b_blocks.dtype.primitive_bitwidth // 8)
                    for part in gl.static_range(len(ROWS)):
                        async_load(residual_descs[part], [row + part * ROWS[0], col], residual_full.index(WARP_GROUP),
                                   tiles[part].index(WARP_GROUP))
            accs = wait_for_products(sums, len(ROWS))  # of the step before, whose blocks may be overwritten then
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=k > 0)
            step += 1
        accs = wait_for_products(accs, 0)
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)

        if residual_descs[0] is not None:
            mbarrier.wait(residual_full.index(WARP_GROUP), finished & 1)
        else:
            tma.store_wait(0)
        finished_parts = ()
        for part in gl.static_range(len(ROWS)):
            acc = accs[part]
            if bias_ptr is not None:
                acc += biases[part].to(gl.float32)[:, None]
            if ACTIVATION is not None:
                acc = ACTIVATION(acc)
            if residual_descs[0] is not None:
                residual = tiles[part].index(WARP_GROUP).permute((1, 0)).load(accumulator_layout(ROWS[part]))
                acc += residual.to(gl.float32)
            finished_parts += (acc.to(b_blocks.dtype),)
        for part in gl.static_range(len(ROWS)):
            tiles[part].index(WARP_GROUP).permute((1, 0)).store(finished_parts[part])
        fence_async_shared()
        for part in gl.static_range(len(ROWS)):
            async_store(out_descs[part], [row + part * ROWS[0], col], tiles[part].index(WARP_GROUP))
        finished += 1
    tma.store_wait(0)


@gluon.jit
def wait_for_products(sums, PENDING: gl.constexpr):
    """The sums of all products but the last PENDING."""
    if len(sums) == 1:
        return (warpgroup_mma_wait(PENDING, deps=sums),)
    else:
        return warpgroup_mma_wait(PENDING, deps=sums)


def can_run(problem: Product) -> bool:
    """16-bit products on Hopper with k innermost in both operands, as a linear layer has them, and without a norm."""
    p = problem
    return (p.fits_tma and runtime.capability() == (9, 0) and p.dtype != torch.float32
            and p.a_order == "rows" and p.b_order == "columns" and not p.norm and not p.statistics)


@per_gpu
def configs(problem: Product) -> list[Config]:
    """Two warp groups, and three. The kernel chooses its stages itself."""
    p, found = problem, []
    for warp_groups in REGISTERS:
        rows, cols = sum(rows_of_a_tile(p.M, p.N, p.K, warp_groups, runtime.num_sms())), warp_groups * COLS.value
        cost = predicted_cycles(p, TIMES, rows, cols, step_size(p), split=1, stages=1, resident=1)
        found.append(Config("hopper", {"WARP_GROUPS": warp_groups}, num_warps=4, num_stages=1, cost=cost))
    return found


@functools.lru_cache(maxsize=4096)
def rows_of_a_tile(M: int, N: int, K: int, warp_groups: int, sms: int) -> tuple[int, ...]:
    """Rows of a tile, a power of two or two, with which `sms` multiprocessors take the fewest cycles.

    For 16 products of each sum of a tile a multiprocessor takes the time of its shared memory, at 128 bytes a cycle, or
    that of its tensor cores. Each warp group reads 2 KB of b once for each power of two, and 32 bytes a row; TMA writes
    32 bytes a row and a column. To begin and end a tile takes about 1,000 cycles more.
    """

    def cycles(rows):
        tiles = cdiv(M, sum(rows)) * cdiv(N, COLS.value * warp_groups)
        shared = warp_groups * sum(16 + part / 4 for part in rows) + (sum(rows) + COLS.value * warp_groups) / 4
        return cdiv(tiles, sms) * (K / 16 * max(shared, warp_groups * sum(rows) / 2) + 1000)

    return min(TILE_ROWS, key=cycles)


def launch(problem: Product, config: Config, operands: ProductOperands) -> None:
    p, epilogue = problem, operands.epilogue
    grid, a_blocks, b_blocks, out_blocks, residual_blocks, options = plan(problem, config)
    matmul_hopper_kernel[grid](
        *descriptors(operands.a, a_blocks), *descriptors(operands.b, b_blocks), *descriptors(operands.out, out_blocks),
        *descriptors(epilogue.residual, residual_blocks), epilogue.bias, epilogue.bias_stride,
        operands.prefetch, operands.prefetch_size, p.M, p.N, p.K, **options,
    )


def descriptors(t: torch.Tensor | None, blocks) -> list[TensorDescriptor | None]:
    """One for each of `blocks`, which are the descriptor's arguments beside the tensor, or None."""
    return [None if block is None else TensorDescriptor(t, *block) for block in blocks]


@per_gpu
def plan(problem: Product, config: Config) -> tuple:
    """The grid; the arguments of the descriptors of a, b, out and residual; and what is compiled in."""
    p, warp_groups = problem, config.blocks["WARP_GROUPS"]
    rows, cols = rows_of_a_tile(p.M, p.N, p.K, warp_groups, runtime.num_sms()), COLS.value
    finished = sum(rows) * cols * warp_groups * 2
    stages = {k: (MEMORY - finished) // ((sum(rows) + cols * warp_groups) * k * 2) for k in (128, 64)}
    block_k = 128 if stages[128] >= 4 else 64  # fewer barriers, if four steps can be under way

    def blocks_of(sizes, stride, *blocks):
        """Descriptors' arguments for a matrix whose rows are `stride` apart."""
        layouts = [gl.NVMMASharedLayout.get_default_for(block, DTYPES[p.dtype]) for block in blocks]
        return [([*sizes], [stride, 1], block, layout) for block, layout in zip(blocks, layouts)]

    def parts_of(sizes, stride, width):
        """The same for blocks of a tile's rows, in one tensor or two."""
        parts = blocks_of(sizes, stride, *([part, width] for part in rows))
        return parts if len(parts) == 2 else [*parts, None]

    residual = [None, None] if p.residual_strides is None else parts_of((p.M, p.N), p.residual_strides[0], cols)
    programs = min(runtime.num_sms(), cdiv(p.M, sum(rows)) * cdiv(p.N, cols * warp_groups))
    registers, multiply_registers = REGISTERS[warp_groups]
    return (
        (programs,), parts_of((p.M, p.K), p.a_strides[0], block_k),
        blocks_of((p.N, p.K), p.b_strides[1], [cols, block_k]), parts_of((p.M, p.N), p.N, cols), residual,
        {"ROWS": rows, "WARP_GROUPS": warp_groups, "BLOCK_K": block_k, "STAGES": stages[block_k],
         "MULTIPLY_REGISTERS": multiply_registers, "ACTIVATION": p.finishing_options["ACTIVATION"],
         "num_warps": config.num_warps, "maxnreg": registers, **pdl_options(programs)},
    )
