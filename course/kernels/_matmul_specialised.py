"""Matrix product for Hopper whose warps have different tasks: one only loads, the others only multiply.

In `_matmul_tma` all warps ask for the next blocks, and meet at a barrier for it at every step. Here one warp does
nothing else, as far ahead as there is room. The others are groups of four, each with 64 rows of the tile, which is what
a tensor core instruction takes. A group waits for a block to be there, multiplies, and says that it may be overwritten;
no group waits for another. Which warp does what is nothing that Triton lets a kernel say: this is Gluon, the language
below it, in which the layouts of registers and shared memory are the author's as well.

Three groups also make tiles that no power of two makes, of 192 rows. 3,152 rows by 768 columns, a layer of a ViT for 16
images, are 102 tiles of 192 x 128, each on a multiprocessor of its own; of 128 x 128 they are 150, and 18 of an H200's
132 multiprocessors have two, for which the others wait.

A step of 64 products a sum keeps the tensor cores busy for 768 cycles, and shared memory, at 128 bytes a cycle, for
896: each group reads its own 8 KB and the 16 KB of all columns, and the copy engine writes 40 KB.
"""
import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
)  # fmt: skip
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from course import runtime
from course.kernels._activation import epilogue
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._matmul_tile import Product, grouped_tile

# two names that Triton 3.6 does not know yet
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
async_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

GROUPS = gl.constexpr(3)
ROWS = gl.constexpr(64)  # of a group
BLOCK_M = gl.constexpr(GROUPS.value * ROWS.value)
MAX_REGISTERS = 128  # a thread, to begin with: 65,536 of them for 16 warps


@gluon.jit
def matmul_specialised_kernel(
    a_desc, b_desc, out_desc, residual_desc, bias_ptr, bias_stride, ahead_ptr, ahead_size, M, N, K,
    ACTIVATION: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, GROUP_M: gl.constexpr,
    STAGES: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    if ahead_ptr is not None:
        fetch_ahead(ahead_ptr, ahead_size)
    wait_for_previous(EARLY)
    a_blocks = gl.allocate_shared_memory(a_desc.dtype, [STAGES * GROUPS, ROWS, BLOCK_K], a_desc.layout)
    b_blocks = gl.allocate_shared_memory(b_desc.dtype, [STAGES, BLOCK_N, BLOCK_K], b_desc.layout)
    tiles = gl.allocate_shared_memory(out_desc.dtype, [GROUPS, ROWS, BLOCK_N], out_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    residual_full = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=GROUPS)
    for group in gl.static_range(GROUPS):
        mbarrier.init(residual_full.index(group), count=1)

    sizes = (M, N, K)
    blocks = (a_blocks, b_blocks, full, empty)
    result = (out_desc, residual_desc, bias_ptr, bias_stride, tiles, residual_full)
    # beside the first group, which keeps the registers that are left
    gl.warp_specialize([
        (multiply, (0, sizes, blocks, result, ACTIVATION, BLOCK_N, BLOCK_K, GROUP_M, STAGES)),
        (multiply, (1, sizes, blocks, result, ACTIVATION, BLOCK_N, BLOCK_K, GROUP_M, STAGES)),
        (multiply, (2, sizes, blocks, result, ACTIVATION, BLOCK_N, BLOCK_K, GROUP_M, STAGES)),
        (load, (a_desc, b_desc, sizes, blocks, BLOCK_N, BLOCK_K, GROUP_M, STAGES)),
    ], worker_num_warps=[4, 4, 1], worker_num_regs=[152, 152, 40])  # fmt: skip


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
    a_desc, b_desc, sizes, blocks, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, GROUP_M: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    """The task of the warp that loads: one step's blocks after the other, for all tiles of this program."""
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    BYTES: gl.constexpr = (BLOCK_M + BLOCK_N) * BLOCK_K * a_desc.dtype.primitive_bitwidth // 8
    step = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        for k in range(gl.cdiv(K, BLOCK_K)):
            stage = step % STAGES
            bar = full.index(stage)
            mbarrier.wait(empty.index(stage), step // STAGES & 1 ^ 1)  # which passes at once in the first round
            mbarrier.expect(bar, BYTES)
            for group in gl.static_range(GROUPS):
                async_load(a_desc, [tile_m * BLOCK_M + group * ROWS, k * BLOCK_K], bar,
                           a_blocks.index(stage * GROUPS + group))  # fmt: skip
            async_load(b_desc, [tile_n * BLOCK_N, k * BLOCK_K], bar, b_blocks.index(stage))
            step += 1


@gluon.jit
def multiply(
    GROUP: gl.constexpr, sizes, blocks, result, ACTIVATION: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, GROUP_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The task of a group: its rows of all tiles of this program, each finished and stored."""
    M, N, K = sizes
    a_blocks, b_blocks, full, empty = blocks
    out_desc, residual_desc, bias_ptr, bias_stride, tiles, residual_full = result
    here = tiles.index(GROUP)
    # a warp has 16 rows, and a thread of it the pairs of columns that the tensor cores give it
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_N, 16])
    step = 0
    finished = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BLOCK_M) * gl.cdiv(N, BLOCK_N), gl.num_programs(0)):
        tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        row, col = tile_m * BLOCK_M + GROUP * ROWS, tile_n * BLOCK_N
        if bias_ptr is not None:
            cols = col + gl.arange(0, BLOCK_N, gl.SliceLayout(0, layout))
            bias = gl.load(bias_ptr + cols * bias_stride, mask=cols < N)
        acc = gl.full([ROWS, BLOCK_N], 0.0, gl.float32, layout)
        # at least one step: where a loop might be skipped, ptxas may run its products one after the other
        for k in range(gl.maximum(gl.cdiv(K, BLOCK_K), 1)):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), step // STAGES & 1)
            acc = warpgroup_mma(a_blocks.index(stage * GROUPS + GROUP), b_blocks.index(stage).permute((1, 0)), acc,
                                is_async=True)  # fmt: skip
            if residual_desc is not None:
                if k == 0:  # the tensor cores have work: time to see the last tile off, and fetch what this one needs
                    tma.store_wait(0)
                    mbarrier.expect(residual_full.index(GROUP), ROWS * BLOCK_N * out_desc.dtype.primitive_bitwidth // 8)
                    async_load(residual_desc, [row, col], residual_full.index(GROUP), here)
            acc = warpgroup_mma_wait(1, deps=[acc])  # for the product of the step before, whose blocks are now free
            mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=k > 0)
            step += 1
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)

        if bias_ptr is not None:
            acc += bias.to(gl.float32)[None, :]
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        if residual_desc is not None:
            mbarrier.wait(residual_full.index(GROUP), finished & 1)
            acc += here.load(layout).to(gl.float32)
        else:
            tma.store_wait(0)
        here.store(acc.to(out_desc.dtype))
        fence_async_shared()
        async_store(out_desc, [row, col], here)
        finished += 1
    tma.store_wait(0)


def specialised_takes(p: Product) -> bool:
    """Whether this kernel can compute a product that the copy engine can read: weights as a linear layer has them."""
    return (runtime.capability() == (9, 0) and p.out.dtype != torch.float32 and p.norm is None and p.statistics is None
            and p.a_strides[1] == 1 and p.b_strides[0] == 1)  # fmt: skip


def matmul_specialised(p: Product, config: triton.Config) -> None:
    dtype = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}[p.out.dtype]
    options = config.all_kwargs()
    block_n, block_k = options["BLOCK_N"], options["BLOCK_K"]
    fixed = options.pop("BLOCK_M"), options.pop("GROUPS")  # by the kernel's three `multiply`
    assert fixed == (BLOCK_M.value, GROUPS.value), fixed

    def describe(t, rows, cols, stride, block):
        layout = gl.NVMMASharedLayout.get_default_for(block, dtype)
        return TensorDescriptor(t, [rows, cols], [stride, 1], block, layout)

    of_group = [ROWS.value, block_n]
    programs = min(runtime.num_sms(), triton.cdiv(p.M, BLOCK_M.value) * triton.cdiv(p.N, block_n))
    matmul_specialised_kernel[(programs,)](
        describe(p.a, p.M, p.K, p.a_strides[0], [ROWS.value, block_k]),
        describe(p.b, p.N, p.K, p.b_strides[1], [block_n, block_k]),
        describe(p.out, p.M, p.N, p.N, of_group),
        None if p.residual is None else describe(p.residual, p.M, p.N, p.residual_strides[0], of_group),
        p.bias, p.bias_stride, p.ahead, 0 if p.ahead is None else p.ahead.numel(), p.M, p.N, p.K,
        ACTIVATION=epilogue(p.activation, p.out.dtype), STAGES=options.pop("num_stages"), maxnreg=MAX_REGISTERS,
        **options, **early_start(),
    )  # fmt: skip
