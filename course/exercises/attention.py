"""Exercises of the chapter on attention (notebooks/attention.ipynb)."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course.kernels.attention.pointers import load_tile, tile_ptrs
from course.lab.checking.exercise import Exercise, Wrong, prose


def attention(q, k, v, **more):
    """PyTorch's, which wants a batch in front of the heads to choose its fused kernels."""
    return F.scaled_dot_product_attention(q[None], k[None], v[None], **more)[0]


def heads_of(randn, heads, M, N, D, dtype=torch.float32):
    return randn(heads, M, D, dtype=dtype), randn(heads, N, D, dtype=dtype), randn(heads, N, D, dtype=dtype)


def projected(randn, heads, tokens, D, kv_heads=None):
    """Views (heads, tokens, D) of one (tokens, ...) tensor, as the projections of a transformer leave them."""
    kv_heads = kv_heads or heads
    whole = randn(tokens, (heads + 2 * kv_heads) * D)
    parts = whole.split([heads * D, kv_heads * D, kv_heads * D], dim=1)
    return tuple(part.unflatten(1, (-1, D)).transpose(0, 1) for part in parts)


@triton.jit
def my_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, M, N, scale, q_strides, k_strides, v_strides, out_strides,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    first_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    q = load_tile(q_ptr + head * q_strides[0], q_strides, first_m, M, D, True, BLOCK_M, BLOCK_D)
    m = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    for first_n in range(0, N, BLOCK_N):
        k = load_tile(k_ptr + head * k_strides[0], k_strides, first_n, N, D, True, BLOCK_N, BLOCK_D)
        v = load_tile(v_ptr + head * v_strides[0], v_strides, first_n, N, D, True, BLOCK_N, BLOCK_D)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        s = tl.where((first_n + tl.arange(0, BLOCK_N) < N)[None, :], s, -float("inf"))

        #> new_m = ...  # 1. the largest score of each row so far
        #> alpha = ...  # 2. by how much what was summed under the old maximum shrinks
        #> p = ...      # 3. this block's weights under the new maximum
        #> total = ...  # 4. the sum of all the weights so far
        #> acc = ...    # 5. the weighted sum of all the values so far; a product of p.to(v.dtype) and v is in it
        new_m = tl.maximum(m, tl.max(s, 1))
        alpha = tl.exp(m - new_m)
        p = tl.exp(s - new_m[:, None])
        total = total * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        #<
        m = new_m

    inside = (first_m + tl.arange(0, BLOCK_M) < M)[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    tl.store(tile_ptrs(out_ptr + head * out_strides[0], out_strides, first_m, BLOCK_M, BLOCK_D),
             acc / total[:, None], mask=inside)


def my_attention(q, k, v, out):
    heads, M, D = q.shape
    N = k.shape[1]
    my_attention_kernel[(triton.cdiv(M, 64), heads)](
        q, k, v, out, M, N, D**-0.5, q.stride(), k.stride(), v.stride(), out.stride(),
        D=D, BLOCK_M=64, BLOCK_N=64, BLOCK_D=max(16, triton.next_power_of_2(D)),
    )


RESCALE = Exercise(
    name="attention.rescale",
    task=prose("""
        ### Exercise 1: the online softmax

        `my_attention` is step 5 without its heart: the five lines that take a block of scores `s` into account.
        Write them. `m` holds the largest score of each of the `BLOCK_M` rows so far, `total` the sum of the weights
        and `acc` the weighted sum of the values, both as if `m` were the maximum of the whole row.
    """),
    reference=lambda q, k, v: attention(q, k, v),
    cases={
        "2 heads, 100 queries and keys of size 32": lambda randn: heads_of(randn, 2, 100, 100, 32),
        "one query and one key of size 1": lambda randn: heads_of(randn, 1, 1, 1, 1),
        "one block of keys: 50 × 64": lambda randn: heads_of(randn, 1, 50, 64, 16),
        "70 queries, 201 keys of size 24": lambda randn: heads_of(randn, 1, 70, 201, 24),
        "float16, large scores": lambda randn: tuple((6 * t).half() for t in heads_of(randn, 1, 65, 130, 40)),
        "not contiguous: views of a projection": lambda randn: projected(randn, 3, 67, 16),
        "large: 130 queries, 401 keys of size 128": lambda randn: heads_of(randn, 2, 130, 401, 128, torch.float16),
    },
    heavy=lambda randn: heads_of(randn, 32, 2048, 2048, 64, dtype=torch.float16),
    operations=lambda q, k, v: 4 * q.numel() * k.shape[1],
    solution=(my_attention_kernel, my_attention),
    hints=(
        "The maximum first: of the old one, and of this block's largest score in each row, `tl.max(s, 1)`. Everything "
        "else is relative to the new maximum.",
        "What was summed so far is made of terms `exp(score - m)`. To turn them into `exp(score - new_m)`, multiply by "
        "`exp(m - new_m)`: that is `alpha`, one number a row, and it belongs to `total` and to `acc` alike.",
        "`new_m = tl.maximum(m, tl.max(s, 1))`, `alpha = tl.exp(m - new_m)`, `p = tl.exp(s - new_m[:, None])`, "
        "`total = total * alpha + tl.sum(p, 1)`, and `acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, "
        'input_precision="ieee")`.',
    ),
    explanation=prose("""
        In the first turn `m` is -∞, so that `alpha` is `exp(-inf) = 0`: nothing was summed yet, and nothing is what
        remains of it. Later `alpha` is 1 in every row whose maximum stayed, and less where it rose. The division
        by `total` waits until the end: dividing in every turn would be `BLOCK_M × D` divisions a block, for
        nothing.

        `p.to(v.dtype)` rounds the weights to the type of the values, because tensor cores multiply two factors of one
        type. The weights lie between 0 and 1, and their sum, which decides how they are normalised, is taken before
        the rounding and in float32. `input_precision="ieee"` matters for float32 alone; the chapter on precision
        says what it does.
    """),
    wrong={
        "acc is not rescaled": Wrong({"acc = acc * alpha[:, None] +": "acc = acc +"}, "keys of size 32: "),
        "total is not rescaled": Wrong({"total = total * alpha +": "total = total +"}, "keys of size 32: "),
        "no maximum": Wrong({"new_m = tl.maximum(m, tl.max(s, 1))": "new_m = tl.zeros((BLOCK_M,), tl.float32)"},
                            "float16, large scores: "),
        "alpha upside down": Wrong({"tl.exp(m - new_m)": "tl.exp(new_m - m)"}, "NaN where a number belongs"),
        "the maximum of the whole block": Wrong({"tl.max(s, 1))": "tl.max(s))"}, "float16, large scores: "),
        "the weights under the old maximum": Wrong({"tl.exp(s - new_m[:, None])": "tl.exp(s - m[:, None])"},
                                                   "NaN where a number belongs"),
    },
)


@triton.jit
def window_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, M, window, scale, q_strides, k_strides, v_strides, out_strides,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    first_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    rows = first_m + tl.arange(0, BLOCK_M)
    q = load_tile(q_ptr + head * q_strides[0], q_strides, first_m, M, D, True, BLOCK_M, BLOCK_D)
    m = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    #> start = ...  # 1. where the first block of keys begins that a query of this program sees
    #> end = ...    # 2. the key behind the last one that a query of this program sees
    start = tl.maximum(first_m - window + 1, 0) // BLOCK_N * BLOCK_N
    end = tl.minimum(first_m + BLOCK_M, M)
    #<
    for first_n in range(start, end, BLOCK_N):
        k = load_tile(k_ptr + head * k_strides[0], k_strides, first_n, M, D, True, BLOCK_N, BLOCK_D)
        v = load_tile(v_ptr + head * v_strides[0], v_strides, first_n, M, D, True, BLOCK_N, BLOCK_D)
        keys = first_n + tl.arange(0, BLOCK_N)
        #> visible = ...  # 3. which of these keys each of the rows sees: BLOCK_M × BLOCK_N
        visible = (keys[None, :] <= rows[:, None]) & (keys[None, :] > rows[:, None] - window)
        #<
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        s = tl.where(visible, s, -float("inf"))
        new_m = tl.maximum(m, tl.max(s, 1))
        shift = tl.where(new_m == -float("inf"), 0.0, new_m)  # a row that has not seen any of its keys yet
        alpha = tl.exp(m - shift)
        p = tl.exp(s - shift[:, None])
        total = total * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        m = new_m

    total = tl.where(rows < M, total, 1.0)
    inside = (rows < M)[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    tl.store(tile_ptrs(out_ptr + head * out_strides[0], out_strides, first_m, BLOCK_M, BLOCK_D),
             acc / total[:, None], mask=inside)


def window_attention(q, k, v, window, out):
    heads, M, D = q.shape
    window_kernel[(triton.cdiv(M, 64), heads)](
        q, k, v, out, M, window, D**-0.5, q.stride(), k.stride(), v.stride(), out.stride(),
        D=D, BLOCK_M=64, BLOCK_N=32, BLOCK_D=max(16, triton.next_power_of_2(D)),
    )


def windowed(q, k, v, window):
    tokens = torch.arange(q.shape[1], device=q.device)
    age = tokens[:, None] - tokens[None, :]
    return attention(q, k, v, attn_mask=(age >= 0) & (age < window))


def with_window(window, make):
    return lambda randn: (*make(randn), window)


WINDOW = Exercise(
    name="attention.sliding_window",
    task=prose("""
        ### Exercise 2: a sliding window

        Query `i` sees itself and the `window - 1` keys before it, `i - window < j <= i`: long texts then cost
        `M · window` scores and no longer `M²`. Write the first and the last key of the loop, so that no block
        is loaded that no query sees, and the mask inside. The number of keys is that of the queries, `M`.
    """),
    reference=windowed,
    cases={
        "2 heads, 150 tokens, window 40": with_window(40, lambda randn: heads_of(randn, 2, 150, 150, 32)),
        "one token of size 1, window 1": with_window(1, lambda randn: heads_of(randn, 1, 1, 1, 1)),
        "each token sees itself: window 1": with_window(1, lambda randn: heads_of(randn, 1, 70, 70, 16)),
        "window 1,000, more than there are": with_window(1000, lambda randn: heads_of(randn, 1, 131, 131, 24)),
        "window 33": with_window(33, lambda randn: heads_of(randn, 1, 129, 129, 8)),
        "not contiguous: views of a projection": with_window(20, lambda randn: projected(randn, 3, 67, 16)),
        "large: 401 tokens of size 128, window 64": with_window(
            64, lambda randn: heads_of(randn, 2, 401, 401, 128, dtype=torch.float16)
        ),
    },
    heavy=with_window(256, lambda randn: heads_of(randn, 32, 4096, 4096, 64, dtype=torch.float16)),
    operations=lambda q, k, v, window: 4 * q.numel() * window,
    frugal=("reads",),
    solution=(window_kernel, window_attention),
    hints=(
        "Draw the scores, rows for queries and columns for keys: the window is a band along the diagonal. A program "
        "owns some rows of it. Its first row reaches furthest to the left, its last row furthest to the right.",
        "The first row is `first_m`: it sees keys from `first_m - window + 1` on, but none before 0. The loop steps in "
        "blocks, so round that down to a multiple of `BLOCK_N`. The last row is `first_m + BLOCK_M - 1`.",
        "`start = tl.maximum(first_m - window + 1, 0) // BLOCK_N * BLOCK_N`, `end = tl.minimum(first_m + BLOCK_M, M)`, "
        "and `visible = (keys[None, :] <= rows[:, None]) & (keys[None, :] > rows[:, None] - window)`.",
    ),
    explanation=prose("""
        A program looks at no more than `window + BLOCK_M + BLOCK_N` keys, however long the text is; the tiles
        outside of the band cost nothing at all. On a GPU the report compares with PyTorch, which is given the same
        window as a mask and so computes all `M²` scores.

        Within the first blocks some rows see nothing yet: all their scores are -∞, and so is the maximum. That is why
        `shift` is there. `exp(-inf - -inf)` would be NaN, and one NaN in `acc` stays for good. In the causal kernel
        of step 4 it cannot happen, because every row sees key 0, and key 0 comes first.
    """),
    wrong={
        "the window is one too long": Wrong({"> rows[:, None] - window": ">= rows[:, None] - window"}, "window 40: "),
        "not causal": Wrong({"(keys[None, :] <= rows[:, None]) & (": "(keys[None, :] < M) & ("}, "window 40: "),
        "the loop begins at the last row's first key": Wrong(
            {"first_m - window + 1": "first_m + BLOCK_M - window"}, "Some elements are right"
        ),
        "the whole row is read": Wrong(
            {"tl.maximum(first_m - window + 1, 0) // BLOCK_N * BLOCK_N": "0", "tl.minimum(first_m + BLOCK_M, M)": "M"},
            "right, but it reads",
        ),
        "all keys before the last are read": Wrong(
            {"tl.maximum(first_m - window + 1, 0) // BLOCK_N * BLOCK_N": "0"}, "right, but it reads"
        ),
        "the last block is left out": Wrong(
            {"tl.minimum(first_m + BLOCK_M, M)": "tl.minimum(first_m + BLOCK_M - BLOCK_N, M)"}, "window 40: "
        ),
        "the loop begins inside a block": Wrong(
            {"tl.maximum(first_m - window + 1, 0) // BLOCK_N * BLOCK_N": "tl.maximum(first_m, 0)"}, "window 40: "
        ),
    },
)


@triton.jit
def alibi_kernel(
    q_ptr, k_ptr, v_ptr, slope_ptr, out_ptr, M, scale, q_strides, k_strides, v_strides, stride_slope, out_strides,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    first_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    rows = first_m + tl.arange(0, BLOCK_M)
    q = load_tile(q_ptr + head * q_strides[0], q_strides, first_m, M, D, True, BLOCK_M, BLOCK_D)
    #> slope = ...  # 1. this head's, one number
    slope = tl.load(slope_ptr + head * stride_slope)
    #<
    m = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    for first_n in range(0, tl.minimum(first_m + BLOCK_M, M), BLOCK_N):
        k = load_tile(k_ptr + head * k_strides[0], k_strides, first_n, M, D, True, BLOCK_N, BLOCK_D)
        v = load_tile(v_ptr + head * v_strides[0], v_strides, first_n, M, D, True, BLOCK_N, BLOCK_D)
        keys = first_n + tl.arange(0, BLOCK_N)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        #> s = ...  # 2. with the bias added
        s = s - slope * (rows[:, None] - keys[None, :]).to(tl.float32)
        #<
        s = tl.where(keys[None, :] <= rows[:, None], s, -float("inf"))
        new_m = tl.maximum(m, tl.max(s, 1))
        alpha = tl.exp(m - new_m)
        p = tl.exp(s - new_m[:, None])
        total = total * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        m = new_m

    inside = (rows < M)[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]
    tl.store(tile_ptrs(out_ptr + head * out_strides[0], out_strides, first_m, BLOCK_M, BLOCK_D),
             acc / total[:, None], mask=inside)


def alibi_attention(q, k, v, slopes, out):
    heads, M, D = q.shape
    alibi_kernel[(triton.cdiv(M, 64), heads)](
        q, k, v, slopes, out, M, D**-0.5, q.stride(), k.stride(), v.stride(), slopes.stride(0), out.stride(),
        D=D, BLOCK_M=64, BLOCK_N=64, BLOCK_D=max(16, triton.next_power_of_2(D)),
    )


def with_bias(q, k, v, slopes):
    tokens = torch.arange(q.shape[1], device=q.device)
    age = tokens[:, None] - tokens[None, :]
    bias = (-slopes[:, None, None] * age).masked_fill(age < 0, -float("inf"))
    return attention(q, k, v, attn_mask=bias.to(q.dtype))


def powers_of_half(x):
    """1/2 to 1/256, and again, one for each element of `x`: times a distance of up to 2,048, exact in float16."""
    return torch.exp2(-1.0 - torch.arange(x.numel(), device=x.device) % 8)


ALIBI = Exercise(
    name="attention.alibi",
    task=prose("""
        ### Exercise 3: a bias that is never stored

        ALiBi tells a transformer where its tokens are by making distant keys less important: causal attention whose
        score of query `i` and key `j` is `scale * q[i] · k[j] - slope * (i - j)`, with one slope a head. As
        a tensor the bias has a number for each score, which PyTorch has to read. Your kernel knows `i` and `j`, and
        reads a single number a head. The causal loop is there; write the two lines that deal with the bias.
    """),
    reference=with_bias,
    cases={
        "2 heads, 100 tokens of size 32": lambda randn: (*heads_of(randn, 2, 100, 100, 32), randn(2).abs()),
        "one token of size 1": lambda randn: (*heads_of(randn, 1, 1, 1, 1), randn(1).abs()),
        "one block: 50 tokens": lambda randn: (*heads_of(randn, 3, 50, 50, 16), randn(3).abs() / 8),
        "201 tokens of size 24, small slopes": lambda randn: (*heads_of(randn, 2, 201, 201, 24), randn(2).abs() / 64),
        "not contiguous: every second slope": lambda randn: (*heads_of(randn, 3, 67, 67, 16), randn(6).abs()[::2]),
        "not contiguous: views of a projection": lambda randn: (*projected(randn, 3, 67, 16), randn(3).abs()),
        "large: 401 tokens of size 128": lambda randn: (
            *heads_of(randn, 2, 401, 401, 128, dtype=torch.float16), powers_of_half(randn(2))
        ),
    },
    heavy=lambda randn: (*heads_of(randn, 32, 2048, 2048, 64, dtype=torch.float16), powers_of_half(randn(32))),
    operations=lambda q, k, v, slopes: 2 * q.numel() * k.shape[1],
    frugal=("reads",),
    solution=(alibi_kernel, alibi_attention),
    hints=(
        "`slope_ptr + head * stride_slope` is the address of one number, not of a block. `tl.load` takes that too.",
        "`rows[:, None] - keys[None, :]` is a tile of distances, BLOCK_M × BLOCK_N, like the scores; "
        "`.to(tl.float32)` makes numbers with a fraction of them, which a slope can multiply.",
        "`slope = tl.load(slope_ptr + head * stride_slope)`, and `s = s - slope * (rows[:, None] - keys[None, "
        ":]).to(tl.float32)`. The scale belongs to the products alone.",
    ),
    explanation=prose("""
        The bias is made in registers where it is needed, so it moves no bytes: the same holds for any function of `i`
        and `j`, relative positions and document boundaries among them. PyTorch's FlexAttention builds such kernels
        from a Python function.

        A look at the softmax saves half of the work: it does not change when a number is added to a whole row, and
        `slope * i` is such a number. `s + slope * keys[None, :]` gives the same weights, from a row instead of a tile
        of biases. (With slopes and texts as long as you like it does round worse, since it adds up to large numbers.)
    """),
    wrong={
        "the wrong sign": Wrong({"s = s - slope": "s = s + slope"}, "tokens of size 32: "),
        "the same slope for every head": Wrong({"slope_ptr + head * stride_slope": "slope_ptr"}, "Some elements"),
        "no stride for the slopes": Wrong({"head * stride_slope": "head"}, "every second slope: "),
        "the distance starts anew in each block": Wrong(
            {"rows[:, None] - keys[None, :]).to": "rows[:, None] % BLOCK_M - keys[None, :] % BLOCK_N).to"},
            "tokens of size 32: ",
        ),
        "the bias is scaled": Wrong({"s = s - slope *": "s = s - slope * scale *"}, "tokens of size 32: "),
    },
)


@triton.jit
def grouped_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, M, N, scale, q_strides, k_strides, v_strides, out_strides,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    kv_head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # of the M * GROUP queries that share these keys
    dims = tl.arange(0, BLOCK_D)
    #> heads = ...   # 1. the query head of each row
    #> tokens = ...  # 2. the query's number in that head
    #> inside = ...  # 3. which elements of the BLOCK_M × BLOCK_D tile exist
    #> q = ...       # 4. the tile of queries, 0 where none exists
    heads = kv_head * GROUP + rows % GROUP
    tokens = rows // GROUP
    inside = (tokens < M)[:, None] & (dims < D)[None, :]
    offs = heads[:, None] * q_strides[0] + tokens[:, None] * q_strides[1] + dims[None, :] * q_strides[2]
    q = tl.load(q_ptr + offs, mask=inside, other=0.0)
    #<
    m = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    for first_n in range(0, N, BLOCK_N):
        k = load_tile(k_ptr + kv_head * k_strides[0], k_strides, first_n, N, D, True, BLOCK_N, BLOCK_D)
        v = load_tile(v_ptr + kv_head * v_strides[0], v_strides, first_n, N, D, True, BLOCK_N, BLOCK_D)
        s = tl.dot(q, k.T, input_precision="ieee") * scale
        s = tl.where((first_n + tl.arange(0, BLOCK_N) < N)[None, :], s, -float("inf"))
        new_m = tl.maximum(m, tl.max(s, 1))
        alpha = tl.exp(m - new_m)
        p = tl.exp(s - new_m[:, None])
        total = total * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        m = new_m

    #> ...  # 5. store acc / total[:, None]
    offs = heads[:, None] * out_strides[0] + tokens[:, None] * out_strides[1] + dims[None, :] * out_strides[2]
    tl.store(out_ptr + offs, acc / total[:, None], mask=inside)
    #<


def grouped_attention(q, k, v, out):
    heads, M, D = q.shape
    kv_heads, N, _ = k.shape
    group = heads // kv_heads
    grouped_kernel[(triton.cdiv(M * group, 64), kv_heads)](
        q, k, v, out, M, N, D**-0.5, q.stride(), k.stride(), v.stride(), out.stride(),
        GROUP=group, D=D, BLOCK_M=64, BLOCK_N=64, BLOCK_D=max(16, triton.next_power_of_2(D)),
    )


def grouped(randn, heads, kv_heads, M, N, D, dtype=torch.float32):
    return randn(heads, M, D, dtype=dtype), *heads_of(randn, kv_heads, N, N, D, dtype)[1:]


GROUPED = Exercise(
    name="attention.grouped_query",
    task=prose("""
        ### Exercise 4: heads that share their keys

        Most large language models keep fewer heads of keys and values than of queries: with 32 and 8, each of the 8
        serves a *group* of 4, query head `h` reads key head `h // 4`. What has to be kept of a text, and read for
        every new token, shrinks to a quarter. So that each key is also *loaded* once for the whole group, a program
        takes the queries of all its heads together: row `r` of the `M * GROUP` rows that belong to `kv_head` is query
        `r // GROUP` of the group's head number `r % GROUP`. Write what comes before and after the loop.
    """),
    reference=lambda q, k, v: attention(q, k, v, enable_gqa=True),
    cases={
        "4 heads on 2, 50 queries, 100 keys of size 32": lambda randn: grouped(randn, 4, 2, 50, 100, 32),
        "one query and one key of size 1": lambda randn: grouped(randn, 1, 1, 1, 1, 1),
        "groups of one": lambda randn: grouped(randn, 3, 3, 70, 33, 16),
        "6 heads on 1, one query": lambda randn: grouped(randn, 6, 1, 1, 201, 24),
        "6 heads on 2, 43 queries": lambda randn: grouped(randn, 6, 2, 43, 77, 24),
        "not contiguous: views of a projection": lambda randn: projected(randn, 6, 67, 16, kv_heads=2),
        "large: 8 heads on 2, 401 keys of size 128": lambda randn: grouped(randn, 8, 2, 45, 401, 128, torch.float16),
    },
    heavy=lambda randn: grouped(randn, 32, 8, 2048, 2048, 64, dtype=torch.float16),
    operations=lambda q, k, v: 4 * q.numel() * k.shape[1],
    frugal=("reads",),
    solution=(grouped_kernel, grouped_attention),
    hints=(
        "`rows` counts the queries of the whole group: row 0 is token 0 of the first head, row 1 token 0 of the second "
        "one, row `GROUP` token 1 of the first again.",
        "`heads = kv_head * GROUP + rows % GROUP` and `tokens = rows // GROUP`. Both are blocks of `BLOCK_M` numbers, "
        "so every row of the tile has a head of its own: `heads[:, None] * q_strides[0]` takes the place of `head * "
        "q_strides[0]`.",
        "`inside = (tokens < M)[:, None] & (dims < D)[None, :]`. The offsets are `heads[:, None] * q_strides[0] + "
        "tokens[:, None] * q_strides[1] + dims[None, :] * q_strides[2]`, loaded with `mask=inside, other=0.0`; to "
        "store, the same with `out_strides`.",
    ),
    explanation=prose("""
        The rows of a tile are independent of each other: nothing says that they must be neighbours in memory, or of one
        head. Packed like this, a key that was loaded meets `GROUP` times as many queries. It decides how fast a model
        *generates*, one token at a time: with `M = 1` a tile of one head would hold a single query and 63 rows of
        nothing, and the time would be that of reading the keys once for each query head.
    """),
    wrong={
        "the heads of a group are not neighbours": Wrong(
            {"kv_head * GROUP + rows % GROUP": "kv_head + rows % GROUP * tl.num_programs(1)"}, "keys of size 32: "
        ),
        "every row is of the group's first head": Wrong(
            {"kv_head * GROUP + rows % GROUP": "kv_head * GROUP + rows * 0"}, "There are gaps"
        ),
        "the mask counts rows, not tokens": Wrong({"(tokens < M)": "(rows < M)"}, "keys of size 32: "),
        "the mask lets one token too many pass": Wrong({"(tokens < M)": "(tokens <= M)"}, "went past the output"),
        "rows in the other order": Wrong({"rows % GROUP": "rows // M", "rows // GROUP": "rows % M"},
                                         "A store went past the output"),
    },
)


@triton.jit
def partial_kernel(
    q_ptr, k_ptr, v_ptr, m_ptr, total_ptr, acc_ptr, N, scale, q_strides, k_strides, v_strides, CHUNK,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):
    part = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    q = tl.load(q_ptr + head * q_strides[0] + dims * q_strides[1], mask=dims < D, other=0.0).to(tl.float32)
    m = -float("inf")
    total = 0.0
    acc = tl.zeros((BLOCK_D,), tl.float32)

    #> first = ...  # 1. the first key of this part
    #> last = ...   # 2. the key behind its last one
    first = part * CHUNK
    last = tl.minimum(first + CHUNK, N)
    #<
    for first_n in range(first, last, BLOCK_N):
        k = load_tile(k_ptr + head * k_strides[0], k_strides, first_n, last, D, True, BLOCK_N, BLOCK_D).to(tl.float32)
        v = load_tile(v_ptr + head * v_strides[0], v_strides, first_n, last, D, True, BLOCK_N, BLOCK_D).to(tl.float32)
        s = tl.sum(q[None, :] * k, 1) * scale
        s = tl.where(first_n + tl.arange(0, BLOCK_N) < last, s, -float("inf"))
        new_m = tl.maximum(m, tl.max(s, 0))
        alpha = tl.exp(m - new_m)
        p = tl.exp(s - new_m)
        total = total * alpha + tl.sum(p, 0)
        acc = acc * alpha + tl.sum(p[:, None] * v, 0)
        m = new_m

    row = head * tl.num_programs(0) + part
    tl.store(m_ptr + row, m)
    tl.store(total_ptr + row, total)
    tl.store(acc_ptr + row * D + dims, acc, mask=dims < D)


@triton.jit
def combine_kernel(
    m_ptr, total_ptr, acc_ptr, out_ptr, n_parts, out_strides,
    D: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    parts, dims = tl.arange(0, PARTS), tl.arange(0, BLOCK_D)
    rows = head * n_parts + parts
    m = tl.load(m_ptr + rows, mask=parts < n_parts, other=-float("inf"))
    total = tl.load(total_ptr + rows, mask=parts < n_parts, other=0.0)
    inside = (parts < n_parts)[:, None] & (dims < D)[None, :]
    acc = tl.load(acc_ptr + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)
    #> alpha = ...  # 3. by how much each part's sums shrink under the maximum of all
    #> out = ...    # 4. the result: BLOCK_D numbers
    alpha = tl.exp(m - tl.max(m, 0))
    out = tl.sum(acc * alpha[:, None], 0) / tl.sum(total * alpha, 0)
    #<
    tl.store(out_ptr + head * out_strides[0] + dims * out_strides[1], out, mask=dims < D)


def decode(q, k, v, out):
    heads, N, D = k.shape
    chunk = 512
    parts = triton.cdiv(N, chunk)
    m, total = torch.empty(2, heads, parts, dtype=torch.float32, device=q.device)
    acc = torch.empty(heads, parts, D, dtype=torch.float32, device=q.device)
    block_d = triton.next_power_of_2(D)
    partial_kernel[(parts, heads)](
        q, k, v, m, total, acc, N, D**-0.5, q.stride(), k.stride(), v.stride(), chunk,
        D=D, BLOCK_N=64, BLOCK_D=block_d,
    )
    combine_kernel[(heads,)](
        m, total, acc, out, parts, out.stride(),
        D=D, PARTS=triton.next_power_of_2(parts), BLOCK_D=block_d,
    )


def one_query(randn, heads, N, D, dtype=torch.float32):
    q, k, v = heads_of(randn, heads, 1, N, D, dtype)
    return q[:, 0], k, v


DECODE = Exercise(
    name="attention.decode",
    task=prose("""
        ### Exercise 5: one query, many keys

        A language model that writes a text asks one query at a time, over all the keys so far. There is no second
        query to share them with, so nothing but the bytes counts, and with a program a head there are far too
        few programs to fetch them fast. So the *keys* are divided: each program takes a part of 512 and leaves its
        three results behind, the maximum, the sum of the weights and the weighted sum of the values; a second
        kernel, with a program a head, merges them. Write the part's range, and the merging.
    """),
    reference=lambda q, k, v: attention(q[:, None], k, v)[:, 0],
    cases={
        "2 heads, 700 keys of size 16": lambda randn: one_query(randn, 2, 700, 16),
        "one key of size 1": lambda randn: one_query(randn, 1, 1, 1),
        "one part: 77 keys of size 24": lambda randn: one_query(randn, 3, 77, 24),
        "exactly two parts: 1,024 keys": lambda randn: one_query(randn, 1, 1024, 8),
        "float16, large scores": lambda randn: tuple((6 * t).half() for t in one_query(randn, 1, 601, 40)),
        "not contiguous: keys (N, heads, D)": lambda randn: (
            randn(3, 32)[:, ::2], randn(601, 3, 16).transpose(0, 1), randn(601, 3, 16).transpose(0, 1)
        ),
        "large: 801 keys of size 128": lambda randn: one_query(randn, 1, 801, 128, dtype=torch.float16),
    },
    heavy=lambda randn: one_query(randn, 64, 16384, 128, dtype=torch.float16),
    solution=(partial_kernel, combine_kernel, decode),
    hints=(
        "Part `p` owns the keys from `p * CHUNK` to `(p + 1) * CHUNK`, and the last part ends where the keys do.",
        "Merging is the rescaling of the loop, all parts at once: `tl.max(m, 0)` is the maximum of the whole row, and "
        "what part `p` has summed under its own maximum `m[p]` is multiplied by `exp(m[p] - that)`.",
        "`first = part * CHUNK`, `last = tl.minimum(first + CHUNK, N)`; `alpha = tl.exp(m - tl.max(m, 0))`, and `out = "
        "tl.sum(acc * alpha[:, None], 0) / tl.sum(total * alpha, 0)`.",
    ),
    explanation=prose("""
        The three numbers that a program keeps, `m`, `total` and `acc`, say all there is to say about a set of keys, and
        two sets merge into one whatever their order: the loop merges a block at a time, this kernel all parts at the
        end. That is what lets attention be divided over programs, and over GPUs.

        A padding part has `m = -inf` and `total = 0`, so that its `alpha` is 0. There is no `tl.dot` here, since
        tensor cores want sixteen rows at least; for one query the arithmetic is far cheaper than the bytes anyway.
        (The chapter Make it fast counts what a second launch costs.)
    """),
    wrong={
        "the parts are averaged": Wrong(
            {"alpha = tl.exp(m - tl.max(m, 0))": "alpha = m * 0 + 1.0"}, "700 keys of size 16: "
        ),
        "only the sums shrink": Wrong({"tl.sum(acc * alpha[:, None], 0)": "tl.sum(acc, 0)"}, "700 keys of size 16: "),
        "each part is divided by its own sum": Wrong(
            {"tl.sum(acc * alpha[:, None], 0) / tl.sum(total * alpha, 0)":
             "tl.sum(acc * (alpha / total)[:, None], 0)"}, "700 keys of size 16: "),
        "the last part goes on": Wrong({"tl.minimum(first + CHUNK, N)": "first + CHUNK"}, "A load reached outside"),
        "every part begins at the first key": Wrong({"first = part * CHUNK": "first = 0"}, "Every element is wrong"),
    },
)

EXERCISES = (RESCALE, WINDOW, ALIBI, GROUPED, DECODE)
