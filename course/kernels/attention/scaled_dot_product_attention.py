"""Scaled dot-product attention in one kernel that never writes the score matrix.

    s[i, j] = scale * sum_e q[i, e] * k[j, e] + mask[i, j]        causal: only the keys j <= i
    out[i]  = sum_j p[i, j] * v[j] / sum_j p[i, j],               p[i, j] = exp(s[i, j] - max_j s[i, j])

A program owns some queries of one head and walks over the keys a block at a time. It keeps the maximum m so far, the
sum of the weights p and their sum over v; where a block raises the maximum to m', both sums are multiplied by
exp(m - m'), so that they end as if the maximum had been known from the start (Milakov and Gimelshein, Online normalizer
calculation for softmax, 2018; Dao et al., FlashAttention, 2022).

A head moves (L + S) * (E + Ev) * itemsize bytes at least, for 2 * L * S * (E + Ev) operations and L * S exponentials;
the L * S scores stay in registers. A mask is read as it lies in memory, and never expanded; a boolean one stands for 0
where it is True, and for -inf elsewhere.

The engines. Those that can run are measured, and the fastest computes; on an H200, bfloat16, 12 heads of 64 an image:

    hopper      16-bit heads of 33 to 128, on Hopper: 16 images of 1,024 tokens in 123 us (cuDNN 122)
    pointers    everything; the fastest for few or short images: 8 images of 197 tokens in 7.7 us (cuDNN 13.1)
"""
import math

import torch

from course.kernels.attention import hopper, pointers
from course.kernels.attention.problem import attention_problem
from course.kernels.parts.checks import broadcast_shapes, check_tensors, flag, number
from course.kernels.parts.modes import torch_function
from course.kernels.parts.tf32 import rounded_to_tf32
from course.operators import custom_op
from course.precision import matmul_precision
from course.tuning import Engines

MAX_HEAD_SIZE = 256

ENGINES = Engines("scaled_dot_product_attention", hopper, pointers, compete=True)


@torch_function("lower")
def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention of query (..., L, E) over key (..., S, E) with value (..., S, Ev): (..., L, Ev).

    As PyTorch's function of this name. `attn_mask` broadcasts to the scores (..., L, S): either it is boolean, and True
    where a key takes part, or in query's dtype or float32, and added to the scores. With `is_causal` query i sees the
    keys j <= i. A query that sees no key, or only scores of -inf, gives zeros. `scale` is 1 / sqrt(E) by default. With
    `enable_gqa` query may have n times as many heads, its dimension -3, as key and value: its heads h * n to
    h * n + n - 1 attend over their head h. Leading dimensions broadcast, head sizes go up to 256.

    The sums are in float32; float32 products follow `torch.backends.cuda.matmul.allow_tf32`. The result lies in memory
    in the order of query's dimensions, the last one innermost, so that (B, heads, L, Ev) made from views of a
    projection (B, L, heads * E) is free to become (B, L, heads * Ev). Raises ValueError on shapes that do not fit, on
    unequal devices, on a mask together with is_causal, and on dropout, which the kernels lack; TypeError on unequal or
    other dtypes, and on what is no number or no bool.
    """
    op = "scaled_dot_product_attention"
    check_tensors(op, query=query, key=key, value=value)
    if number(op, "dropout_p", dropout_p) != 0.0:
        raise ValueError(f"{op}: expected dropout_p=0.0, as the kernels have no dropout, got {dropout_p}")
    scale = scale if scale is None else number(op, "scale", scale)
    got = f"got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    enough = min(query.ndim, key.ndim, value.ndim) >= 2
    if not enough or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(f"{op}: expected query (..., L, E), key (..., S, E) and value (..., S, Ev), {got}")
    if max(query.shape[-1], value.shape[-1]) > MAX_HEAD_SIZE:
        raise ValueError(f"{op}: expected head sizes of at most {MAX_HEAD_SIZE}, {got}")
    grouped = flag(op, "enable_gqa", enable_gqa) and check_heads(op, query, key, value, got)
    try:
        lead = leading_dimensions(query, key, value, grouped)
    except RuntimeError:
        raise ValueError(f"{op}: expected leading dimensions that broadcast, {got}") from None
    if flag(op, "is_causal", is_causal) and attn_mask is not None:
        raise ValueError(f"{op}: expected attn_mask or is_causal=True, got both")
    if attn_mask is not None:
        check_mask(op, attn_mask, query, (*lead, query.shape[-2], key.shape[-2]))
    return _scaled_dot_product_attention(query, key, value, attn_mask, is_causal, scale, grouped)


def check_heads(op: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, got: str) -> bool:
    """Whether several heads of `query` share one of `key` and `value`. ValueError on numbers for which they cannot."""
    if min(query.ndim, key.ndim, value.ndim) > 2:
        q_heads, k_heads, v_heads = (t.shape[-3] for t in (query, key, value))
        if q_heads == k_heads == v_heads or k_heads == v_heads != 0 and q_heads % k_heads == 0:
            return q_heads != k_heads
    raise ValueError(f"{op}: expected with enable_gqa as many heads (dimension -3) in key as in value, and a multiple "
                     f"in query, {got}")


def check_mask(op: str, mask: torch.Tensor, query: torch.Tensor, scores: tuple[int, ...]) -> None:
    """`mask` is a boolean or additive one for scores of this shape."""
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"{op}: expected attn_mask to be a tensor, got {type(mask).__name__}")
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        dtypes = " or ".join(str(dtype) for dtype in dict.fromkeys((torch.bool, torch.float32, query.dtype)))
        raise TypeError(f"{op}: expected attn_mask in {dtypes}, got {mask.dtype}")
    if mask.device != query.device:
        raise ValueError(f"{op}: expected attn_mask on {query.device} as query, got {mask.device}")
    if mask.dtype != torch.bool:
        check_tensors(op, attn_mask=mask)
    fits = mask.ndim <= len(scores)
    if not fits or any(n not in (1, size) for n, size in zip(mask.shape[::-1], scores[::-1])):
        raise ValueError(f"{op}: expected attn_mask that broadcasts to the scores {scores}, got {tuple(mask.shape)}")


def leading_dimensions(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grouped: bool) -> torch.Size:
    """What the dimensions before the last two broadcast to; where `grouped`, each head of k and v is there for some of
    q's. RuntimeError if they do not broadcast."""
    if grouped:
        return broadcast_shapes(q.shape[:-2], *((*t.shape[:-3], q.shape[-3]) for t in (k, v)))
    return broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])


def empty_result(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grouped: bool) -> torch.Tensor:
    """An uninitialised (..., L, Ev), whose dimensions have the order of q's in memory."""
    lead = leading_dimensions(q, k, v, grouped)
    q = q if q.shape[:-2] == lead else q.expand(*lead, -1, -1)
    order = sorted(range(q.ndim - 1), key=lambda d: -(q.stride(d) or math.inf))  # expanded dimensions come first
    return torch.empty_permuted((*lead, q.shape[-2], v.shape[-1]), (*order, q.ndim - 1), dtype=q.dtype, device=q.device)


@custom_op("scaled_dot_product_attention")
def _scaled_dot_product_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, is_causal: bool, scale: float | None,
    grouped: bool,
) -> torch.Tensor:
    result = out = empty_result(q, k, v, grouped)
    if out.numel() == 0:
        return result
    if mask is not None:
        mask = mask.expand(*out.shape[:-1], k.shape[-2])
    if grouped:  # the heads become two dimensions, of which k and v have the second one once, for all of a group
        heads = k.shape[-3]
        q, out, mask = (t if t is None else t.unflatten(-3, (heads, -1)) for t in (q, out, mask))
        k, v = k.unsqueeze(-3), v.unsqueeze(-3)
    lead = tuple(out.shape[:-2])
    precision = matmul_precision(q.dtype)
    if precision == "tf32":
        q, k, v = (t if t.numel() == 0 else rounded_to_tf32(t) for t in (q, k, v))
    q, k, v = (t if t.shape[:-2] == lead else t.expand(*lead, -1, -1) for t in (q, k, v))
    begins = q.data_ptr() | k.data_ptr() | v.data_ptr() | (0 if mask is None else mask.data_ptr())
    problem = attention_problem(
        lead, *q.shape[-2:-1], *k.shape[-2:], v.shape[-1], *[t.stride() for t in (out, q, k, v)],
        None if mask is None else mask.stride(), q.dtype, precision,
        None if mask is None else mask.dtype, is_causal, scale, begins % 16 == 0,
    )
    ENGINES.compute(problem, (q, k, v, out, mask))
    return result


@torch.library.register_fake(_scaled_dot_product_attention)
def _(q, k, v, mask, is_causal, scale, grouped):
    return empty_result(q, k, v, grouped)
