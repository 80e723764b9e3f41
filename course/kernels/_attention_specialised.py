"""Attention for Hopper whose warps have different tasks: one only loads, two groups of four attend to 64 queries each.

It is `scaled_dot_product_attention`'s walk over the keys, with the loads as in `_matmul_specialised`. A block of 64
queries and 128 keys keeps the tensor cores busy for 512 cycles, with 2 * 64 * 128 * 64 products and sums at 2,048 a
cycle, and the units for exponentials for 512 more, at 16 a cycle. One after the other they leave half of the
multiprocessor idle, so there are two groups, and while one has the tensor cores, the other has the exponentials.

Left alone, both soon wait for the tensor cores at the same time, and compute exponentials at the same time after that.
So they take turns: a group issues its products when the other's are done, and only then. To have one turn a block, it
issues two together, the weights of this block by its values and the queries by the next block's keys, across the end
of a tile of queries as well. That is why a place in shared memory holds the keys of one block and the values of the
block before. For 64 x 12 heads of 1,024 tokens an H200 takes 409 us this way, and 428 us without the turns.

A block's sums stay apart, eight to a row in four threads, as the tensor cores spread its columns; one exchange between
threads at the end of a tile makes a row's sum of them. Rows past the last query or key are zeros from the copy engine;
such queries are not stored, and the scores of such keys are masked in the last block.
"""
import functools
import math

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait,
)  # fmt: skip

from course import runtime
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._gluon import async_load, async_store, columns_of_sums, describe
from course.kernels._sizes import cdiv

SIZE = gl.constexpr(64)  # of a head, in q, k and v
ROWS = gl.constexpr(64)  # queries of a group
BLOCK_N = gl.constexpr(128)  # keys of a block
GROUPS = gl.constexpr(2)
BLOCK_M = gl.constexpr(GROUPS.value * ROWS.value)
MAX_REGISTERS = 168  # a thread, to begin with: 65,536 of them for 12 warps


SCORES, RESULT, SUMS = (gl.constexpr(columns_of_sums(n)) for n in (BLOCK_N.value, SIZE.value, 8))


@gluon.jit(do_not_specialize=["heads", "L", "S"])
def attention_specialised_kernel(
    q_desc, k_desc, v_desc, out_desc, heads, L, S, scale, inner_sizes, NEGATE: gl.constexpr, WHOLE_BLOCKS: gl.constexpr,
    ONE_BLOCK: gl.constexpr, STAGES: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    DTYPE: gl.constexpr = q_desc.dtype
    queries = gl.allocate_shared_memory(DTYPE, [2 * GROUPS] + q_desc.block_shape, q_desc.layout)
    keys = gl.allocate_shared_memory(DTYPE, [STAGES] + k_desc.block_shape, k_desc.layout)
    values = gl.allocate_shared_memory(DTYPE, [STAGES] + v_desc.block_shape, v_desc.layout)
    results = gl.allocate_shared_memory(DTYPE, [GROUPS] + out_desc.block_shape, out_desc.layout)
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
    fence_async_shared()  # for the copy engine, which sets some of them

    sizes = (heads, L, S, inner_sizes)
    blocks = (queries, keys, values, queries_full, queries_empty, full, empty)
    gl.warp_specialize([
        (attend, (0, out_desc, sizes, scale, blocks, results, turns, NEGATE, WHOLE_BLOCKS, ONE_BLOCK, STAGES, EARLY)),
        (attend, (1, out_desc, sizes, scale, blocks, results, turns, NEGATE, WHOLE_BLOCKS, ONE_BLOCK, STAGES, EARLY)),
        (load, (q_desc, k_desc, v_desc, sizes, blocks, STAGES, EARLY)),
    ], worker_num_warps=[4, 1], worker_num_regs=[240, 24])  # fmt: skip


@gluon.jit
def place(head, inner_sizes):
    """A head's number, taken apart into one index per leading dimension."""
    inner = ()
    for d in gl.static_range(len(inner_sizes), 0, -1):
        inner = (head % inner_sizes[d - 1],) + inner
        head = head // inner_sizes[d - 1]
    return (head,) + inner


@gluon.jit
def load(q_desc, k_desc, v_desc, sizes, blocks, STAGES: gl.constexpr, EARLY: gl.constexpr):
    """The task of the warp that loads: queries, keys and values for all tiles of this program."""
    wait_for_previous(EARLY)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty = blocks
    blocks_m = gl.cdiv(L, BLOCK_M)
    step = 0
    number = 0
    before = place(gl.program_id(0) // blocks_m, inner_sizes)  # the block before, at first one that nobody multiplies
    row_before = 0
    for tile in range(gl.program_id(0), heads * blocks_m, gl.num_programs(0)):
        head = place(tile // blocks_m, inner_sizes)
        half = number & 1  # while a tile is attended to, the next one's queries come
        mbarrier.wait(queries_empty.index(half), number >> 1 & 1 ^ 1)
        mbarrier.expect(queries_full.index(half), GROUPS * q_desc.block_type.nbytes)
        for group in gl.static_range(GROUPS):
            async_load(q_desc, head + (tile % blocks_m * BLOCK_M + group * ROWS, 0), queries_full.index(half),
                       queries.index(half * GROUPS + group))  # fmt: skip
        for j in range(gl.cdiv(S, BLOCK_N)):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), step // STAGES & 1 ^ 1)  # which passes at once in the first round
            mbarrier.expect(full.index(stage), k_desc.block_type.nbytes + v_desc.block_type.nbytes)
            async_load(k_desc, head + (j * BLOCK_N, 0), full.index(stage), keys.index(stage))
            async_load(v_desc, before + (row_before, 0), full.index(stage), values.index(stage))
            before = head
            row_before = j * BLOCK_N
            step += 1
        number += 1
    stage = step % STAGES
    mbarrier.wait(empty.index(stage), step // STAGES & 1 ^ 1)
    mbarrier.expect(full.index(stage), v_desc.block_type.nbytes)
    async_load(v_desc, before + (row_before, 0), full.index(stage), values.index(stage))


@gluon.jit
def attend(
    GROUP: gl.constexpr, out_desc, sizes, scale, blocks, results, turns, NEGATE: gl.constexpr,
    WHOLE_BLOCKS: gl.constexpr, ONE_BLOCK: gl.constexpr, STAGES: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """The task of a group: its queries of all tiles of this program, over all keys."""
    wait_for_previous(EARLY)
    heads, L, S, inner_sizes = sizes
    queries, keys, values, queries_full, queries_empty, full, empty = blocks
    here = results.index(GROUP)
    blocks_m, blocks_n = gl.cdiv(L, BLOCK_M), gl.cdiv(S, BLOCK_N)
    step = 1
    number = 0

    # the first scores of the first tile; those of the others are computed with the last values of the tile before
    mbarrier.wait(queries_full.index(0), 0)
    mbarrier.wait(full.index(0), 0)
    q = matrix(queries.index(GROUP))
    mbarrier.wait(turns.index(GROUP), 1 - GROUP)  # which passes at once for the first group
    s = warpgroup_mma(q, matrix(keys.index(0)).permute((1, 0)), gl.full([ROWS, BLOCK_N], 0.0, gl.float32, SCORES),
                      use_acc=False, is_async=True)  # fmt: skip
    s = warpgroup_mma_wait(0, [s])
    mbarrier.arrive(turns.index(1 - GROUP), count=1)
    mbarrier.arrive(empty.index(0), count=1)

    for tile in range(gl.program_id(0), heads * blocks_m, gl.num_programs(0)):
        m = gl.full([ROWS], -float("inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.full([ROWS, 8], 0.0, gl.float32, SUMS)
        acc = gl.full([ROWS, SIZE], 0.0, gl.float32, RESULT)
        if not ONE_BLOCK:
            # at least one step: where a loop might be skipped, ptxas may run its products one after the other
            for _ in range(gl.maximum(blocks_n - 1, 1)):
                mbarrier.wait(full.index(step % STAGES), step // STAGES & 1)
                p, m, total, acc = weigh(s, m, total, acc, scale, None, NEGATE, out_desc.dtype)
                acc, s = multiply_in_turn(GROUP, p, acc, q, keys, values, turns, empty, step, STAGES)
                step += 1

        # the last block, and the next tile's first scores: of whatever is there if this was the last tile
        more = tile + gl.num_programs(0) < heads * blocks_m
        following = number + 1
        mbarrier.wait(full.index(step % STAGES), step // STAGES & 1)
        mbarrier.wait(queries_full.index(following & 1), following >> 1 & 1, pred=more)
        keys_left = None if WHOLE_BLOCKS else S - (blocks_n - 1) * BLOCK_N
        p, m, total, acc = weigh(s, m, total, acc, scale, keys_left, NEGATE, out_desc.dtype)
        q = matrix(queries.index((following & 1) * GROUPS + GROUP))
        acc, s = multiply_in_turn(GROUP, p, acc, q, keys, values, turns, empty, step, STAGES)
        mbarrier.arrive(queries_empty.index(number & 1), count=1)
        step += 1
        number = following

        sums = gl.sum(total, 1)
        inverse = 1.0 / gl.where(sums == 0.0, 1.0, sums)  # only scores of -inf: zeros
        acc = acc * gl.expand_dims(gl.convert_layout(inverse, gl.SliceLayout(1, RESULT)), 1)
        tma.store_wait(0)
        matrix(here).store(acc.to(out_desc.dtype))
        fence_async_shared()
        row = tile % blocks_m * BLOCK_M + GROUP * ROWS
        async_store(out_desc, place(tile // blocks_m, inner_sizes) + (row, 0), here)
    tma.store_wait(0)


@gluon.jit
def multiply_in_turn(
    GROUP: gl.constexpr, p, acc, q, keys, values, turns, empty, step, STAGES: gl.constexpr
):  # fmt: skip
    """A step's products, when it is this group's turn: (acc + weights p by values, scores of q and the next keys)."""
    stage = step % STAGES
    zeros = gl.full([ROWS, BLOCK_N], 0.0, gl.float32, SCORES)
    mbarrier.wait(turns.index(GROUP), step + 1 - GROUP & 1)
    acc = warpgroup_mma(p, matrix(values.index(stage)), acc, is_async=True)
    s = warpgroup_mma(q, matrix(keys.index(stage)).permute((1, 0)), zeros, use_acc=False, is_async=True)
    acc, s = warpgroup_mma_wait(0, [acc, s])
    mbarrier.arrive(turns.index(1 - GROUP), count=1)
    mbarrier.arrive(empty.index(stage), count=1)
    return acc, s


@gluon.jit
def matrix(block):
    """A block without its leading dimensions, which are all 1."""
    return block.reshape([block.shape[-2], SIZE])


@gluon.jit
def weigh(s, m, total, acc, scale, keys_left, NEGATE: gl.constexpr, DTYPE: gl.constexpr):
    """(weights of a block with scores s, maximum with it, sums with it, what came before it under that maximum)."""
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
    block_total = gl.convert_layout(gl.sum(p.reshape([ROWS, BLOCK_N // 8, 8]), 1), SUMS)
    total = total * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, SUMS)), 1) + block_total
    acc = acc * gl.expand_dims(gl.convert_layout(alpha, gl.SliceLayout(1, RESULT)), 1)
    return gl.convert_layout(p.to(DTYPE), gl.DotOperandLayout(0, RESULT, 2)), new_m, total, acc


def strides_to_copy(sizes: tuple[int, ...], strides: tuple[int, ...]) -> list[int] | None:
    """The strides with which the copy engine reads 16-bit numbers of those sizes, None if it cannot."""
    strides = [64 if size == 1 else stride for size, stride in zip(sizes, strides)]  # some stride for those without one
    able = len(sizes) <= 5 and strides[-1] == 1 and all(stride > 0 and stride % 8 == 0 for stride in strides[:-1])
    return strides if able else None


@functools.lru_cache(maxsize=4096)
def specialised_takes(dtype, outer_sizes: tuple[int, ...], L: int, S: int, E: int, EV: int, *strides) -> bool:
    """Whether this kernel can compute attention without a mask, of q, k and v at addresses that are multiples of 16.

    They are heads (*outer_sizes, L, E), (*outer_sizes, S, E) and (*outer_sizes, S, EV), with their strides in turn.
    """
    readable = all(strides_to_copy((*outer_sizes, n, SIZE.value), s) for n, s in zip((L, S, S), strides))
    return runtime.capability() == (9, 0) and dtype != torch.float32 and E == EV == SIZE.value and S > 0 and readable


def attention_specialised(
    q, k, v, out, outer_sizes: tuple[int, ...], q_strides, k_strides, v_strides, out_strides, scale: float,
    negate: bool, config: triton.Config,
) -> None:  # fmt: skip
    """Writes to `out`, whose rows the copy engine can always write: they are whole and multiples of 16 bytes."""

    def rows_of(t, strides, rows):
        sizes = (*outer_sizes, *t.shape[-2:])
        return describe(t, sizes, strides_to_copy(sizes, strides), [1] * len(outer_sizes) + [rows.value, SIZE.value])

    heads, L, S = math.prod(outer_sizes), q.shape[-2], k.shape[-2]
    programs = min(runtime.num_sms(), heads * cdiv(L, BLOCK_M.value))
    attention_specialised_kernel[(programs,)](
        rows_of(q, q_strides, ROWS), rows_of(k, k_strides, BLOCK_N), rows_of(v, v_strides, BLOCK_N),
        rows_of(out, out_strides, ROWS), heads, L, S, scale, outer_sizes[1:],
        NEGATE=negate, WHOLE_BLOCKS=S % BLOCK_N.value == 0, ONE_BLOCK=S <= BLOCK_N.value,
        STAGES=config.num_stages, num_warps=config.num_warps, maxnreg=MAX_REGISTERS, **early_start(programs),
    )  # fmt: skip
