import math

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from course import runtime
from course.kernels.attention import hopper, pointers
from course.kernels.attention.scaled_dot_product_attention import ENGINES, scaled_dot_product_attention
from tests.compare import TF32, UNIT, assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.engines import offer
from tests.marks import needs_hopper

pytestmark = pytest.mark.usefixtures("ieee")

half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


def exact(q, k, v, mask=None, is_causal=False, scale=None, enable_gqa=False):
    """In float64: the result, the mean of |v| under the same weights, and the largest sum of the parts of a score."""
    q, k, v = (t.double() for t in (q, k, v))
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scale = max(q.shape[-1], 1) ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
    bias = torch.zeros(1) if mask is None else mask.double().log() if mask.dtype == torch.bool else mask.double()
    scores = scores + bias.to(scores.device)
    weights = scores.softmax(-1)
    weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)  # nothing to attend to
    sums = (q.abs() @ k.abs().mT * abs(scale) + bias.abs().to(scores.device)).flatten()
    return weights @ v, weights @ v.abs(), max(sums[sums.isfinite()].tolist(), default=0.0)


def check(q, k, v, mask=None, *, is_causal=False, tf32=False, **options):
    got = scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, **options)
    assert got.dtype == q.dtype and got.device == q.device
    want, magnitude, largest = exact(q, k, v, mask, is_causal, **options)
    # a score is off by (E + 2) * u32 * largest at most, and a weight by twice that, since its sum is off as well
    terms = k.shape[-2] + 2 * (k.shape[-1] + 2) * largest
    rounding = UNIT[q.dtype] if q.dtype != torch.float32 else 2 * TF32 * (1 + 2 * largest) if tf32 else 0.0
    assert_accurate(got, want, terms=terms, magnitude=magnitude, input_rounding=rounding, slack=2)


def projection(batch, tokens, heads, size, **kwargs):
    """q, k, v as a transformer has them: views (batch, heads, tokens, size) of (batch, tokens, 3 * heads * size)."""
    qkv = torch.randn(batch, tokens, 3 * heads * size, **kwargs)
    return [t.view(batch, tokens, heads, size).transpose(1, 2) for t in qkv.chunk(3, -1)]


@pytest.fixture(params=[False, True], ids=["full", "causal"])
def is_causal(request):
    return request.param


@pytest.mark.parametrize("L, S", [(1, 1), (5, 1), (1, 300), (64, 64), (197, 197), (130, 77), (77, 130), (1, 1100)])
def test_lengths(L, S, is_causal, dtype, device):
    q = torch.randn(2, 3, L, 64, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, S, 64, dtype=dtype, device=device)
    check(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("block_m, block_n", [(16, 16), (32, 16), (16, 64), (64, 64)])
def test_many_blocks(block_m, block_n, is_causal, device, monkeypatch):
    """Several blocks of keys, which the interpreter's large blocks would hold in one."""
    offer(monkeypatch, ENGINES, lambda problem: pointers.in_order((block_m, block_n, 4, 2)))
    for L, S in ((77, 130), (150, 83)):
        q, k, v = (torch.randn(n, 16, dtype=torch.float16, device=device) for n in (L, S, S))
        k *= torch.linspace(0.1, 3, S, device=device)[:, None]  # the largest score is in one of the last blocks
        check(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("E, EV", [(8, 8), (1, 3), (24, 24), (80, 80), (96, 40), (16, 200), (256, 256)])
def test_head_sizes(E, EV, dtype, device):
    q, k = torch.randn(2, 2, 70, E, dtype=dtype, device=device)
    v = torch.randn(2, 70, EV, dtype=dtype, device=device)
    check(q, k, v, is_causal=E == 24)


@pytest.mark.parametrize("q_lead, k_lead, v_lead", [
    ((), (), ()), ((3,), (3,), (3,)), ((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((2, 3), (1, 3), (2, 1)), ((3,), (), (2, 1)),
    ((1, 1), (1, 1), (1, 1)), ((2, 1, 3, 1), (1, 2, 1, 2), (3, 2)),
])
def test_leading_dimensions(q_lead, k_lead, v_lead, device):
    q, k, v = (torch.randn(*lead, n, 16, device=device) for lead, n in zip((q_lead, k_lead, v_lead), (20, 9, 9)))
    check(q, k, v)


@pytest.mark.parametrize("L, S", [(129, 20), (20, 129), (129, 0)])
def test_many_heads_of_unequal_lengths(L, S, is_causal, device):
    """As many at once as a tile holds, of which the larger length decides."""
    q, k, v = (torch.randn(2, 9, n, 8, device=device) for n in (L, S, S))
    check(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("shapes", [
    ((2, 3, 0, 8), (2, 3, 5, 8), (2, 3, 5, 8)), ((0, 3, 4, 8), (0, 3, 5, 8), (0, 3, 5, 8)),
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 0)), ((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8)),
    ((2, 3, 4, 0), (2, 3, 5, 0), (2, 3, 5, 8)), ((4, 8), (0, 8), (0, 6)), ((2, 3, 0, 8), (2, 3, 0, 8), (2, 3, 0, 8)),
])
def test_empty(shapes, is_causal, dtype, device):
    q, k, v = (torch.randn(shape, dtype=dtype, device=device) for shape in shapes)
    check(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("view", [
    lambda t: t.mT.contiguous().mT, lambda t: t[..., ::2], lambda t: t[:, :, 3:], lambda t: t[:, :, ::2],
    lambda t: t[:, :1].expand(t.shape), lambda t: t[:, :, :1].expand(t.shape), lambda t: t.flip(-1)[:, 1:],
    lambda t: t.permute(1, 0, 2, 3), lambda t: t.to(memory_format=torch.channels_last),
])
def test_strides(view, device):
    tensors = torch.randn(3, 3, 3, 40, 32, dtype=torch.float16, device=device)
    check(*(view(t) for t in tensors))
    q, k, v = (view(t) if i == 1 else view(t).contiguous() for i, t in enumerate(tensors))
    check(q, k, v)


@pytest.mark.parametrize("make", [
    lambda **kw: torch.randn(3, 2, 4, 10, 8, **kw).unbind(),
    lambda **kw: [t.transpose(1, 2) for t in torch.randn(3, 2, 10, 4, 8, **kw)],
    lambda **kw: projection(2, 10, 4, 8, **kw),
    lambda **kw: torch.randn(10, 3, 2, 4, 8, **kw).permute(1, 2, 3, 0, 4).unbind(),
    lambda **kw: torch.randn(3, 2, 4, 8, 10, **kw).mT.unbind(),
    lambda **kw: torch.randn(3, 1, 4, 10, 8, **kw).expand(3, 2, 4, 10, 8).unbind(),
    lambda **kw: torch.randn(3, 10, 8, **kw).unbind(),
])
def test_layout(make, device):
    """Backends differ where the heads are not the second of four dimensions; here all of them follow q."""
    q, k, v = make(dtype=torch.float16, device=device)
    got = scaled_dot_product_attention(q, k, v)
    assert_like_pytorch(got.cpu(), F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu()))
    check(q, k, v)


def test_heads_go_back_without_a_copy(device):
    out = scaled_dot_product_attention(*projection(2, 10, 4, 8, device=device))
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


def random_mask(shape, kind, dtype, device):
    if kind == "boolean":
        return torch.rand(shape, device=device) > 0.4
    mask = 3 * torch.randn(shape, device=device)
    return mask.masked_fill(mask > 4, -math.inf).to(torch.float32 if kind == "float32" else dtype)


kinds = pytest.mark.parametrize("kind", ["boolean", "additive", "float32"])


@kinds
@pytest.mark.parametrize("shape", [
    (), (1,), (37,), (1, 37), (20, 1), (1, 1), (20, 37), (3, 20, 37), (3, 1, 37), (1, 20, 37), (2, 1, 1, 37),
    (2, 3, 20, 37), (2, 1, 20, 37), (1, 3, 20, 1), (1, 1, 1, 1),
])
def test_mask(shape, kind, dtype, device):
    q = torch.randn(2, 3, 20, 16, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, 37, 16, dtype=dtype, device=device)
    check(q, k, v, random_mask(shape, kind, dtype, device))


@pytest.mark.parametrize("kind", ["boolean", "additive"])
@pytest.mark.parametrize("block_m, block_n", [(16, 16), (32, 16), (16, 64), (64, 64)])
def test_mask_in_many_blocks(block_m, block_n, kind, device, monkeypatch):
    offer(monkeypatch, ENGINES, lambda problem: pointers.in_order((block_m, block_n, 4, 2)))
    for L, S, shape in ((50, 83, (50, 83)), (40, 70, (2, 1, 70)), (64, 64, (2, 64, 64))):
        q, k, v = (torch.randn(2, n, 16, dtype=torch.float16, device=device) for n in (L, S, S))
        k *= torch.linspace(0.1, 3, S, device=device)[:, None]
        check(q, k, v, random_mask(shape, kind, torch.float16, device))


@pytest.mark.parametrize("L, S", [(1, 1), (1, 300), (197, 197), (130, 77), (5, 0), (0, 5)])
def test_mask_of_lengths(L, S, dtype, device):
    q = torch.randn(2, 3, L, 64, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, S, 64, dtype=dtype, device=device)
    for kind in ("boolean", "additive"):
        check(q, k, v, random_mask((L, S), kind, dtype, device))
        check(q, k, v, random_mask((2, 1, 1, S), kind, dtype, device), scale=-0.3)


def test_mask_is_what_is_causal_stands_for(dtype, device):
    q = torch.randn(2, 3, 50, 16, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, 70, 16, dtype=dtype, device=device)
    earlier = torch.ones(50, 70, dtype=torch.bool, device=device).tril()
    want = scaled_dot_product_attention(q, k, v, is_causal=True)
    for mask in (earlier, earlier.float().log()):
        got = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.testing.assert_close(got, want, rtol=0, atol=16 * UNIT[dtype])


@kinds
@pytest.mark.parametrize("view", [
    lambda t: t.mT.contiguous().mT, lambda t: t.repeat_interleave(2, -1)[..., ::2], lambda t: t[:1].expand(t.shape),
    lambda t: t[:, :, :1].expand(t.shape), lambda t: t[..., :1].expand(t.shape), lambda t: t[:1, :1].expand(t.shape),
    lambda t: torch.cat((t, t), 2)[:, :, 40:], lambda t: t.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
])
def test_mask_of_any_strides_is_read_as_it_lies(view, kind, device, monkeypatch):
    q, k, v = torch.randn(3, 2, 3, 40, 16, dtype=torch.float16, device=device)
    mask = view(random_mask((2, 3, 40, 40), kind, torch.float16, device))
    read = []
    monkeypatch.setattr(pointers, "launch", lambda problem, config, operands, launch=pointers.launch: (
        read.append(operands[4].data_ptr()), launch(problem, config, operands)))
    check(q, k, v, mask)
    assert read == [mask.data_ptr()]


@kinds
def test_query_whose_keys_are_all_masked_gives_zeros(kind, dtype, device, tokens=40, size=16):
    """As all of PyTorch's backends, and not NaN, which a softmax of -inf alone is."""
    q, k, v = torch.randn(3, 2, 3, tokens, size, dtype=dtype, device=device)
    mask = torch.ones(2, 1, tokens, tokens, dtype=torch.bool, device=device)
    mask[0, :, 7] = mask[1, :, :9] = False
    mask = mask if kind == "boolean" else mask.log().to(dtype if kind == "additive" else torch.float32)
    got = scaled_dot_product_attention(q, k, v, mask)
    assert (got[0, :, 7] == 0).all() and (got[1, :, :9] == 0).all()
    assert (F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu(), mask.cpu())[0, :, 7] == 0).all()
    check(q, k, v, mask)


def test_mask_of_the_lowest_numbers(dtype, device, tokens=40, size=16):
    """As models write masks: where all keys of a query have the same, it weighs them by their scores, if at all."""
    q, k, v = torch.randn(3, 2, 3, tokens, size, dtype=dtype, device=device)
    for mask_dtype in {dtype, torch.float32}:
        for lowest in (torch.finfo(mask_dtype).min, -1e4):
            mask = torch.zeros(tokens, tokens, dtype=mask_dtype, device=device)
            mask[3] = mask[:, 30:] = lowest
            got = scaled_dot_product_attention(q, k, v, mask)
            want = F.scaled_dot_product_attention(q.cpu().float(), k.cpu().float(), v.cpu().float(), mask.cpu().float())
            torch.testing.assert_close(got.cpu().float(), want, rtol=0, atol=16 * UNIT[dtype] + 2e-3 * (lowest == -1e4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_in_a_mask(value, dtype, device, tokens=40, size=16):
    q, k, v = torch.randn(3, 2, 3, tokens, size, dtype=dtype, device=device)
    mask = torch.zeros(tokens, tokens, dtype=dtype, device=device)
    mask[7, 20] = value
    got = scaled_dot_product_attention(q, k, v, mask)
    assert got[:, :, 7].isnan().all() and got.isnan().sum() == got[:, :, 7].numel()


@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_in_a_key_that_is_masked_out(where, dtype, device, tokens=40, size=16, queries=1):
    """As in PyTorch: its score is added to -inf, and its value multiplied by 0."""
    tensors = dict(zip("qkv", torch.randn(3, 2, 3, tokens, size, dtype=dtype, device=device)))
    tensors[where][0, 0, 5] = math.nan
    mask = (torch.arange(tokens, device=device) != 5).repeat(queries, 1)
    got = scaled_dot_product_attention(*tensors.values(), mask)
    want = F.scaled_dot_product_attention(*(t.cpu().double() for t in tensors.values()), mask.cpu())
    assert torch.equal(got.cpu().isnan(), want.isnan()) and got[0, 0].isnan().all()


@pytest.mark.parametrize("q_lead, k_lead", [
    ((6,), (3,)), ((6,), (1,)), ((6,), (6,)), ((2, 6), (2, 2)), ((2, 6), (1, 3)), ((1, 6), (2, 3)), ((5, 2, 6), (2, 3)),
    ((0, 6), (0, 3)), ((2, 0), (2, 3)),
])
def test_grouped_heads(q_lead, k_lead, is_causal, dtype, device):
    q, k, v = (torch.randn(*lead, n, 16, dtype=dtype, device=device)
               for lead, n in zip((q_lead, k_lead, k_lead), (20, 9, 9)))
    check(q, k, v, is_causal=is_causal, enable_gqa=True)
    for lead in (q_lead[-1:], (1,), ()):
        check(q, k, v, random_mask((*lead, 20, 9), "boolean", dtype, device), enable_gqa=True)


def test_layout_of_grouped_heads(device):
    """As without groups: in the order of query's dimensions."""
    q = torch.randn(2, 10, 6, 8, device=device).transpose(1, 2)
    k, v = torch.randn(2, 2, 10, 3, 8, device=device).transpose(2, 3)
    got = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert got.transpose(1, 2).is_contiguous()
    of_meta = scaled_dot_product_attention(*(t.to("meta") for t in (q, k, v)), enable_gqa=True)
    assert (of_meta.shape, of_meta.stride()) == (got.shape, got.stride())


@kinds
def test_mask_under_autocast_and_on_meta(kind, device):
    """Autocast takes an additive mask to the lower dtype as well, which is that of the result."""
    q, k, v = torch.randn(3, 2, 3, 5, 8, device=device)
    mask = random_mask((2, 1, 5, 5), kind, torch.float32, device)
    with torch.autocast(device.type, torch.bfloat16):
        got = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0, atol=4 * UNIT[torch.bfloat16])
    assert scaled_dot_product_attention(*(t.to("meta") for t in (q, k, v, mask))).shape == (2, 3, 5, 8)


def test_names_order_and_defaults_are_pytorchs(device):
    q, k, v = torch.randn(3, 2, 3, 5, 8, device=device)
    mask = torch.rand(5, 5, device=device) > 0.5
    calls = [
        lambda f: f(query=q, key=k, value=v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None),
        lambda f: f(q, k, v, enable_gqa=False), lambda f: f(q, k, v, mask), lambda f: f(q, k, v, None, 0, True),
        lambda f: f(q, k, v, mask, 0.0, False, scale=2),
    ]
    for call in calls:
        torch.testing.assert_close(call(scaled_dot_product_attention), call(F.scaled_dot_product_attention))
    with pytest.raises(TypeError, match="positional arguments"):
        scaled_dot_product_attention(q, k, v, None, 0.0, False, 0.5)


@pytest.mark.parametrize("scale", [0.0, 1, 0.3, -0.5])
def test_scale(scale, is_causal, dtype, device):
    check(*torch.randn(3, 2, 50, 16, dtype=dtype, device=device), is_causal=is_causal, scale=scale)


def test_large_scores(dtype, device):
    check(*(8 * torch.randn(3, 2, 100, 64, device=device)).to(dtype).unbind())


@pytest.mark.parametrize("where, value", [
    ("q", math.nan), ("k", math.nan), ("v", math.nan), ("k", math.inf), ("q", math.inf), ("v", -math.inf),
])
def test_nan_and_infinity(where, value, is_causal, dtype, device, tokens=40):
    tensors = dict(zip("qkv", torch.randn(3, 2, 3, tokens, 64, dtype=dtype, device=device)))
    tensors[where][1, 2, 20, 5] = value
    q, k, v = tensors.values()
    got = scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    want = F.scaled_dot_product_attention(q.cpu().double(), k.cpu().double(), v.cpu().double(), is_causal=is_causal)
    if is_causal and where != "q":  # PyTorch's own backends differ on whether a masked NaN or infinity counts
        got, want = got[..., 20:, :], want[..., 20:, :]
    if where == "q" and not want.isnan().any():
        want[1, 2, 20] = math.nan  # PyTorch's kernel for the CPU drops a NaN that its math backend keeps
    assert torch.equal(got.cpu().isnan(), want.isnan())
    finite = want.isfinite()
    torch.testing.assert_close(got.cpu().double()[finite], want[finite], rtol=0.05, atol=0.05)
    assert torch.equal(got.cpu().double()[want.isinf()], want[want.isinf()])


def test_keys_without_weight(dtype, device, tokens=80, size=64):
    q, k, v = torch.randn(3, 2, tokens, size, dtype=dtype, device=device)
    q[..., 0] = q[..., 0].abs() + 1
    k[0, :, 0] = -math.inf  # all scores are -inf: zeros, as in PyTorch
    k[1, :-10, 0] = -math.inf  # all but the last
    check(q, k, v)
    assert (scaled_dot_product_attention(q, k, v)[0] == 0).all()


@pytest.mark.parametrize("size", [16, 64, 128])
def test_one_key_each_comes_out_exactly(size, dtype, device):
    """Scores so far apart that one weight is 1 and the others 0: the result is a row of v, bit by bit."""
    codes = torch.randint(0, 2, (2, 200, size), device=device) * 2.0 - 1
    codes[..., :8] = (torch.arange(200, device=device)[:, None] >> torch.arange(8, device=device)) % 2 * 2 - 1
    v = torch.randint(-100, 100, (2, 200, size), device=device).to(dtype)
    chosen = torch.randperm(200, device=device)
    got = scaled_dot_product_attention((64 * codes[:, chosen]).to(dtype), codes.to(dtype), v, scale=2 * math.log(2))
    assert torch.equal(got, v[:, chosen])


@pytest.mark.parametrize("S", [16, 64, 128, 256])
def test_equal_weights_come_out_exactly(S, dtype, device):
    q = torch.zeros(2, 197, 64, dtype=dtype, device=device)
    k = torch.randn(2, S, 64, dtype=dtype, device=device)
    v = S * torch.randint(-1, 2, (2, S, 64), device=device)
    mean = v.double().mean(1, keepdim=True).to(dtype)
    assert torch.equal(scaled_dot_product_attention(q, k, v.to(dtype)), mean.expand(q.shape))


@pytest.mark.parametrize("size", [16, 64, 128])
def test_integers(size, is_causal, dtype, device):
    """exp(scale * integer) = 2**integer: scores, weights and products are exact, the division alone rounds."""
    q, k = torch.randint(-1, 2, (2, 2, 150, size), device=device).to(dtype)
    q *= torch.rand(size, device=device).argsort() < 12  # no score beyond 12: float16 has weights down to 2**-24
    v = torch.randint(-8, 9, (2, 150, size), device=device).to(dtype)
    got = scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=math.log(2))
    want, magnitude, _ = exact(q, k, v, None, is_causal, scale=math.log(2))
    assert_accurate(got, want, terms=150, magnitude=magnitude)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    draw = lambda low, high, name: data.draw(st.integers(low, high), label=name)  # noqa: E731
    lead = data.draw(st.lists(st.integers(1, 3), max_size=3), label="leading dimensions")
    L, S = draw(0, 150, "L"), draw(0, 150, "S")
    E, EV = data.draw(st.sampled_from([(8, 8), (16, 24), (40, 16)]), label="head sizes")  # each is compiled

    def operand(*shape):
        order = data.draw(st.permutations(range(len(shape))))
        shape_in_memory = [shape[d] for d in order]
        return torch.randn(shape_in_memory, device=device).permute([order.index(d) for d in range(len(shape))])

    mask = None
    kind = data.draw(st.sampled_from(["none", "causal", "boolean", "additive"]), label="mask")
    if kind in ("boolean", "additive"):
        mask = operand(*(data.draw(st.sampled_from([1, n])) for n in (*lead, L, S)))
        mask = mask > -0.5 if kind == "boolean" else mask
    check(operand(*lead, L, E), operand(*lead, S, E), operand(*lead, S, EV), mask, is_causal=kind == "causal")


@one_dtype
def test_opcheck(is_causal, dtype, device):
    q, k, v = projection(2, 7, 3, 8, dtype=dtype, device=device)
    op = torch.ops.course.scaled_dot_product_attention.default
    mask = None if is_causal else torch.rand(2, 1, 7, 7, device=device) > 0.5
    torch.library.opcheck(op, (q, k, v, mask, is_causal, None, False))
    torch.library.opcheck(op, (q[0], k, v[..., :5], None, is_causal, 0.5, False))
    torch.library.opcheck(op, (torch.cat((q, q), 1), k, v, None, is_causal, None, True))


@pytest.mark.parametrize("options", [
    lambda t: {}, lambda t: {"attn_mask": t.new_ones(2, 1, 1, 7, dtype=torch.bool), "dropout_p": 0.0},
    lambda t: {"attn_mask": t.new_zeros(7, 7), "scale": 0.5}, lambda t: {"is_causal": True, "enable_gqa": True},
])
def test_compiles_without_graph_breaks(options, device):
    def block(qkv):
        q, k, v = qkv.unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        given = options(qkv)
        if "enable_gqa" in given:
            k, v = k[:, :1], v[:, :1]
        return scaled_dot_product_attention(q, k, v, **given).transpose(1, 2).flatten(2)

    qkv = torch.randn(2, 7, 48, device=device)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(qkv), block(qkv))


def test_bad_input(device):
    q, k, v = torch.randn(3, 2, 5, 8, device=device)
    name = "scaled_dot_product_attention: expected"
    want = r"query \(..., L, E\), key \(..., S, E\) and value \(..., S, Ev\)"
    with pytest.raises(ValueError, match=rf"{name} {want}, got query \(2, 5, 8\), key \(2, 5, 7\), value \(2, 5, 8\)"):
        scaled_dot_product_attention(q, k[..., 1:], v)
    with pytest.raises(ValueError, match=rf"{name} {want}, got .* value \(2, 4, 8\)"):
        scaled_dot_product_attention(q, k, v[:, 1:])
    with pytest.raises(ValueError, match=rf"{name} {want}, got query \(8,\)"):
        scaled_dot_product_attention(q[0, 0], k, v)
    with pytest.raises(ValueError, match=f"{name} leading dimensions that broadcast, got"):
        scaled_dot_product_attention(q, k.repeat(2, 1, 1)[:3], v)
    with pytest.raises(ValueError, match=f"{name} head sizes of at most 256, got"):
        scaled_dot_product_attention(q, k, v.repeat(1, 1, 33))
    with pytest.raises(TypeError, match=f"{name} key in torch.float32 as query, got torch.float16"):
        scaled_dot_product_attention(q, k.half(), v)
    with pytest.raises(TypeError, match=f"{name} query in float32, float16 or bfloat16, got torch.int64"):
        scaled_dot_product_attention(q.long(), k.long(), v.long())
    with pytest.raises(ValueError, match=f"{name} value on .*, got meta"):
        scaled_dot_product_attention(q, k, v.to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="attention: value requires a gradient"):
        scaled_dot_product_attention(q, k, v.clone().requires_grad_())


@pytest.mark.parametrize("error, expected, options", [
    (TypeError, "attn_mask to be a tensor, got bool", {"attn_mask": True}),
    (TypeError, "attn_mask in torch.bool or torch.float32, got torch.float16", {"attn_mask": torch.ones(5, 6).half()}),
    (TypeError, "attn_mask in torch.bool or torch.float32, got torch.int64", {"attn_mask": torch.ones(5, 6).long()}),
    (ValueError, "attn_mask on .* as query, got meta", {"attn_mask": torch.ones(5, 6, device="meta")}),
    (ValueError, r"attn_mask that broadcasts to the scores \(2, 3, 5, 6\), got \(6, 5\)",
     {"attn_mask": torch.ones(6, 5)}),
    (ValueError, r"attn_mask that .* \(2, 3, 5, 6\), got \(2, 1, 6\)", {"attn_mask": torch.ones(2, 1, 6)}),
    (ValueError, r"attn_mask that .*, got \(1, 2, 3, 5, 6\)", {"attn_mask": torch.ones(1, 2, 3, 5, 6)}),
    (ValueError, "attn_mask or is_causal=True, got both", {"attn_mask": torch.ones(5, 6), "is_causal": True}),
    (ValueError, "dropout_p=0.0, as the kernels have no dropout, got 0.1", {"dropout_p": 0.1}),
    (TypeError, "dropout_p to be a number, got None", {"dropout_p": None}),
    (TypeError, "scale to be a number, got '1'", {"scale": "1"}),
    (TypeError, "is_causal to be True or False, got 1", {"is_causal": 1}),
    (TypeError, "enable_gqa to be True or False, got 0", {"enable_gqa": 0}),
], ids=str)
def test_bad_options(error, expected, options, device):
    q, k, v = (torch.randn(2, 3, n, 8, device=device) for n in (5, 6, 6))
    move = lambda t: t.to(device) if isinstance(t, torch.Tensor) and not t.is_meta else t  # noqa: E731
    with pytest.raises(error, match=f"^scaled_dot_product_attention: expected {expected}$"):
        scaled_dot_product_attention(q, k, v, **{name: move(value) for name, value in options.items()})


def test_mask_that_requires_a_gradient(device):
    q, k, v = torch.randn(3, 2, 5, 8, device=device)
    mask = torch.zeros(5, 5, device=device, requires_grad=True)
    with torch.enable_grad(), pytest.raises(ValueError, match="attention: attn_mask requires a gradient"):
        scaled_dot_product_attention(q, k, v, mask)
    check(q, k, v, mask)  # the tests' mode has none


@pytest.mark.parametrize("heads", [(6, 3, 2), (6, 2, 3), (6, 4, 4), (3, 6, 6), (6, 0, 0), (6, 3, 1)])
def test_heads_that_cannot_be_grouped(heads, device):
    q, k, v = (torch.randn(2, n, 5, 8, device=device) for n in heads)
    with pytest.raises(ValueError, match=": expected with enable_gqa as many heads .*, got query .*$"):
        scaled_dot_product_attention(q, k, v, enable_gqa=True)
    with pytest.raises(ValueError, match=r": expected with enable_gqa as many heads .*, got query \(5, 8\)"):
        scaled_dot_product_attention(q[0, 0], q[0, 0], q[0, 0], enable_gqa=True)


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match="expected query on a GPU, got cpu: move it with"):
        scaled_dot_product_attention(*torch.randn(3, 2, 5, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 80])
def test_tf32(size, is_causal, device):
    torch.backends.cuda.matmul.allow_tf32 = True  # `ieee` puts it back
    check(*torch.randn(3, 2, 3, 197, size, device=device), is_causal=is_causal, tf32=True)


@pytest.mark.gpu
def test_cuda_graph():
    q, k, v = projection(2, 197, 12, 64, dtype=torch.bfloat16, device="cuda")
    scaled_dot_product_attention(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = scaled_dot_product_attention(q, k, v)
    for t in (q, k, v):
        t.copy_(torch.randn_like(t))
    graph.replay()
    assert torch.equal(out, scaled_dot_product_attention(q, k, v))


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements_in_a_head():
    k = torch.randn(2**25 + 5, 64, dtype=torch.float16, device="cuda")
    k[-16:] = 8 * torch.nn.functional.normalize(k[-16:], dim=-1)
    q = 16 * k[-16:]  # sees its own key only: 128 in the exponent, against 90 for the closest of the others
    v = k.roll(1, dims=0)
    # the maximum stays for half a million blocks: the sums must stay as well, to the bit
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), v[-16:], rtol=2**-10, atol=0)


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements_in_all_heads():
    qkv = torch.randn(2**19 + 3, 64, 64, dtype=torch.float16, device="cuda")
    got = scaled_dot_product_attention(qkv, qkv, qkv)[-3:]
    want, magnitude, largest = exact(qkv[-3:], qkv[-3:], qkv[-3:])
    assert_accurate(got, want, terms=64 * (1 + 2 * largest), magnitude=magnitude, input_rounding=UNIT[torch.float16])


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements_in_a_mask():
    q, k, v = (torch.randn(n, 16, dtype=torch.float16, device="cuda") for n in (2**16 + 9, 2**15 + 5, 2**15 + 5))
    mask = torch.rand(len(q), len(k), device="cuda", dtype=torch.float16) > 0.5
    got = scaled_dot_product_attention(q, k, v, mask)[-20:]
    want, magnitude, largest = exact(q[-20:], k, v, mask[-20:])
    assert_accurate(got, want, terms=len(k) + 36 * largest, magnitude=magnitude, input_rounding=UNIT[torch.float16])


@pytest.mark.gpu
@kinds
def test_mask_in_tf32(kind, device):
    torch.backends.cuda.matmul.allow_tf32 = True  # `ieee` puts it back
    mask = random_mask((2, 1, 197, 197), kind, torch.float32, device)
    check(*torch.randn(3, 2, 3, 197, 64, device=device), mask, tf32=True)


@pytest.fixture
def on_hopper(monkeypatch):
    """The engine for Hopper computes whatever it can run; a list that says for each problem whether it did."""
    hopper.plan.cache_clear()  # of plans for other numbers of multiprocessors
    taken = []

    def offered(problem):
        taken.append(hopper.can_run(problem))
        return hopper.configs(problem) if taken[-1] else pointers.in_order((64, 64, 4, 2))

    offer(monkeypatch, ENGINES, offered)
    yield taken
    hopper.plan.cache_clear()


@needs_hopper
@half
@pytest.mark.parametrize("L, S", [
    (1, 1), (1, 128), (128, 128), (200, 256), (1024, 1024), (577, 577), (64, 129), (300, 1000), (1000, 300), (70, 100),
    (1, 1100), (1100, 1),
])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("programs", [132, 16, 5])
def test_hopper_lengths(L, S, size, programs, is_causal, dtype, device, on_hopper, monkeypatch):
    """Blocks and tiles that are not full, warp groups without a query; programs of one tile, or more, even or odd."""
    monkeypatch.setattr(runtime, "num_sms", lambda: programs)
    q = torch.randn(2, 3, L, size, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, S, size, dtype=dtype, device=device)
    k *= torch.linspace(0.1, 3, S, device=device)[:, None].to(dtype)  # the largest score is in one of the last blocks
    check(q, k, v, is_causal=is_causal)
    results = [scaled_dot_product_attention(q, k, v, is_causal=is_causal) for _ in range(2)]
    assert torch.equal(*results)  # the same bits every time
    assert all(on_hopper)


@needs_hopper
@half
@pytest.mark.parametrize("E, EV", [(40, 40), (72, 72), (80, 80), (96, 96), (104, 104), (120, 40), (40, 128)])
def test_hopper_head_sizes(E, EV, is_causal, dtype, device, on_hopper):
    q, k = torch.randn(2, 2, 3, 300, E, dtype=dtype, device=device)
    check(q, k, torch.randn(2, 3, 300, EV, dtype=dtype, device=device), is_causal=is_causal)
    assert all(on_hopper)


@needs_hopper
@half
@pytest.mark.parametrize("kind", ["boolean", "additive"])
@pytest.mark.parametrize("shape", [
    (304, 400), (2, 1, 304, 400), (1, 3, 304, 400), (2, 3, 304, 400), (400,), (2, 1, 1, 400), (1, 3, 1, 400), (1, 1),
])
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("programs", [132, 5])
def test_hopper_masks(shape, size, kind, programs, dtype, device, on_hopper, monkeypatch):
    monkeypatch.setattr(runtime, "num_sms", lambda: programs)
    q = torch.randn(2, 3, 304, size, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, 400, size, dtype=dtype, device=device)
    k *= torch.linspace(0.1, 3, 400, device=device)[:, None].to(dtype)
    mask = random_mask(shape, kind, dtype, device)
    check(q, k, v, mask)
    check(q, k, v, mask, scale=-0.3)
    check(q[:, :, :1], k, v, mask[..., :1, :] if mask.ndim > 1 else mask)
    assert all(on_hopper)


@needs_hopper
@pytest.mark.parametrize("kind", ["boolean", "additive"])
@pytest.mark.parametrize("view, able", [
    (lambda t: t, True),
    (lambda t: t.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3), True),
    (lambda t: torch.cat((t, t), 2)[:, :, 48:-112], True),
    (lambda t: torch.cat((t, t), 3)[..., 16:-144], True),
    (lambda t: t[:, :1].expand(t.shape), True),
    (lambda t: t[:, :, :1].expand(t.shape), True),
    (lambda t: t[..., :1, :1].expand(t.shape), True),
    (lambda t: t[..., :1, :].repeat_interleave(2, -1)[..., ::2].expand(t.shape), True),
    (lambda t: torch.cat((t, t), 3)[..., 4:-156], False),
    (lambda t: t.mT.contiguous().mT, False),
    (lambda t: t.repeat_interleave(2, -1)[..., ::2], False),
    (lambda t: t[..., :1].expand(t.shape), False),
])
def test_hopper_strides_of_masks(view, able, kind, device, on_hopper):
    q, k, v = torch.randn(3, 2, 3, 160, 64, dtype=torch.float16, device=device)
    check(q, k, v, view(random_mask((2, 3, 160, 160), kind, torch.float16, device)))
    assert on_hopper == [able]


@needs_hopper
@half
def test_hopper_values_of_masks(dtype, device, on_hopper):
    """The tests of the other kernel, with one block of keys and with several."""
    for tokens, size in ((48, 64), (304, 128)):
        for kind in ("boolean", "additive"):
            test_query_whose_keys_are_all_masked_gives_zeros(kind, dtype, device, tokens, size)
        for value in (math.nan, math.inf):
            test_nan_and_infinity_in_a_mask(value, dtype, device, tokens, size)
        for where in "kv":
            for queries in (1, tokens):
                test_nan_in_a_key_that_is_masked_out(where, dtype, device, tokens, size, queries)
    assert all(on_hopper)
    test_mask_of_the_lowest_numbers(dtype, device, 48, 64)


@needs_hopper
@half
def test_hopper_large_batch(dtype, device, on_hopper):
    check(*torch.randn(3, 20, 12, 300, 64, dtype=dtype, device=device))
    check(*projection(9, 577, 12, 64, dtype=dtype, device=device))
    assert all(on_hopper)


@needs_hopper
@pytest.mark.parametrize("view, able", [
    (lambda t: t, True),
    (lambda t: t[:, :, 3:], True),
    (lambda t: t.permute(1, 0, 2, 3), True),
    (lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), True),
    (lambda t: t.unflatten(1, (2, 3)).transpose(0, 2).contiguous().transpose(0, 2), True),
    (lambda t: t[:, :, ::2], True),
    (lambda t: t[:, :1, :1], True),
    (lambda t: t[0, 0], True),
    (lambda t: torch.nn.functional.pad(t, (8, 8))[..., 8:-8], True),
    (lambda t: torch.nn.functional.pad(t, (8, 1))[..., 8:-1], False),
    (lambda t: torch.nn.functional.pad(t, (4, 4))[..., 4:-4], False),
    (lambda t: t.mT.contiguous().mT, False),
    (lambda t: t.repeat_interleave(2, dim=-1)[..., ::2], False),
    (lambda t: t[:, :1].expand(t.shape), False),
    (lambda t: t[:, :, :1].expand(t.shape), False),
])
def test_hopper_strides(view, able, device, on_hopper):
    tensors = torch.randn(3, 4, 6, 150, 64, dtype=torch.float16, device=device)
    check(*(view(t) for t in tensors))
    for one in range(3):
        check(*(view(t) if i == one else view(t).contiguous() for i, t in enumerate(tensors)))
    assert on_hopper == 4 * [able]


@needs_hopper
def test_what_hopper_cannot_run(device, on_hopper):
    q, k, v = torch.randn(3, 2, 3, 200, 64, dtype=torch.float16, device=device)
    check(q.float(), k.float(), v.float())
    check(q[..., :32], k[..., :32], v)
    check(q, k, v[..., :32])
    check(q, k, v[..., :60].contiguous())  # of rows that TMA cannot write
    check(*torch.randn(3, 2, 200, 136, dtype=torch.float16, device=device))
    check(q, k[:, :1], v[:, :1])
    check(q, k[:, :1], v[:, :1], enable_gqa=True)
    check(q, k, v, torch.rand(200, 200, device=device) > 0.5)  # of rows that are no multiple of 16 bytes
    check(q, k, v, torch.randn(200, 200, device=device))  # float32
    check(q, k[:, :, :0], v[:, :, :0])
    q, k, v = torch.randn(3, 2, 2, 2, 2, 50, 64, dtype=torch.float16, device=device)
    check(q.permute(3, 2, 1, 0, 4, 5), k, v)  # six dimensions
    assert len(on_hopper) == 11 and not any(on_hopper)


@needs_hopper
@half
def test_hopper_values(dtype, device, on_hopper):
    """The tests of the other kernel, with one block of keys and with several."""
    test_large_scores(dtype, device)
    for S in (64, 128, 512):
        test_equal_weights_come_out_exactly(S, dtype, device)
    for size in (64, 128):
        test_one_key_each_comes_out_exactly(size, dtype, device)
        for is_causal in (False, True):
            test_integers(size, is_causal, dtype, device)
        for tokens in (80, 128, 300):
            test_keys_without_weight(dtype, device, tokens, size)
            for scale in (0.0, 1, 0.05, -0.05):
                check(*torch.randn(3, 2, tokens, size, dtype=dtype, device=device), scale=scale)
    assert all(on_hopper)


@needs_hopper
@half
@pytest.mark.parametrize("tokens", [40, 128, 300])
@pytest.mark.parametrize("where, value", [
    ("q", math.nan), ("k", math.nan), ("v", math.nan), ("k", math.inf), ("q", math.inf), ("v", -math.inf),
])
def test_hopper_nan_and_infinity(where, value, tokens, is_causal, dtype, device, on_hopper):
    test_nan_and_infinity(where, value, is_causal, dtype, device, tokens)
    assert all(on_hopper)


@needs_hopper
def test_hopper_cuda_graph(on_hopper):
    test_cuda_graph()
    assert all(on_hopper)


@needs_hopper
@pytest.mark.usefixtures("whole_gpu")
def test_hopper_more_than_2_31_elements(on_hopper):
    test_more_than_2_31_elements_in_a_head()
    test_more_than_2_31_elements_in_all_heads()
    assert all(on_hopper)
