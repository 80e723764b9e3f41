"""Attention for Hopper, in Gluon: one warp loads by TMA, and two warp groups attend to 64 queries each.

A block of 64 queries and 128 keys keeps the tensor cores busy for 512 cycles, with 2 * 64 * 128 * 64 products and sums
at 2,048 a cycle, and the units for exponentials for another 512, at 16 a cycle. One after the other, each would leave
the other half of the multiprocessor idle. So there are two warp groups: while the products of one are on the tensor
cores, the other computes exponentials.

Without further measures both soon wait for the tensor cores at the same time, and then compute exponentials at the same
time. So they take turns: a warp group issues its products when those of the other are done, and only then. To need one
turn a block and not two, it issues two products together: the weights of this block by its values, and the queries by
the next block's keys, or at the end of a tile the next tile's queries by its first keys. That is why one stage of
shared memory holds the keys of one block and the values of the block before it. For 64 images of 12 heads of 1,024
tokens an H200 takes 409 us this way, and 428 us without the turns.

The sum of a row's weights is kept as eight partial sums, two in each of the four threads among which the tensor cores'
layout spreads the row; they are added up at the end of a tile. Past the last query or key TMA fills a block with zeros:
such queries are not stored, and in the last block the scores of such keys are masked.
"""
import math
from collections.abc import Sequence

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from course import runtime
from course.kernels.attention.problem import Attention
from course.kernels.parts.gluon import DTYPES, accumulator_layout, async_load, async_store, phase
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv
from course.runtime import per_gpu
from course.tuning import Config

HEAD_SIZE = gl.constexpr(64)  # E and EV
WARP_GROUPS = gl.constexpr(2)
GROUP_ROWS = gl.constexpr(64)  # queries of a warp group
BLOCK_M = gl.constexpr(WARP_GROUPS.value * GROUP_ROWS.value)  # queries of a tile
BLOCK_N = gl.constexpr(128)  # keys of a block
MAX_REGISTERS = 168  # of a thread when the kernel starts: 65,536 for 12 warps

SCORES, RESULT, SUMS = (gl.constexpr(accumulator_layout(n)) for n in (BLOCK_N.value, HEAD_SIZE.value, 8))


@gluon.jit(do_not_specialize=["heads", "L", "S"])
def attention_hopper_kernel(
    q_desc, k_desc, v_desc, out_desc,
    heads, L, S, scale, inner_sizes,
    NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr, ONE_BLOCK: gl.constexpr,
    STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """Program i attends to the tiles of BLOCK_M queries i, i + programs, ... of all heads.

    q_desc, out_desc: (*sizes, L, HEAD_SIZE) in blocks of GROUP_ROWS rows of one head
    k_desc, v_desc: (*sizes, S, HEAD_SIZE) in blocks of BLOCK_N rows of one head
    heads, inner_sizes: the product of the leading dimensions `sizes`, and all of them but the first
    scale, NEGATE: what a score is multiplied by before exp2, positive, and whether it is negated as well
    WHOLE_BLOCKS, ONE_BLOCK: whether S is a multiple of BLOCK_N, and whether it is at most BLOCK_N
    STAGES: how many blocks of keys, and of values, there is shared memory for
    """
    DTYPE: gl.constexpr = q_desc.dtype
    # the queries of two tiles: while one is attended to, the next one's are loaded
    queries = gl.allocate_shared_memory(DTYPE, [2 * WARP_GROUPS] + q_desc.block_shape, q_desc.layout)
    keys = gl.allocate_shared_memory(DTYPE, [STAGES] + k_desc.block_shape, k_desc.layout)
    values = gl.allocate_shared_memory(DTYPE, [STAGES] + v_desc.block_shape, v_desc.layout)
    results = gl.allocate_shared_memory(DTYPE, [WARP_GROUPS] + out_desc.block_shape, out_desc.layout)
    queries_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    queries_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [WARP_GROUPS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(queries_full.index(i), count=1)
        mbarrier.init(queries_empty.index(i), count=WARP_GROUPS)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=WARP_GROUPS)
    for i in gl.static_range(WARP_GROUPS):
        mbarrier.init(turns.index(i), count=1)
    fence_async_shared()  # TMA, which completes some of the barriers, sees them initialised

    sizes = (heads, L, S, inner_sizes)
    buffers = (queries, keys, values, queries_full, queries_empty, full, empty)
    gl.warp_specialize([
        (attend_by_turns, (0, out_desc, sizes, scale, buffers, results, turns,
                           NEGATE, WHOLE_BLOCKS, ONE_BLOCK, STAGES, PDL)),
        (attend_by_turns, (1, out_desc, sizes, scale, buffers, results, turns,
                           NEGATE, WHOLE_BLOCKS, ONE_BLOCK, STAGES, PDL)),
        (load_tiles, (q_desc, k_desc, v_desc, sizes, buffers, STAGES, PDL)),
    ], worker_num_warps=[4, 1], worker_num_regs=[240, 24])


@gluon.jit
def head_index(head, inner_sizes):
    """A head's number as one index per leading dimension."""
    inner = ()
    for d in gl.static_range(len(inner_sizes), 0, -1):
        inner = (head % inner_sizes[d - 1],) + inner
        head = head // inner_sizes[d - 1]
    return (head,) + inner


@gluon.jit
def load_tiles(q_desc, k_desc, v_desc, sizes, buffers, STAGES: gl.constexpr, PDL: gl.constexpr):
    """The task of the warp that loads: queries, keys and values of all tiles of this program.

    Step number `step` loads the keys of one block and the values of the block before it. The values of the very first
    step are multiplied by no weights, so any block will do; a last step loads the last block's values alone.
    """
    pdl_wait(PDL)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty = buffers
    blocks_m = gl.cdiv(L, BLOCK_M)
    step = 0
    tiles = 0  # so far
    values_head = head_index(gl.program_id(0) // blocks_m, inner_sizes)
    values_row = 0
    for tile in range(gl.program_id(0), heads * blocks_m, gl.num_programs(0)):
        head = head_index(tile // blocks_m, inner_sizes)
        half = tiles & 1  # and tiles >> 1: dividing a signed number would take more instructions
        mbarrier.wait(queries_empty.index(half), phase((tiles >> 1) - 1))
        mbarrier.expect(queries_full.index(half), WARP_GROUPS * q_desc.block_type.nbytes)
        for group in gl.static_range(WARP_GROUPS):
            async_load(q_desc, head + (tile % blocks_m * BLOCK_M + group * GROUP_ROWS, 0), queries_full.index(half),
                       queries.index(half * WARP_GROUPS + group))
        for j in range(gl.cdiv(S, BLOCK_N)):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), phase(step // STAGES - 1))
            mbarrier.expect(full.index(stage), k_desc.block_type.nbytes + v_desc.block_type.nbytes)
            async_load(k_desc, head + (j * BLOCK_N, 0), full.index(stage), keys.index(stage))
            async_load(v_desc, values_head + (values_row, 0), full.index(stage), values.index(stage))
            values_head = head
            values_row = j * BLOCK_N
            step += 1
        tiles += 1
    stage = step % STAGES
    mbarrier.wait(empty.index(stage), phase(step // STAGES - 1))
    mbarrier.expect(full.index(stage), v_desc.block_type.nbytes)
    async_load(v_desc, values_head + (values_row, 0), full.index(stage), values.index(stage))


@gluon.jit
def attend_by_turns(
    GROUP: gl.constexpr, out_desc, sizes, scale, buffers, results, turns,
    NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr, ONE_BLOCK: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """The task of warp group number GROUP: its GROUP_ROWS queries of all tiles of this program, over all keys."""
    pdl_wait(PDL)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty = buffers
    result = results.index(GROUP)
    blocks_m, blocks_n = gl.cdiv(L, BLOCK_M), gl.cdiv(S, BLOCK_N)
    step = 1
    tiles = 0  # so far

    # step 0: the first scores of the first tile; a later tile's are computed with the last values of the tile before
    mbarrier.wait(queries_full.index(0), phase(0))
    mbarrier.wait(full.index(0), phase(0))
    q = matrix(queries.index(GROUP))
    mbarrier.wait(turns.index(GROUP), phase(1 - GROUP))
    s = warpgroup_mma(q, matrix(keys.index(0)).permute((1, 0)), gl.full([GROUP_ROWS, BLOCK_N], 0.0, gl.float32, SCORES),
                      use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, [s])
    mbarrier.arrive(turns.index(1 - GROUP), count=1)
    mbarrier.arrive(empty.index(0), count=1)

    for tile in range(gl.program_id(0), heads * blocks_m, gl.num_programs(0)):
        m = gl.full([GROUP_ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.full([GROUP_ROWS, 8], 0.0, gl.float32, SUMS)
        acc = gl.full([GROUP_ROWS, HEAD_SIZE], 0.0, gl.float32, RESULT)
        if not ONE_BLOCK:
            # at least one step: where a loop might be skipped, ptxas may serialise its products
            for _ in range(gl.maximum(blocks_n - 1, 1)):
                mbarrier.wait(full.index(step % STAGES), phase(step // STAGES))
                p, m, total, acc = weigh(s, m, total, acc, scale, None, NEGATE, out_desc.dtype)
                acc, s = multiply_in_turn(GROUP, p, acc, q, keys, values, turns, empty, step, STAGES)
                step += 1

        # the last block, and the next tile's first scores; after the last tile, those are of old contents and not used
        more = tile + gl.num_programs(0) < heads * blocks_m
        following = tiles + 1
        mbarrier.wait(full.index(step % STAGES), phase(step // STAGES))
        mbarrier.wait(queries_full.index(following & 1), phase(following >> 1), pred=more)
        keys_left = None if WHOLE_BLOCKS else S - (blocks_n - 1) * BLOCK_N
        p, m, total, acc = weigh(s, m, total, acc, scale, keys_left, NEGATE, out_desc.dtype)
        q = matrix(queries.index((following & 1) * WARP_GROUPS + GROUP))
        acc, s = multiply_in_turn(GROUP, p, acc, q, keys, values, turns, empty, step, STAGES)
        mbarrier.arrive(queries_empty.index(tiles & 1), count=1)
        step += 1
        tiles = following

        sums = gl.sum(total, 1)
        inverse = 1.0 / gl.where(sums == 0.0, 1.0, sums)  # only scores of -inf: zeros
        acc = acc * gl.expand_dims(gl.convert_layout(inverse, gl.SliceLayout(1, RESULT)), 1)
        tma.store_wait(0)
        matrix(result).store(acc.to(out_desc.dtype))
        fence_async_shared()
        row = tile % blocks_m * BLOCK_M + GROUP * GROUP_ROWS
        async_store(out_desc, head_index(tile // blocks_m, inner_sizes) + (row, 0), result)
    tma.store_wait(0)


@gluon.jit
def multiply_in_turn(GROUP: gl.constexpr, p, acc, q, keys, values, turns, empty, step, STAGES: gl.constexpr):
    """The products of a step: acc (GROUP_ROWS, HEAD_SIZE) + weights p by values, and the scores of q and the next keys.

    In every step warp group 0 has the first turn. Completion number i of turns[1] says that the products of group 0 in
    step i are done, for which group 1 waits in step i, and that of turns[0] that those of group 1 are, for which group
    0 waits in step i + 1.
    """
    stage = step % STAGES
    zeros = gl.full([GROUP_ROWS, BLOCK_N], 0.0, gl.float32, SCORES)
    mbarrier.wait(turns.index(GROUP), phase(step + 1 - GROUP))  # of parity, step + 1 is step - 1
    acc = warpgroup_mma(p, matrix(values.index(stage)), acc, is_async=True)
    s = warpgroup_mma(q, matrix(keys.index(stage)).permute((1, 0)), zeros, use_acc=False, is_async=True)
    acc, s = warpgroup_mma_wait(0, [acc, s])
    mbarrier.arrive(turns.index(1 - GROUP), count=1)
    mbarrier.arrive(empty.index(stage), count=1)
    return acc, s


@gluon.jit
def matrix(block):
    """A block (1, ..., 1, rows, HEAD_SIZE) in shared memory as (rows, HEAD_SIZE)."""
    return block.reshape([block.shape[-2], HEAD_SIZE])


@gluon.jit
def weigh(s, m, total, acc, scale, keys_left, NEGATE: gl.constexpr, DTYPE: gl.constexpr):
    """The weights of a block with scores `s` (GROUP_ROWS, BLOCK_N), in DTYPE, and m, total and acc for the keys so far.

    The maximum m (GROUP_ROWS,) and the sums total (GROUP_ROWS, 8) include this block; acc (GROUP_ROWS, HEAD_SIZE) does
    not, but is scaled for the new maximum. Of the block's keys the first `keys_left` exist; None stands for all.
    """
    if NEGATE:
        s = -s  # scale is positive, so that the largest score weighs most
    if keys_left is not None:
        visible = gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES)) < keys_left
        s = gl.where(gl.expand_dims(visible, 0), s, -float("inf"))
    new_m = gl.maximum(m, gl.max(s, 1))
    # a row that has seen only -inf has no maximum to subtract: 0 gives exp2(-inf) = 0, not exp2(-inf + inf)
    top = gl.where(new_m == -float("inf"), 0.0, new_m)
    alpha = gl.exp2((m - top) * scale)  # exactly 1 for a maximum that stays
    p = gl.exp2(s * scale - gl.expand_dims(top * scale, 1))
    block_total = gl.convert_layout(gl.sum(p.reshape([GROUP_ROWS, BLOCK_N // 8, 8]), 1), SUMS)
    total = total * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, SUMS)), 1) + block_total
    acc = acc * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, RESULT)), 1)
    return gl.convert_layout(p.to(DTYPE), gl.DotOperandLayout(0, RESULT, 2)), new_m, total, acc


@per_gpu
def can_run(problem: Attention) -> bool:
    """16-bit heads of 64 on Hopper, without a mask, where TMA can read q, k and v as they lie."""
    p = problem
    masked = p.is_causal or p.mask_dtype is not None
    if runtime.capability() != (9, 0) or p.dtype == torch.float32 or masked or not p.aligned:
        return False
    lengths_and_strides = (p.L, p.q_strides), (p.S, p.k_strides), (p.S, p.v_strides)
    readable = all(tma_strides((*p.sizes, n, HEAD_SIZE.value), strides) for n, strides in lengths_and_strides)
    return p.E == p.EV == HEAD_SIZE.value and p.S > 0 and readable


@per_gpu
def configs(problem: Attention) -> list[Config]:
    """One configuration, as the kernel's blocks have one size.

    Its programs are large: it is expected to be the fastest where there are many keys, and work for most
    multiprocessors, and else to be the slowest.
    """
    programs = problem.heads * cdiv(problem.L, BLOCK_M.value)
    many = min(problem.L, problem.S) >= 256 and programs >= runtime.num_sms() * 2 // 3
    return [Config("hopper", {}, num_warps=4, num_stages=4, cost=-1 if many else math.inf)]


def launch(problem: Attention, config: Config, operands: tuple[torch.Tensor, ...]) -> None:
    """Attention of q, k and v, written to `out`: the first four `operands`. The fifth, the mask, is None."""
    p = problem
    grid, blocks, options = plan(problem, config)
    descriptors = [TensorDescriptor(t, *block) for t, block in zip(operands, blocks)]
    attention_hopper_kernel[grid](*descriptors, p.heads, p.L, p.S, p.exponent_scale, p.sizes[1:], **options)


@per_gpu
def plan(problem: Attention, config: Config) -> tuple[tuple[int], list, dict]:
    """The grid; the arguments of the descriptors of q, k, v and out; and what is compiled in.

    TMA can always write `out`: its rows are whole, of 128 bytes.
    """
    p = problem

    def blocks_of(length, strides, rows):
        """Blocks of `rows` rows of one head."""
        sizes = [*p.sizes, length, HEAD_SIZE.value]
        block = [1] * len(p.sizes) + [rows.value, HEAD_SIZE.value]
        layout = gl.NVMMASharedLayout.get_default_for(block, DTYPES[p.dtype])  # as the tensor cores read them
        return sizes, tma_strides(sizes, strides), block, layout

    programs = min(runtime.num_sms(), p.heads * cdiv(p.L, BLOCK_M.value))
    blocks = [blocks_of(p.L, p.q_strides, GROUP_ROWS), blocks_of(p.S, p.k_strides, BLOCK_N),
              blocks_of(p.S, p.v_strides, BLOCK_N), blocks_of(p.L, p.out_strides, GROUP_ROWS)]
    return (programs,), blocks, {
        "NEGATE": p.scale < 0, "WHOLE_BLOCKS": p.S % BLOCK_N.value == 0, "ONE_BLOCK": p.S <= BLOCK_N.value,
        "STAGES": config.num_stages, "num_warps": config.num_warps, "maxnreg": MAX_REGISTERS, **pdl_options(programs),
    }


def tma_strides(sizes: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """The strides with which TMA reads 16-bit numbers of those sizes, None if it cannot."""
    # a dimension of one element may have any stride, which TMA might refuse
    strides = [64 if size == 1 else stride for size, stride in zip(sizes, strides)]
    able = len(sizes) <= 5 and strides[-1] == 1 and all(stride > 0 and stride % 8 == 0 for stride in strides[:-1])
    return strides if able else None
