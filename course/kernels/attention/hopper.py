"""Attention for Hopper, in Gluon: one warp loads by TMA, and two warp groups attend to 64 queries each.

A block of 64 queries and 128 keys keeps the tensor cores busy for 8 * HEAD cycles, with 2 * 2 * 64 * 128 * HEAD
operations at 4,096 a cycle, and the units for exponentials for 512, at 16 a cycle. One after the other, each would
leave the other idle. So there are two warp groups: while the products of one are on the tensor cores, the other
computes exponentials.

Without further measures both soon wait for the tensor cores at the same time, and then compute exponentials at the same
time. So they take turns (the ping-pong of FlashAttention-3, Shah et al., 2024): a group starts its products after the
other has started its own, or, with few operations a block, when the other's are done. To need one turn a block and not
two, it starts two products together: the weights of this block by its values, and the queries by the next block's keys,
or at the end of a tile the next tile's queries by its first keys. That is why one stage of shared memory holds the keys
of one block and the values of the block before it.

With a causal mask the last block of a tile holds the diagonal, as blocks have as many keys as tiles have queries; only
there, and past the last key, are scores replaced by -inf. Tiles have from one block to all of them, so that programs
walk through them from the longest to the shortest, and in the opposite direction in every other round: what a
program has too much in one round it has too little in the next.

The sum of a row's weights is kept as eight partial sums, two in each of the four threads among which the tensor cores'
layout spreads the row; they are added up at the end of a tile. Past the last row and column TMA fills a block with
zeros, and stores nothing.
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
from course.kernels.attention.problem import LOG2_E, Attention
from course.kernels.parts.gluon import DTYPES, accumulator_layout, async_load, async_store, phase
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv
from course.runtime import per_gpu
from course.tuning import Config

GROUPS = gl.constexpr(2)
ROWS = gl.constexpr(64)  # queries of a warp group
BLOCK_M = gl.constexpr(GROUPS.value * ROWS.value)  # queries of a tile
BLOCK_N = gl.constexpr(128)  # keys of a block
TO_EXP2 = gl.constexpr(LOG2_E)
MAX_REGISTERS = 168  # of a thread when the kernel starts: 65,536 for 12 warps
STAGES = {64: 4, 128: 2}  # by the width of a block
SMALLEST_HEAD = 33  # a head is padded to 64 or to 128: of a smaller one most would be padding

SCORES, SUMS = (gl.constexpr(accumulator_layout(n)) for n in (BLOCK_N.value, 8))

# the argument MASK: a mask that differs from query to query is loaded by TMA, one that does not through its pointer
NO_MASK, MASK_OF_SCORES, MASK_OF_KEYS = (gl.constexpr(i) for i in range(3))


@gluon.jit(do_not_specialize=["heads", "L", "S"])
def attention_hopper_kernel(
    q_desc, k_desc, v_desc, out_desc, mask,
    heads, L, S, scale, inner_sizes, mask_steps,
    HEAD: gl.constexpr, CAUSAL: gl.constexpr, MASK: gl.constexpr, ADDITIVE: gl.constexpr,
    NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """Attends to the tiles of BLOCK_M queries of all heads, of which program i has one in every round.

    q_desc, out_desc: (*sizes, L, E) and (*sizes, L, EV) in blocks of ROWS rows and HEAD columns of one head
    k_desc, v_desc: (*sizes, S, E) and (*sizes, S, EV) in blocks of BLOCK_N rows and HEAD columns of one head
    mask: None; or MASK_OF_SCORES as a descriptor, with size 1 where it was broadcast, in blocks of ROWS and BLOCK_N; or
        MASK_OF_KEYS as a pointer; uint8 for a boolean one, and with ADDITIVE what is added to the scores
    heads, inner_sizes: the product of the leading dimensions `sizes`, and all of them but the first
    mask_steps: for each leading dimension 0 or 1, what its index is multiplied by; of MASK_OF_KEYS the strides of the
        leading dimensions and of the keys
    scale, NEGATE: what a score is multiplied by before exp2, positive, and whether it is negated as well; with ADDITIVE
        what a score is multiplied by before the mask is added, and False
    WHOLE_BLOCKS: whether S is a multiple of BLOCK_N
    STAGES: how many blocks of keys, and of values, there is shared memory for
    """
    DTYPE: gl.constexpr = q_desc.dtype
    # the queries of two tiles: while one is attended to, the next one's are loaded; a result takes their place
    queries = gl.allocate_shared_memory(DTYPE, [2 * GROUPS] + q_desc.block_shape, q_desc.layout)
    keys = gl.allocate_shared_memory(DTYPE, [STAGES] + k_desc.block_shape, k_desc.layout)
    values = gl.allocate_shared_memory(DTYPE, [STAGES] + v_desc.block_shape, v_desc.layout)
    queries_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    queries_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(queries_full.index(i), count=1)
        mbarrier.init(queries_empty.index(i), count=GROUPS)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=GROUPS)
    for i in gl.static_range(GROUPS):
        mbarrier.init(turns.index(i), count=1)
    masks = ()
    if MASK == MASK_OF_SCORES:  # a block of the mask is in registers soon after it has come: one stage will do
        masks_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        masks_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(masks_full, count=1)
        mbarrier.init(masks_empty, count=GROUPS)
        masks = (gl.allocate_shared_memory(mask.dtype, [GROUPS] + mask.block_shape, mask.layout),
                 masks_full, masks_empty)
    fence_async_shared()  # TMA, which completes some of the barriers, sees them initialised

    sizes = (heads, L, S, inner_sizes)
    buffers = (queries, keys, values, queries_full, queries_empty, full, empty, masks)
    gl.warp_specialize([
        (attend_by_turns, (0, out_desc, mask, mask_steps, sizes, scale, buffers, turns,
                           HEAD, CAUSAL, MASK, ADDITIVE, NEGATE, WHOLE_BLOCKS, STAGES, PDL)),
        (attend_by_turns, (1, out_desc, mask, mask_steps, sizes, scale, buffers, turns,
                           HEAD, CAUSAL, MASK, ADDITIVE, NEGATE, WHOLE_BLOCKS, STAGES, PDL)),
        (load_tiles, (q_desc, k_desc, v_desc, mask, mask_steps, sizes, buffers, CAUSAL, MASK, STAGES, PDL)),
    ], worker_num_warps=[4, 1], worker_num_regs=[240, 24])


@gluon.jit
def place_in_round(number):
    """This program's place in round number `number`: the programs' own order, or the reverse of it."""
    program, last = gl.program_id(0), gl.num_programs(0) - 1
    return gl.where(number % 2 == 0, program, last - program)


@gluon.jit
def tiles_of_program(tiles):
    """How many of the `tiles` this program attends to: one a round, and in the last round some programs have none."""
    rounds = tiles // gl.num_programs(0)
    return rounds + gl.where(place_in_round(rounds) < tiles % gl.num_programs(0), 1, 0)


@gluon.jit
def tile_at(number, sizes, CAUSAL: gl.constexpr):
    """Of this program's tile in round `number`: the head, the first row, and how many blocks of keys it sees."""
    heads, L, S, inner_sizes = sizes
    blocks_m, blocks_n = gl.cdiv(L, BLOCK_M), gl.cdiv(S, BLOCK_N)
    tile = number * gl.num_programs(0) + place_in_round(number)
    if CAUSAL:
        # the last tiles of some heads, then those before them: the keys of all heads would not stay in the cache
        some = gl.maximum(gl.num_programs(0) // 4, 1)
        first_head = tile // (some * blocks_m) * some
        tile = tile % (some * blocks_m)
        some = gl.maximum(gl.minimum(some, heads - first_head), 1)  # 1: past the last tile
        head, block_m = first_head + tile % some, blocks_m - 1 - tile // some
        blocks_n = gl.minimum(blocks_n, block_m + 1)  # BLOCK_M == BLOCK_N
    else:
        head, block_m = tile // blocks_m, tile % blocks_m
    return head, block_m * BLOCK_M, gl.maximum(blocks_n, 1)  # never none: else ptxas may serialise the products


@gluon.jit
def head_index(head, inner_sizes):
    """A head's number as one index per leading dimension."""
    inner = ()
    for d in gl.static_range(len(inner_sizes), 0, -1):
        inner = (head % inner_sizes[d - 1],) + inner
        head = head // inner_sizes[d - 1]
    return (head,) + inner


@gluon.jit
def mask_index(head, inner_sizes, mask_steps):
    """As `head_index`, 0 in the dimensions where the mask has size 1."""
    index = head_index(head, inner_sizes)
    steps = ()
    for d in gl.static_range(len(index)):
        steps = steps + (index[d] * mask_steps[d],)
    return steps


@gluon.jit
def load_tiles(
    q_desc, k_desc, v_desc, mask, mask_steps, sizes, buffers,
    CAUSAL: gl.constexpr, MASK: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """The task of the warp that loads: queries, keys, values and masks of all tiles of this program.

    Step number `step` loads the keys of one block and the values of the block before it. The values of the very first
    step are multiplied by no weights, so any block will do; a last step loads the last block's values alone.
    """
    pdl_wait(PDL)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty, masks = buffers
    step = 0
    head, row, blocks = tile_at(0, sizes, CAUSAL)
    values_index = head_index(head, inner_sizes)
    values_row = 0
    for tile in range(tiles_of_program(heads * gl.cdiv(L, BLOCK_M))):
        head, row, blocks = tile_at(tile, sizes, CAUSAL)
        index = head_index(head, inner_sizes)
        half = tile & 1  # and tile >> 1: dividing a signed number would take more instructions
        mbarrier.wait(queries_empty.index(half), phase((tile >> 1) - 1))
        mbarrier.expect(queries_full.index(half), GROUPS * q_desc.block_type.nbytes)
        for group in gl.static_range(GROUPS):
            async_load(q_desc, index + (row + group * ROWS, 0), queries_full.index(half),
                       queries.index(half * GROUPS + group))
        for j in range(blocks):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), phase(step // STAGES - 1))
            mbarrier.expect(full.index(stage), k_desc.block_type.nbytes + v_desc.block_type.nbytes)
            async_load(k_desc, index + (j * BLOCK_N, 0), full.index(stage), keys.index(stage))
            async_load(v_desc, values_index + (values_row, 0), full.index(stage), values.index(stage))
            if MASK == MASK_OF_SCORES:
                blocks_of_mask, mask_full, mask_empty = masks
                mbarrier.wait(mask_empty, phase(step - 1))
                mbarrier.expect(mask_full, GROUPS * mask.block_type.nbytes)
                for group in gl.static_range(GROUPS):
                    async_load(mask, mask_index(head, inner_sizes, mask_steps) + (row + group * ROWS, j * BLOCK_N),
                               mask_full, blocks_of_mask.index(group))
            values_index = index
            values_row = j * BLOCK_N
            step += 1
    stage = step % STAGES
    mbarrier.wait(empty.index(stage), phase(step // STAGES - 1))
    mbarrier.expect(full.index(stage), v_desc.block_type.nbytes)
    async_load(v_desc, values_index + (values_row, 0), full.index(stage), values.index(stage))


@gluon.jit
def attend_by_turns(
    GROUP: gl.constexpr, out_desc, mask, mask_steps, sizes, scale, buffers, turns,
    HEAD: gl.constexpr, CAUSAL: gl.constexpr, MASK: gl.constexpr, ADDITIVE: gl.constexpr,
    NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):
    """The task of warp group number GROUP: its ROWS queries of all tiles of this program, over the keys they see."""
    pdl_wait(PDL)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty, masks = buffers
    RESULT: gl.constexpr = accumulator_layout(HEAD)
    DTYPE: gl.constexpr = out_desc.dtype
    TURN_WHEN_STARTED: gl.constexpr = HEAD == 128 and MASK != MASK_OF_KEYS
    tiles = tiles_of_program(heads * gl.cdiv(L, BLOCK_M))

    # step 0: the first scores; those of a later tile are computed with the last values of the tile before
    head, row, blocks = tile_at(0, sizes, CAUSAL)
    bias = load_mask_of_keys(mask, mask_steps, head, inner_sizes, 0, S, MASK)
    mbarrier.wait(queries_full.index(0), phase(0))
    mbarrier.wait(full.index(0), phase(0))
    mbarrier.wait(turns.index(GROUP), phase(1 - GROUP))
    s = multiply_keys(matrix(queries.index(GROUP), HEAD), matrix(keys.index(0), HEAD))
    s = warpgroup_mma_wait(0, [s])
    mbarrier.arrive(turns.index(1 - GROUP), count=1)
    mbarrier.arrive(empty.index(0), count=1)

    step = 1
    for tile in range(tiles):
        more = tile + 1 < tiles
        next_head, next_row, next_blocks = tile_at(tile + 1, sizes, CAUSAL)
        m = gl.full([ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.full([ROWS, 8], 0.0, gl.float32, SUMS)
        acc = gl.full([ROWS, HEAD], 0.0, gl.float32, RESULT)
        for j in range(blocks):
            stage = step % STAGES
            last = j == blocks - 1
            bias = load_mask_of_scores(bias, masks, GROUP, step - 1, MASK)
            s = masked(s, bias, scale, row + GROUP * ROWS, j * BLOCK_N, S, CAUSAL, ADDITIVE, NEGATE, WHOLE_BLOCKS)
            p, m, total, alpha = weigh(s, m, total, scale, ADDITIVE, RESULT, DTYPE)
            acc = acc * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, RESULT)), 1)

            if j == 0:
                if tile > 0:  # the result of the tile before is stored: its memory is free for queries
                    tma.store_wait(0)
                    mbarrier.arrive(queries_empty.index((tile - 1) & 1), count=1)
            mbarrier.wait(queries_full.index((tile + 1) & 1), phase((tile + 1) >> 1), pred=last & more)
            mbarrier.wait(full.index(stage), phase(step // STAGES))
            half = (tile & 1) ^ last.to(gl.int32)
            # group 0 waits for the step before of group 1, group 1 for this step of group 0; of parity, step + 1 is
            # step - 1. After the last tile the scores are of old contents, and not used
            mbarrier.wait(turns.index(GROUP), phase(step + 1 - GROUP))
            acc = warpgroup_mma(p, matrix(values.index(stage), HEAD), acc, is_async=True)
            s = multiply_keys(matrix(queries.index(half * GROUPS + GROUP), HEAD), matrix(keys.index(stage), HEAD))
            if TURN_WHEN_STARTED:
                mbarrier.arrive(turns.index(1 - GROUP), count=1)
            bias = load_mask_of_keys(mask, mask_steps, gl.where(last, next_head, head), inner_sizes,
                                     gl.where(last, 0, (j + 1) * BLOCK_N), gl.where(last & (more == 0), 0, S), MASK)
            acc, s = warpgroup_mma_wait(0, [acc, s])
            if not TURN_WHEN_STARTED:
                mbarrier.arrive(turns.index(1 - GROUP), count=1)
            mbarrier.arrive(empty.index(stage), count=1)
            step += 1

        sums = gl.sum(total, 1)
        inverse = 1.0 / gl.where(sums == 0.0, 1.0, sums)  # only scores of -inf: zeros
        acc = acc * gl.expand_dims(gl.convert_layout(inverse, gl.SliceLayout(1, RESULT)), 1)
        result = queries.index((tile & 1) * GROUPS + GROUP)
        matrix(result, HEAD).store(acc.to(DTYPE))
        fence_async_shared()
        async_store(out_desc, head_index(head, inner_sizes) + (row + GROUP * ROWS, 0), result)
        head, row, blocks = next_head, next_row, next_blocks
    tma.store_wait(0)


@gluon.jit
def matrix(block, HEAD: gl.constexpr):
    """A block (1, ..., 1, rows, HEAD) in shared memory as (rows, HEAD)."""
    return block.reshape([block.shape[-2], HEAD])


@gluon.jit
def multiply_keys(q, k):
    """Starts the product of queries (ROWS, HEAD) and keys (BLOCK_N, HEAD): scores (ROWS, BLOCK_N)."""
    zeros = gl.full([ROWS, BLOCK_N], 0.0, gl.float32, SCORES)
    return warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def load_mask_of_keys(mask_ptr, mask_steps, head, inner_sizes, first_n, S, MASK: gl.constexpr):
    """A tuple of the mask (1, BLOCK_N) of the keys from `first_n` on; () if there is none of this kind."""
    if MASK == MASK_OF_KEYS:
        index = head_index(head, inner_sizes)
        for d in gl.static_range(len(index)):
            mask_ptr += index[d].to(gl.int64) * mask_steps[d]
        cols = first_n + gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
        return (gl.expand_dims(gl.load(mask_ptr + cols.to(gl.int64) * mask_steps[-1], mask=cols < S, other=0), 0),)
    else:
        return ()


@gluon.jit
def load_mask_of_scores(bias, masks, GROUP: gl.constexpr, step, MASK: gl.constexpr):
    """A tuple of the mask (ROWS, BLOCK_N) that came in step `step`; `bias` if not of this kind."""
    if MASK == MASK_OF_SCORES:
        blocks_of_mask, mask_full, mask_empty = masks
        mbarrier.wait(mask_full, phase(step))
        block = matrix(blocks_of_mask.index(GROUP), BLOCK_N).load(SCORES)
        mbarrier.arrive(mask_empty, count=1)
        return (block,)
    else:
        return bias


@gluon.jit
def masked(
    s, bias, scale, row, first_n, S,
    CAUSAL: gl.constexpr, ADDITIVE: gl.constexpr, NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr,
):
    """Scores `s` (ROWS, BLOCK_N) of queries from `row` and keys from `first_n` on, -inf where they do not count."""
    if NEGATE:
        s = -s  # scale is positive, so that the largest score weighs most
    if ADDITIVE:
        s = s * scale + bias[0].to(gl.float32)
    elif len(bias) > 0:  # added, as in PyTorch: NaN in a key that takes no part gives NaN
        s += gl.where(bias[0] != 0, 0.0, -float("inf"))
    if CAUSAL or not WHOLE_BLOCKS:
        seen_by_all = gl.minimum(S, row + 1) if CAUSAL else S
        if first_n + BLOCK_N > seen_by_all:
            cols = gl.expand_dims(first_n + gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES)), 0)
            end = S
            if CAUSAL:
                end = gl.expand_dims(gl.minimum(row + 1 + gl.arange(0, ROWS, gl.SliceLayout(1, SCORES)), S), 1)
            s = gl.where(cols < end, s, -float("inf"))
    return s


@gluon.jit
def weigh(s, m, total, scale, ADDITIVE: gl.constexpr, RESULT: gl.constexpr, DTYPE: gl.constexpr):
    """The weights of a block with scores `s` (ROWS, BLOCK_N), in DTYPE; m and total with it; and the factor of `acc`.

    The maximum m (ROWS,) and the sums total (ROWS, 8) are those of the keys so far. What was summed under the maximum
    before is to be multiplied by the factor alpha (ROWS,).
    """
    tops = gl.max(s.reshape([ROWS, BLOCK_N // 8, 8]), 1)  # eight a row: shorter chains of dependent instructions
    new_m = gl.maximum(m, gl.convert_layout(gl.max(tops, 1), gl.SliceLayout(1, SCORES)))
    # a row that has seen only -inf has no maximum to subtract: 0 gives exp2(-inf) = 0, not exp2(-inf + inf)
    top = gl.where(new_m == -float("inf"), 0.0, new_m)
    alpha = gl.exp2((m - top) * (TO_EXP2 if ADDITIVE else scale))  # exactly 1 for a maximum that stays
    if ADDITIVE:  # the difference first: a mask may hold the lowest number of bfloat16, and 1.44 times that is -inf
        p = gl.exp2((s - gl.expand_dims(top, 1)) * TO_EXP2)
    else:
        p = gl.exp2(s * scale - gl.expand_dims(top * scale, 1))
    block_total = gl.convert_layout(gl.sum(p.reshape([ROWS, BLOCK_N // 8, 8]), 1), SUMS)
    total = total * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, SUMS)), 1) + block_total
    return gl.convert_layout(p.to(DTYPE), gl.DotOperandLayout(0, RESULT, 2)), new_m, total, alpha


@per_gpu
def can_run(problem: Attention) -> bool:
    """16-bit heads of 33 to 128 on Hopper, where TMA can read q, k, v and a mask as they lie, and write `out`."""
    p = problem
    if runtime.capability() != (9, 0) or p.dtype == torch.float32 or p.S == 0 or not p.aligned:
        return False
    if not SMALLEST_HEAD <= min(p.E, p.EV) <= max(p.E, p.EV) <= max(STAGES):
        return False
    tensors = ((p.L, p.E), p.q_strides), ((p.S, p.E), p.k_strides), ((p.S, p.EV), p.v_strides), \
              ((p.L, p.EV), p.out_strides)
    readable = all(tma_strides((*p.sizes, *size), strides) for size, strides in tensors)
    return readable and mask_kind(p) is not None


@per_gpu
def configs(problem: Attention) -> list[Config]:
    """One configuration, as the kernel's blocks have one size.

    Its programs are large: it is expected to be the fastest where there are many keys, and work for most
    multiprocessors, and else to be the slowest.
    """
    programs = problem.heads * cdiv(problem.L, BLOCK_M.value)
    many = min(problem.L, problem.S) >= 256 and programs >= runtime.num_sms() * 2 // 3
    return [Config("hopper", {}, num_warps=4, num_stages=STAGES[width(problem)], cost=-1 if many else math.inf)]


def launch(problem: Attention, config: Config, operands: tuple[torch.Tensor, ...]) -> None:
    """Attention of q, k and v, written to `out`, with a mask or None: the five `operands`."""
    p = problem
    grid, blocks, mask_block, steps, options = plan(problem, config)
    *tensors, mask = operands
    descriptors = [TensorDescriptor(t, *block) for t, block in zip(tensors, blocks)]
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.view(torch.uint8)
    if mask_block:
        mask = TensorDescriptor(mask, *mask_block)
    scale = p.scale if options["ADDITIVE"] else p.exponent_scale
    attention_hopper_kernel[grid](*descriptors, mask, p.heads, p.L, p.S, scale, p.sizes[1:], steps, **options)


@per_gpu
def plan(problem: Attention, config: Config) -> tuple[tuple[int], list, tuple, tuple[int, ...], dict]:
    """The grid; the arguments of the descriptors of q, k, v and out, and of the mask's, if it has one; the mask's
    steps; and what is compiled in."""
    p = problem
    kind = mask_kind(p)

    def block_of(sizes, strides, rows, columns, dtype):
        """Blocks of `rows` rows and `columns` columns of one head."""
        block = [1] * (len(sizes) - 2) + [rows, columns]
        layout = gl.NVMMASharedLayout.get_default_for(block, dtype)  # as the tensor cores read them
        return sizes, tma_strides(sizes, strides), block, layout

    dtype, head = DTYPES[p.dtype], width(p)
    blocks = [
        block_of([*p.sizes, length, columns], strides, rows.value, head, dtype)
        for length, columns, strides, rows in (
            (p.L, p.E, p.q_strides, ROWS), (p.S, p.E, p.k_strides, BLOCK_N), (p.S, p.EV, p.v_strides, BLOCK_N),
            (p.L, p.EV, p.out_strides, ROWS),
        )
    ]
    mask_block, steps = (), ()
    if kind == MASK_OF_KEYS:
        steps = (*p.mask_strides[:-2], p.mask_strides[-1])
    elif kind == MASK_OF_SCORES:
        steps = tuple(int(stride != 0) for stride in p.mask_strides[:-2])
        mask_dtype = gl.uint8 if p.mask_dtype == torch.bool else dtype
        mask_block = block_of(mask_sizes(p), p.mask_strides, ROWS.value, BLOCK_N.value, mask_dtype)

    programs = min(runtime.num_sms(), p.heads * cdiv(p.L, BLOCK_M.value))
    additive = p.mask_dtype not in (None, torch.bool)
    return (programs,), blocks, mask_block, steps, {
        "HEAD": head, "CAUSAL": p.is_causal, "MASK": kind.value, "ADDITIVE": additive,
        "NEGATE": p.scale < 0 and not additive, "WHOLE_BLOCKS": p.S % BLOCK_N.value == 0, "STAGES": config.num_stages,
        "num_warps": config.num_warps, "maxnreg": MAX_REGISTERS, **pdl_options(programs),
    }


def width(problem: Attention) -> int:
    """The columns of a block: those past the head's are zeros."""
    return 64 if max(problem.E, problem.EV) <= 64 else 128


def mask_kind(problem: Attention) -> gl.constexpr | None:
    """How the kernel reads the mask; None if it cannot."""
    p = problem
    if p.mask_dtype is None:
        return NO_MASK
    if p.mask_strides[-2] == 0 or p.L == 1:
        return MASK_OF_KEYS
    if p.mask_dtype not in (torch.bool, p.dtype):
        return None
    return MASK_OF_SCORES if tma_strides(mask_sizes(p), p.mask_strides, p.mask_dtype.itemsize) else None


def mask_sizes(problem: Attention) -> list[int]:
    """The sizes of the mask's descriptor: 1 where the mask is the same for all heads."""
    p = problem
    return [size if stride else 1 for size, stride in zip(p.sizes, p.mask_strides)] + [p.L, p.S]


def tma_strides(sizes: Sequence[int], strides: Sequence[int], itemsize: int = 2) -> list[int] | None:
    """The strides with which TMA reads numbers of `itemsize` bytes, of those sizes; None if it cannot."""
    # a dimension of one element may have any stride, which TMA might refuse
    strides = [64 if size == 1 else stride for size, stride in zip(sizes[:-1], strides)] + [strides[-1]]
    able = len(sizes) <= 5 and strides[-1] == 1
    able = able and all(stride > 0 and stride * itemsize % 16 == 0 for stride in strides[:-1])
    return strides if able else None
