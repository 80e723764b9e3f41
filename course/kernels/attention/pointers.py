"""Attention for every GPU: tiles through pointers, any strides, any mask, head sizes up to 256.

A program owns BLOCK_M queries of one head and walks over the keys, BLOCK_N at a time. Only two kinds of keys need to be
masked by their numbers: those on the diagonal of a causal mask, and the last ones, which do not fill a block. They come
before the others, in smaller blocks that share one maximum; where S < BLOCK_N there are no others.

A mask in memory is read as it lies, one block with each block of scores, through strides that are 0 where it is
broadcast: L * S * itemsize bytes more a head at most, and of a mask that is the same for all queries only S * itemsize.
"""

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.attention.problem import LOG2_E, Attention
from course.kernels.parts.dot import dot
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.tf32 import cut_to_tf32
from course.runtime import per_gpu
from course.tuning import Config

TO_EXP2 = tl.constexpr(LOG2_E)


@triton.jit
def tile_ptrs(ptr, strides, first, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Pointers to ROWS rows of one head from row `first` on: (ROWS, COLS).

    `first` is added to the pointer as a scalar: a loop over `first` then changes one number and not one per element.
    """
    rows = tl.arange(0, ROWS).to(tl.int64)
    cols = tl.arange(0, COLS).to(tl.int64)
    return ptr + tl.cast(first, tl.int64) * strides[-2] + (rows[:, None] * strides[-2] + cols[None, :] * strides[-1])


@triton.jit
def load_tile(
    ptr, strides, first, n_rows, n_cols: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):
    """The tile at `tile_ptrs`, with zeros past the last column, and past the last row if MASKED."""
    ptrs = tile_ptrs(ptr, strides, first, ROWS, COLS)
    inside = (tl.arange(0, COLS) < n_cols)[None, :]
    if MASKED:
        return tl.load(ptrs, mask=(first + tl.arange(0, ROWS) < n_rows)[:, None] & inside, other=0.0)
    elif COLS > n_cols:
        return tl.load(ptrs, mask=inside, other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def load_bias(
    mask_ptr, strides, first_m, first_n, L, S, MASKED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):
    """What a mask (L, S) adds to the scores from row `first_m` and column `first_n` on, a tuple of one block
    (ROWS, COLS); () without a mask.

    A boolean mask adds 0 or, where it is False, -inf: as in PyTorch, NaN in a key that takes no part gives NaN. Past
    the last row, and past the last column if MASKED, anything is added.
    """
    if mask_ptr is None:
        return ()
    else:
        ptrs = tile_ptrs(mask_ptr + tl.cast(first_n, tl.int64) * strides[-1], strides, first_m, ROWS, COLS)
        inside = (first_m + tl.arange(0, ROWS) < L)[:, None]
        if MASKED:
            inside = inside & (first_n + tl.arange(0, COLS) < S)[None, :]
        mask = tl.load(ptrs, mask=inside, other=0)
        return (tl.where(mask, 0.0, -float("inf")) if mask.dtype == tl.int1 else mask.to(tl.float32),)


@triton.jit
def attend(q, ks, vs, biases, m, total, acc, scale, last_visible, PRECISION: tl.constexpr):
    """The maxima m, the sums of weights total and the sums of values acc of queries q, with some more blocks of keys.

    q (..., BLOCK_M, E); m and total (..., BLOCK_M); acc (..., BLOCK_M, EV); ks and vs are tuples of blocks (..., n, E)
    and (..., n, EV), whose weights are computed under one maximum; biases holds what is added to their scores,
    (..., BLOCK_M or 1, n), or nothing. `last_visible` says which scores of the last block count; None lets all
    count. Without biases `scale` is that of the exponents of 2, and scores are multiplied by it as late as possible;
    with them it is that of the scores.
    """
    BIASED: tl.constexpr = len(biases) > 0
    scores = ()
    new_m = m
    for i in tl.static_range(len(ks)):
        s = dot(q, ks[i].T if len(q.shape) == 2 else tl.permute(ks[i], (0, 2, 1)), None, PRECISION)
        if BIASED:
            s = s * scale + biases[i]
        if i == len(ks) - 1 and last_visible is not None:
            s = tl.where(last_visible, s, -float("inf"))
        new_m = tl.maximum(new_m, tl.max(s, -1))
        scores = scores + (s,)
    # a row that has seen only -inf has no maximum to subtract: 0 gives exp2(-inf) = 0, not exp2(-inf + inf)
    top = tl.where(new_m == -float("inf"), 0.0, new_m)
    # exactly 1 where the maximum stays. Of m * scale - top * scale one product would be rounded and the other one fused
    # into the subtraction: over half a million blocks, that error in each factor made the sums 1.5 % wrong
    alpha = tl.exp2((m - top) * (TO_EXP2 if BIASED else scale))
    total *= alpha
    acc *= tl.expand_dims(alpha, -1)
    for i in tl.static_range(len(ks)):
        if BIASED:  # the difference first: a mask may hold the lowest number of float32, and 1.44 times that is -inf
            p = tl.exp2((scores[i] - tl.expand_dims(top, -1)) * TO_EXP2)
        else:
            p = tl.exp2(scores[i] * scale - tl.expand_dims(top * scale, -1))
        # tensor cores cut weights off to TF32 rather than round them: so cut, they must add up to 1
        total += tl.sum(cut_to_tf32(p) if PRECISION == "tf32_operands" else p, -1)
        acc = dot(p.to(vs[i].dtype), vs[i], acc, PRECISION)
    return new_m, total, acc


@triton.jit(do_not_specialize=["heads", "L", "S"])
def attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, mask_ptr,
    heads, L, S, scale, inner_sizes,
    q_strides, k_strides, v_strides, out_strides, mask_strides,
    E: tl.constexpr, EV: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr,
    CAUSAL: tl.constexpr, MASK_ROWS: tl.constexpr, NEGATE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WHOLE_BLOCKS: tl.constexpr, REST: tl.constexpr,
    PDL: tl.constexpr, HEADS: tl.constexpr = 1,
):
    """BLOCK_M queries of one head, or in the interpreter of HEADS heads.

    q_ptr (*sizes, L, E), k_ptr (*sizes, S, E), v_ptr (*sizes, S, EV), out_ptr (*sizes, L, EV), with their strides
    mask_ptr (*sizes, L, S), boolean or to be added to the scores, with its strides; None and () without one
    heads, inner_sizes: the product of the leading dimensions `sizes`, and all of them but the first
    scale, NEGATE: what a score is multiplied by before exp2, positive, and whether it is negated as well; with mask_ptr
        what a score is multiplied by before the mask is added, and False
    MASK_ROWS: BLOCK_M, or 1 if the mask is the same for all queries
    BLOCK_E, BLOCK_EV: powers of two that hold E and EV
    BLOCK_N, WHOLE_BLOCKS: keys of a block without a mask, and whether there is such a block
    REST: the sizes of the blocks of keys of which the last needs a mask
    """
    pdl_wait(PDL)
    # the programs of a head run side by side and find its keys and values in cache
    blocks_m = tl.cdiv(L, BLOCK_M)
    first_m = tl.program_id(0) % blocks_m * BLOCK_M
    head = (tl.program_id(0) // blocks_m).to(tl.int64)
    if HEADS > 1:  # the interpreter's time is proportional to the number of programs: tiles of HEADS x rows x columns
        head = tl.minimum(head * HEADS + tl.arange(0, HEADS), heads - 1)[:, None, None]

    # the head's number, taken apart into one index per leading dimension, the innermost of them first
    for d in tl.static_range(len(inner_sizes), 0, -1):
        index = head % inner_sizes[d - 1]
        head = head // inner_sizes[d - 1]
        q_ptr += index * q_strides[d]
        k_ptr += index * k_strides[d]
        v_ptr += index * v_strides[d]
        out_ptr += index * out_strides[d]
        if mask_ptr is not None:
            mask_ptr += index * mask_strides[d]
    q_ptr += head * q_strides[0]
    k_ptr += head * k_strides[0]
    v_ptr += head * v_strides[0]
    out_ptr += head * out_strides[0]
    if mask_ptr is not None:
        mask_ptr += head * mask_strides[0]

    q = load_tile(q_ptr, q_strides, first_m, L, E, True, BLOCK_M, BLOCK_E)
    if NEGATE:
        q = (-q.to(tl.float32)).to(q.dtype)  # scale is positive below, so that the largest score weighs most
    m = tl.full(q.shape[:-1], -float("inf"), tl.float32)
    total = tl.zeros(q.shape[:-1], tl.float32)
    acc = tl.expand_dims(total, -1) + tl.zeros((BLOCK_EV,), tl.float32)

    # the keys that need a mask come before the loop: if they came after it, ptxas would serialise all products
    rows = first_m + tl.arange(0, BLOCK_M)
    whole = (tl.minimum(S, first_m + 1) if CAUSAL else S) // BLOCK_N * BLOCK_N
    if len(REST) > 0:
        ks = ()
        vs = ()
        biases = ()
        keys = whole
        for i in tl.static_range(len(REST)):
            ks = ks + (load_tile(k_ptr, k_strides, keys, S, E, i == len(REST) - 1, REST[i], BLOCK_E),)
            vs = vs + (load_tile(v_ptr, v_strides, keys, S, EV, i == len(REST) - 1, REST[i], BLOCK_EV),)
            biases = biases + load_bias(mask_ptr, mask_strides, first_m, keys, L, S, True, MASK_ROWS, REST[i])
            keys += REST[i]
        keys = keys - REST[-1] + tl.arange(0, REST[-1])
        visible = (keys < S)[None, :]
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None])
        m, total, acc = attend(q, ks, vs, biases, m, total, acc, scale, visible, PRECISION)

    if WHOLE_BLOCKS:  # that every query of this program sees
        for first_n in range(0, whole, BLOCK_N):
            k = load_tile(k_ptr, k_strides, first_n, S, E, False, BLOCK_N, BLOCK_E)
            v = load_tile(v_ptr, v_strides, first_n, S, EV, False, BLOCK_N, BLOCK_EV)
            biases_n = load_bias(mask_ptr, mask_strides, first_m, first_n, L, S, False, MASK_ROWS, BLOCK_N)
            m, total, acc = attend(q, (k,), (v,), biases_n, m, total, acc, scale, None, PRECISION)

    out = acc * tl.expand_dims(1.0 / tl.where(total == 0.0, 1.0, total), -1)  # no key, or only -inf: zeros
    inside = (rows < L)[:, None] & (tl.arange(0, BLOCK_EV) < EV)[None, :]
    tl.store(tile_ptrs(out_ptr, out_strides, first_m, BLOCK_M, BLOCK_EV), out, mask=inside)


def can_run(problem: Attention) -> bool:
    """Always."""
    return True


@per_gpu
def configs(problem: Attention) -> list[Config]:
    """Blocks that are worth a measurement, in the order in which they are expected to be fast."""
    heads, L, S, block_e = problem.heads, problem.L, problem.S, max(problem.block_e, problem.block_ev)
    if runtime.INTERPRET:
        block_m, block_n = (min(max(16, next_power_of_2(n)), 1024) for n in (L, S))
        keys = max(block_m, block_n) if problem.is_causal else block_n  # of the largest block, see `plan`
        _, wide, wider = sorted((block_m, keys, block_e))
        at_once = max(1, 2**20 // (wide * wider))  # a tile has at most 2**20 elements
        return in_order((block_m, block_n, 4, 1), HEADS=min(at_once, next_power_of_2(heads)))
    if problem.dtype == torch.float32 or not runtime.has_tensor_cores():
        # without tensor cores a thread holds whole rows of q and k in registers
        return in_order((min(64, 4096 // block_e), min(32, 4096 // block_e), 8, 2))
    if block_e > 128:
        return in_order((64, 32, 8, 2))
    if block_e > 64:
        blocks = [(128, 32, 8, 2), (64, 64, 4, 2), (128, 64, 8, 2), (128, 128, 8, 2)]
    else:
        few = heads * cdiv(L, 128) < runtime.num_sms()  # programs, which do not keep every multiprocessor busy
        if few:
            blocks = [(64, 128, 4, 2), (64, 64, 4, 3), (128, 64, 8, 3), (32, 64, 4, 3)]
        else:
            blocks = [(128, 64, 8, 3), (64, 64, 4, 3), (64, 128, 4, 2), (128, 128, 8, 2)]
        if S < 256 and not problem.is_causal:  # all keys at once: one maximum, nothing to multiply again
            blocks.insert(0 if few else 2, (64, 256, 4, 1))
            blocks.append((128, 256, 8, 1))
        blocks.sort(key=lambda block: block[0] > max(64, L))  # queries that there are first
    if any(problem.mask_strides[-2:-1]):  # a mask of all scores takes registers as well: too many with 128 keys a block
        blocks = [block for block in blocks if block[1] != 128]
    return in_order(*blocks)


def in_order(*blocks: tuple[int, int, int, int], **options: int) -> list[Config]:
    """Configurations of (BLOCK_M, BLOCK_N, num_warps, num_stages), the first the cheapest."""
    return [
        Config("pointers", {"BLOCK_M": block_m, "BLOCK_N": block_n, **options}, warps, stages, cost=i)
        for i, (block_m, block_n, warps, stages) in enumerate(blocks)
    ]


def launch(problem: Attention, config: Config, operands: tuple[torch.Tensor, ...]) -> None:
    """Attention of q, k and v, written to `out`, with a mask or None: the five `operands`."""
    p = problem
    grid, options = plan(problem, config)
    scale = p.exponent_scale if p.mask_dtype is None else p.scale
    attention_kernel[grid](
        *operands, p.heads, p.L, p.S, scale, p.sizes[1:], p.q_strides, p.k_strides, p.v_strides, p.out_strides,
        p.mask_strides, **options,
    )


@per_gpu
def plan(problem: Attention, config: Config) -> tuple[tuple[int], dict]:
    """The grid, and what is compiled in."""
    block_m, block_n = config.blocks["BLOCK_M"], config.blocks["BLOCK_N"]
    rest = (max(block_m, block_n),) if problem.is_causal else last_blocks(problem.S % block_n)
    programs = cdiv(problem.L, block_m) * cdiv(problem.heads, config.blocks.get("HEADS", 1))
    return (programs,), {
        "E": problem.E, "EV": problem.EV, "BLOCK_E": problem.block_e, "BLOCK_EV": problem.block_ev,
        "CAUSAL": problem.is_causal, "MASK_ROWS": block_m if any(problem.mask_strides[-2:-1]) else 1,
        "NEGATE": problem.mask_dtype is None and problem.scale < 0,
        "PRECISION": "ieee" if problem.precision == "ieee" else "tf32_operands",
        "WHOLE_BLOCKS": problem.S >= block_n, "REST": rest, **config.options, **pdl_options(programs),
    }


def last_blocks(keys: int) -> tuple[int, ...]:
    """Powers of two that cover the keys after the last whole block: (16,) for 5, (128, 64, 16) for 197."""
    return tuple(2**bit for bit in reversed(range(4, 11)) if cdiv(keys, 16) * 16 & 2**bit)
