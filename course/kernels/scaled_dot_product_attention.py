"""Scaled dot-product attention in one kernel that never writes the score matrix.

    s[i, j] = scale * sum_e q[i, e] * k[j, e]                     causal: only the keys j <= i
    out[i]  = sum_j p[i, j] * v[j] / sum_j p[i, j],               p[i, j] = exp(s[i, j] - max_j s[i, j])

A program owns BLOCK_M queries of one head and walks over the keys a block at a time. It keeps the maximum m so far, the
sum of the weights p and their sum over v; where a block raises the maximum to m', both sums are multiplied by
exp(m - m'), so that they end as if the maximum had been known from the start (Milakov and Gimelshein, Online normalizer
calculation for softmax, 2018; Dao et al., FlashAttention, 2022).

A head moves (L + S) * (E + Ev) * itemsize bytes at least, for 2 * L * S * (E + Ev) operations and L * S exponentials;
the L * S scores stay in registers. Only the keys on the diagonal and those that do not fill a block need a mask. They
come first, in smaller blocks under one maximum; where S < BLOCK_N they are all there is.

On Hopper, 16-bit heads of 64 that nothing masks may take another kernel: `_attention_specialised`, where two groups of
warps take turns with the tensor cores, one computing exponentials while the other multiplies.
"""
import functools
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._attention_configs import attention_configs
from course.kernels._attention_specialised import attention_specialised, specialised_takes
from course.kernels._checks import broadcast_shapes, check_tensors
from course.kernels._dot import dot, matmul_precision
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._pointwise import walk
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import best_config, custom_op

LOG2_E = math.log2(math.e)  # exp(x) = exp2(x * LOG2_E), and exp2 is what the hardware has
MAX_HEAD_SIZE = 256


@triton.jit
def tile_ptrs(ptr, strides, first, ROWS: tl.constexpr, COLS: tl.constexpr):
    """ROWS rows of one head from `first` on; what depends on `first` stays a scalar, cheap to move on in a loop."""
    rows = tl.arange(0, ROWS).to(tl.int64)
    cols = tl.arange(0, COLS).to(tl.int64)
    return ptr + tl.cast(first, tl.int64) * strides[-2] + (rows[:, None] * strides[-2] + cols[None, :] * strides[-1])


@triton.jit
def load_tile(ptr, strides, first, n_rows, n_cols: tl.constexpr, MASKED: tl.constexpr,
              ROWS: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """The tile at those pointers, zero where it hangs over: over the columns always, over the rows if MASKED."""
    ptrs = tile_ptrs(ptr, strides, first, ROWS, COLS)
    inside = (tl.arange(0, COLS) < n_cols)[None, :]
    if MASKED:
        return tl.load(ptrs, mask=(first + tl.arange(0, ROWS) < n_rows)[:, None] & inside, other=0.0)
    elif COLS > n_cols:
        return tl.load(ptrs, mask=inside, other=0.0)
    else:
        return tl.load(ptrs)


@triton.jit
def attend(q, ks, vs, m, total, acc, scale, last_visible, PRECISION: tl.constexpr):
    """Adds some blocks of keys under one maximum; `last_visible` masks the last one's scores, None lets all count."""
    scores = ()
    new_m = m
    for i in tl.static_range(len(ks)):
        s = dot(q, ks[i].T if len(q.shape) == 2 else tl.permute(ks[i], (0, 2, 1)), None, PRECISION)
        if i == len(ks) - 1 and last_visible is not None:
            s = tl.where(last_visible, s, -float("inf"))
        new_m = tl.maximum(new_m, tl.max(s, -1))
        scores = scores + (s,)
    # a row that has seen only -inf has no maximum to subtract: 0 gives exp2(-inf) = 0, not exp2(-inf + inf)
    top = tl.where(new_m == -float("inf"), 0.0, new_m)
    # exactly 1 where the maximum stays; of m * scale - top * scale one product is rounded and the other fused, and with
    # half a million blocks sums that grow by a rounding error each time were 1.5 % off
    alpha = tl.exp2((m - top) * scale)
    total *= alpha
    acc *= tl.expand_dims(alpha, -1)
    for i in tl.static_range(len(ks)):
        p = tl.exp2(scores[i] * scale - tl.expand_dims(top * scale, -1))
        total += tl.sum(p, -1)
        acc = dot(p.to(vs[i].dtype), vs[i], acc, PRECISION)
    return new_m, total, acc


@triton.jit(do_not_specialize=["heads", "L", "S"])
def attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, heads, L, S, scale, inner_sizes, q_strides, k_strides, v_strides, out_strides,
    E: tl.constexpr, EV: tl.constexpr, CAUSAL: tl.constexpr, NEGATE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WHOLE_BLOCKS: tl.constexpr, REST: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, EARLY: tl.constexpr, HEADS: tl.constexpr = 1,
):  # fmt: skip
    wait_for_previous(EARLY)
    # the programs of a head run side by side and find its keys and values in cache
    blocks_m = tl.cdiv(L, BLOCK_M)
    first_m = tl.program_id(0) % blocks_m * BLOCK_M
    head = (tl.program_id(0) // blocks_m).to(tl.int64)
    if HEADS > 1:  # in the interpreter, whose time goes with the number of programs: tiles of HEADS x rows x columns
        head = tl.minimum(head * HEADS + tl.arange(0, HEADS), heads - 1)[:, None, None]

    # the head's number, taken apart into one index per leading dimension, the innermost of them first
    for d in tl.static_range(len(inner_sizes), 0, -1):
        index = head % inner_sizes[d - 1]
        head = head // inner_sizes[d - 1]
        q_ptr += index * q_strides[d]
        k_ptr += index * k_strides[d]
        v_ptr += index * v_strides[d]
        out_ptr += index * out_strides[d]
    q_ptr += head * q_strides[0]
    k_ptr += head * k_strides[0]
    v_ptr += head * v_strides[0]
    out_ptr += head * out_strides[0]

    q = load_tile(q_ptr, q_strides, first_m, L, E, True, BLOCK_M, BLOCK_E)
    if NEGATE:
        q = (-q.to(tl.float32)).to(q.dtype)  # scale is positive below, so that the largest score weighs most
    m = tl.full(q.shape[:-1], -float("inf"), tl.float32)
    total = tl.zeros(q.shape[:-1], tl.float32)
    acc = tl.expand_dims(total, -1) + tl.zeros((BLOCK_EV,), tl.float32)

    # the keys that need a mask come before the loop: after it, ptxas would run every product of the kernel on its own
    rows = first_m + tl.arange(0, BLOCK_M)
    whole = (tl.minimum(S, first_m + 1) if CAUSAL else S) // BLOCK_N * BLOCK_N
    if len(REST) > 0:
        ks = ()
        vs = ()
        keys = whole
        for i in tl.static_range(len(REST)):
            ks = ks + (load_tile(k_ptr, k_strides, keys, S, E, i == len(REST) - 1, REST[i], BLOCK_E),)
            vs = vs + (load_tile(v_ptr, v_strides, keys, S, EV, i == len(REST) - 1, REST[i], BLOCK_EV),)
            keys += REST[i]
        keys = keys - REST[-1] + tl.arange(0, REST[-1])
        visible = (keys < S)[None, :]
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None])
        m, total, acc = attend(q, ks, vs, m, total, acc, scale, visible, PRECISION)

    if WHOLE_BLOCKS:  # that every query of this program sees
        for first_n in range(0, whole, BLOCK_N):
            k = load_tile(k_ptr, k_strides, first_n, S, E, False, BLOCK_N, BLOCK_E)
            v = load_tile(v_ptr, v_strides, first_n, S, EV, False, BLOCK_N, BLOCK_EV)
            m, total, acc = attend(q, (k,), (v,), m, total, acc, scale, None, PRECISION)

    out = acc * tl.expand_dims(1.0 / tl.where(total == 0.0, 1.0, total), -1)  # no key, or only -inf: zeros
    inside = (rows < L)[:, None] & (tl.arange(0, BLOCK_EV) < EV)[None, :]
    tl.store(tile_ptrs(out_ptr, out_strides, first_m, BLOCK_M, BLOCK_EV), out, mask=inside)


def scaled_dot_product_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool = False, scale: float | None = None
) -> torch.Tensor:
    """Attention of the queries q (..., L, E) over keys k (..., S, E) with values v (..., S, Ev): (..., L, Ev).

    As PyTorch's function of this name: `scale` is 1 / sqrt(E) by default; with `is_causal` query i sees the keys
    j <= i; a query without a key gives zeros. Leading dimensions broadcast, head sizes go up to 256. The sums are
    in float32; float32 products follow `torch.backends.cuda.matmul.allow_tf32`. The result lies in memory in the order
    of q's dimensions, the last one innermost, so that (B, heads, L, Ev) made from views of a projection
    (B, L, heads * E) is free to become (B, L, heads * Ev). Raises ValueError on shapes that do not fit and on unequal
    devices, TypeError on unequal or other dtypes and on an `is_causal` that is no bool.
    """
    op = "scaled_dot_product_attention"
    check_tensors(op, q=q, k=k, v=v)
    if not isinstance(is_causal, bool):  # in this place PyTorch has a mask
        raise TypeError(f"{op}: expected is_causal to be True or False, got {type(is_causal).__name__}")
    came = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{op}: expected q (..., L, E), k (..., S, E) and v (..., S, Ev), {came}")
    if max(q.shape[-1], v.shape[-1]) > MAX_HEAD_SIZE:
        raise ValueError(f"{op}: expected head sizes of at most {MAX_HEAD_SIZE}, {came}")
    try:
        broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except RuntimeError:
        raise ValueError(f"{op}: expected leading dimensions that broadcast, {came}") from None
    return _scaled_dot_product_attention(q, k, v, is_causal, scale)


@custom_op("scaled_dot_product_attention")
def _scaled_dot_product_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float | None
) -> torch.Tensor:
    out = _empty_result(q, k, v)
    if out.numel() == 0:
        return out
    lead, (L, EV), (S, E) = tuple(out.shape[:-2]), out.shape[-2:], k.shape[-2:]
    q, k, v = (t if t.shape[:-2] == lead else t.expand(*lead, -1, -1) for t in (q, k, v))
    outer_sizes, out_strides, *strides = _places(lead, *[t.stride() for t in (out, q, k, v)])

    heads = math.prod(lead)
    scale = max(E, 1) ** -0.5 if scale is None else scale
    exponent = max(abs(scale) * LOG2_E, 2.0**-126)  # not 0, which times a masked -inf would be NaN
    block_e, block_ev = (max(16, next_power_of_2(n)) for n in (E, EV))  # tensor cores take 16 at least

    def launch(config):
        if "GROUPS" in config.kwargs:
            attention_specialised(q, k, v, out, outer_sizes, *strides, out_strides, exponent, scale < 0, config)
            return
        block_m, block_n = config.kwargs["BLOCK_M"], config.kwargs["BLOCK_N"]
        rest = (max(block_m, block_n),) if is_causal else _last_blocks(S % block_n)
        programs = cdiv(L, block_m) * cdiv(heads, config.kwargs.get("HEADS", 1))
        attention_kernel[(programs,)](
            q, k, v, out, heads, L, S, exponent, outer_sizes[1:], *strides, out_strides,
            E=E, EV=EV, CAUSAL=is_causal, NEGATE=scale < 0, PRECISION=matmul_precision(q.dtype),
            WHOLE_BLOCKS=S >= block_n, REST=rest, BLOCK_E=block_e, BLOCK_EV=block_ev,
            **config.all_kwargs(), **early_start(programs),
        )  # fmt: skip

    specialised = (not is_causal and specialised_takes(q.dtype, outer_sizes, L, S, E, EV, *strides)
                   and (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16 == 0)  # fmt: skip
    configs = attention_configs(heads, L, S, max(block_e, block_ev), q.dtype, is_causal, specialised)
    waves = next_power_of_2(min(cdiv(heads * L, 64 * runtime.num_sms()), 32))
    key = (q.dtype, f"{waves} waves", L, S, E, EV, is_causal, *["specialised"] * specialised)
    launch(best_config("scaled_dot_product_attention", key, configs, launch))
    return out


@torch.library.register_fake(_scaled_dot_product_attention)
def _(q, k, v, is_causal, scale):
    return _empty_result(q, k, v)


@functools.lru_cache(maxsize=4096)
def _places(lead, *strides) -> tuple[tuple[int, ...], ...]:
    """The sizes of the leading dimensions, as few of them as possible, then each tensor's strides."""
    sizes, *steps = walk(lead, *(s[:-2] for s in strides))
    return sizes, *(step + s[-2:] for step, s in zip(steps, strides))


@functools.lru_cache(maxsize=4096)
def _last_blocks(keys: int) -> tuple[int, ...]:
    """Powers of two that cover the keys after the last whole block: (16,) for 5, (128, 64, 16) for 197."""
    return tuple(2**bit for bit in reversed(range(4, 11)) if cdiv(keys, 16) * 16 & 2**bit)


def _empty_result(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    lead = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q = q if q.shape[:-2] == lead else q.expand(*lead, -1, -1)
    order = sorted(range(q.ndim - 1), key=lambda d: -(q.stride(d) or math.inf))  # what is repeated comes first
    return torch.empty_permuted((*lead, q.shape[-2], v.shape[-1]), (*order, q.ndim - 1), dtype=q.dtype, device=q.device)
