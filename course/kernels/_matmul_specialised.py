"""Matrix product for Hopper whose warps have different tasks, in tiles that come out even.

In `_matmul_tma` all warps ask for the next blocks, and meet at a barrier for it at every step. Here one warp does
nothing else, as far ahead as there is room. The others are groups of four, each with 64 columns of the tile. A group
waits for a block to be there, multiplies, and says that it may be overwritten; no group waits for another. Which warp
does what is nothing that Triton lets a kernel say: this is Gluon, the language below it, in which the layouts of
registers and shared memory are the author's as well.

A tensor core instruction takes 64 rows of its left operand and any multiple of 8 columns of its right one. Rows of a
usually come in numbers that no power of two divides, columns of b, being a layer's features, do not: so each group
computes its part of the result transposed, with b's columns on the left, and a tile may have as many rows as it takes
for the multiprocessors to have equal work. 1,576 rows by 768 columns, a layer of a ViT for 8 images, are 132 tiles of
72 x 128, one for each multiprocessor of an H200; of 128 x 128 they are 78, and 54 multiprocessors have none. Tensors in
registers have sizes that are powers of two, so the 72 rows are two of them, of 64 and 8 rows: two instructions.
"""
import functools

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
)  # fmt: skip

from course import runtime
from course.kernels._activation import epilogue
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._gluon import async_load, async_store, columns_of_sums, describe
from course.kernels._matmul_tile import Product, grouped_tile
from course.kernels._sizes import cdiv

COLS = gl.constexpr(64)  # of a group
GROUP_M = gl.constexpr(4)  # tiles whose rows follow each other, and which use the same columns of b
TILE_ROWS = [(64,), (64, 8), (64, 16), (64, 32), (128,), (128, 16), (128, 32)]  # in one tensor, or in two
MEMORY = 226 * 1024  # bytes of shared memory for blocks, of a program's 227 KB
REGISTERS = {2: (168, 232), 3: (128, 152)}
"""By the number of groups: registers of a thread to begin with, of 65,536 in all, and of a group's once tasks begin."""


@gluon.jit
def matmul_specialised_kernel(
    a_desc, a_rest_desc, b_desc, out_desc, out_rest_desc, residual_desc, residual_rest_desc, bias_ptr, bias_stride,
    ahead_ptr, ahead_size, M, N, K, ACTIVATION: gl.constexpr, ROWS: gl.constexpr, GROUPS: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, GROUP_REGISTERS: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    a_descs = (a_desc,)
    out_descs = (out_desc,)
    residual_descs = (residual_desc,)
    if len(ROWS) == 2:
        a_descs = (a_desc, a_rest_desc)
        out_descs = (out_desc, out_rest_desc)
        residual_descs = (residual_desc, residual_rest_desc)
    if ahead_ptr is not None:
        fetch_ahead(ahead_ptr, ahead_size)
    b_blocks = gl.allocate_shared_memory(b_desc.dtype, [STAGES * GROUPS, COLS, BLOCK_K], b_desc.layout)
    a_blocks = ()
    tiles = ()
    for part in gl.static_range(len(ROWS)):
        a_blocks += (gl.allocate_shared_memory(b_desc.dtype, [STAGES, ROWS[part], BLOCK_K], a_descs[part].layout),)
        tiles += (gl.allocate_shared_memory(b_desc.dtype, [GROUPS, ROWS[part], COLS], out_descs[part].layout),)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    residual_full = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=GROUPS)
    for group in gl.static_range(GROUPS):
        mbarrier.init(residual_full.index(group), count=1)
    fence_async_shared()  # for the copy engine, which sets some of them

    sizes = (M, N, K)
    blocks = (a_blocks, b_blocks, full, empty)
    result = (out_descs, residual_descs, bias_ptr, bias_stride, tiles, residual_full)
    # beside the first group, which keeps the registers that are left
    if GROUPS == 2:
        gl.warp_specialize([
            (multiply, (0, sizes, blocks, result, ACTIVATION, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
            (multiply, (1, sizes, blocks, result, ACTIVATION, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
            (load, (a_descs, b_desc, sizes, blocks, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
        ], worker_num_warps=[4, 1], worker_num_regs=[GROUP_REGISTERS, 40])  # fmt: skip
    else:
        gl.warp_specialize([
            (multiply, (0, sizes, blocks, result, ACTIVATION, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
            (multiply, (1, sizes, blocks, result, ACTIVATION, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
            (multiply, (2, sizes, blocks, result, ACTIVATION, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
            (load, (a_descs, b_desc, sizes, blocks, ROWS, GROUPS, BLOCK_K, STAGES, EARLY)),
        ], worker_num_warps=[4, 4, 1], worker_num_regs=[GROUP_REGISTERS, GROUP_REGISTERS, 40])  # fmt: skip


@gluon.constexpr_function
def total(sizes):
    return sum(sizes)


@gluon.jit
def fetch_ahead(ptr, size):
    """`_early_start.fetch_ahead`, with the layout that Gluon wants to be told."""
    LINE: gl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth  # 128 bytes
    lines = gl.cdiv(size, LINE)
    for first in range(gl.program_id(0) * 128, lines, gl.num_programs(0) * 128):
        line = gl.minimum(first + gl.arange(0, 128, gl.BlockedLayout([1], [32], [4], [0])), lines - 1)
        gl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptr + line * LINE],
                                  dtype=gl.int32, is_pure=False, pack=1)  # fmt: skip


@gluon.jit
def load(
    a_descs, b_desc, sizes, blocks, ROWS: gl.constexpr, GROUPS: gl.constexpr, BLOCK_K: gl.constexpr,
    STAGES: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The task of the warp that loads: one step's blocks after the other, for all tiles of this program."""
    wait_for_previous(EARLY)
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    BLOCK_M: gl.constexpr = total(ROWS)
    BLOCK_N: gl.constexpr = GROUPS * COLS
    BYTES: gl.constexpr = (BLOCK_M + BLOCK_N) * BLOCK_K * b_desc.dtype.primitive_bitwidth // 8
    step = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        for k in range(gl.cdiv(K, BLOCK_K)):
            stage = step % STAGES
            bar = full.index(stage)
            mbarrier.wait(empty.index(stage), step // STAGES & 1 ^ 1)  # which passes at once in the first round
            mbarrier.expect(bar, BYTES)
            for group in gl.static_range(GROUPS):
                async_load(b_desc, [tile_n * BLOCK_N + group * COLS, k * BLOCK_K], bar,
                           b_blocks.index(stage * GROUPS + group))  # fmt: skip
            for part in gl.static_range(len(ROWS)):
                async_load(a_descs[part], [tile_m * BLOCK_M + part * ROWS[0], k * BLOCK_K], bar,
                           a_blocks[part].index(stage))  # fmt: skip
            step += 1


@gluon.jit
def multiply(
    GROUP: gl.constexpr, sizes, blocks, result, ACTIVATION: gl.constexpr, ROWS: gl.constexpr, GROUPS: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The task of a group: its columns of all tiles of this program, each finished and stored."""
    wait_for_previous(EARLY)
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    out_descs, residual_descs, bias_ptr, bias_stride, tiles, residual_full = result
    BLOCK_M: gl.constexpr = total(ROWS)
    BLOCK_N: gl.constexpr = GROUPS * COLS
    step = 0
    finished = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        row, col = tile_m * BLOCK_M, tile_n * BLOCK_N + GROUP * COLS
        accs = ()
        biases = ()
        for part in gl.static_range(len(ROWS)):
            accs += (gl.full([COLS, ROWS[part]], 0.0, gl.float32, columns_of_sums(ROWS[part])),)
            if bias_ptr is not None:
                cols = col + gl.arange(0, COLS, gl.SliceLayout(1, columns_of_sums(ROWS[part])))
                biases += (gl.load(bias_ptr + cols * bias_stride, mask=cols < N),)
        # at least one step: where a loop might be skipped, ptxas may run its products one after the other
        for k in range(gl.maximum(gl.cdiv(K, BLOCK_K), 1)):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), step // STAGES & 1)
            b = b_blocks.index(stage * GROUPS + GROUP)
            sums = ()
            for part in gl.static_range(len(ROWS)):
                sums += (warpgroup_mma(b, a_blocks[part].index(stage).permute((1, 0)), accs[part], is_async=True),)
            if residual_descs[0] is not None:
                if k == 0:  # the tensor cores have work: time to see the last tile off, and fetch what this one needs
                    tma.store_wait(0)
                    mbarrier.expect(residual_full.index(GROUP), BLOCK_M * COLS * b_blocks.dtype.primitive_bitwidth // 8)
                    for part in gl.static_range(len(ROWS)):
                        async_load(residual_descs[part], [row + part * ROWS[0], col], residual_full.index(GROUP),
                                   tiles[part].index(GROUP))  # fmt: skip
            accs = wait_for_products(sums, len(ROWS))  # of the step before, whose blocks are now free
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=k > 0)
            step += 1
        accs = wait_for_products(accs, 0)
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)

        if residual_descs[0] is not None:
            mbarrier.wait(residual_full.index(GROUP), finished & 1)
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
                residual = tiles[part].index(GROUP).permute((1, 0)).load(columns_of_sums(ROWS[part]))
                acc += residual.to(gl.float32)
            finished_parts += (acc.to(b_blocks.dtype),)
        for part in gl.static_range(len(ROWS)):
            tiles[part].index(GROUP).permute((1, 0)).store(finished_parts[part])
        fence_async_shared()
        for part in gl.static_range(len(ROWS)):
            async_store(out_descs[part], [row + part * ROWS[0], col], tiles[part].index(GROUP))
        finished += 1
    tma.store_wait(0)


@gluon.jit
def wait_for_products(sums, PENDING: gl.constexpr):
    """The sums of all products but the last PENDING."""
    if len(sums) == 1:
        return (warpgroup_mma_wait(PENDING, deps=sums),)
    else:
        return warpgroup_mma_wait(PENDING, deps=sums)


def specialised_takes(p: Product) -> bool:
    """Whether this kernel can compute a product that the copy engine can read: weights as a linear layer has them."""
    return (runtime.capability() == (9, 0) and p.out.dtype != torch.float32 and p.norm is None and p.statistics is None
            and p.a_strides[1] == 1 and p.b_strides[0] == 1)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def rows_of_a_tile(M: int, N: int, K: int, groups: int, sms: int) -> tuple[int, ...]:
    """Rows of a tile, a power of two or two, with which `sms` multiprocessors take the fewest cycles.

    What a multiprocessor takes for 16 products of each sum of a tile is its shared memory's time, at 128 bytes a cycle,
    or its tensor cores': each group reads its own 2 KB once for each power of two, and 32 bytes a row; the copy engine
    writes 32 bytes a row and a column. To begin and end a tile takes about 1,000 cycles more.
    """

    def cycles(rows):
        tiles = cdiv(M, sum(rows)) * cdiv(N, COLS.value * groups)
        shared = groups * sum(16 + part / 4 for part in rows) + (sum(rows) + COLS.value * groups) / 4
        return cdiv(tiles, sms) * (K / 16 * max(shared, groups * sum(rows) / 2) + 1000)

    return min(TILE_ROWS, key=cycles)


def matmul_specialised(p: Product, config: triton.Config) -> None:
    groups = config.kwargs["GROUPS"]
    rows, cols = rows_of_a_tile(p.M, p.N, p.K, groups, runtime.num_sms()), COLS.value
    finished = sum(rows) * cols * groups * 2
    stages = {k: (MEMORY - finished) // ((sum(rows) + cols * groups) * k * 2) for k in (128, 64)}
    block_k = 128 if stages[128] >= 4 else 64  # fewer barriers, if four steps can be under way

    def describe_parts(t, sizes, stride, cols):
        parts = [None if t is None else describe(t, sizes, (stride, 1), [part, cols]) for part in rows]
        return *parts, *[None] * (2 - len(parts))

    programs = min(runtime.num_sms(), cdiv(p.M, sum(rows)) * cdiv(p.N, cols * groups))
    registers, group_registers = REGISTERS[groups]
    matmul_specialised_kernel[(programs,)](
        *describe_parts(p.a, (p.M, p.K), p.a_strides[0], block_k),
        describe(p.b, (p.N, p.K), (p.b_strides[1], 1), [cols, block_k]),
        *describe_parts(p.out, (p.M, p.N), p.N, cols),
        *describe_parts(p.residual, (p.M, p.N), p.residual_strides[0], cols),
        p.bias, p.bias_stride, p.ahead, 0 if p.ahead is None else p.ahead.numel(), p.M, p.N, p.K,
        ACTIVATION=epilogue(p.activation, p.out.dtype), ROWS=rows, BLOCK_K=block_k, STAGES=stages[block_k],
        GROUPS=groups, GROUP_REGISTERS=group_registers, num_warps=config.num_warps, maxnreg=registers,
        **early_start(programs),
    )  # fmt: skip
