import importlib
import math

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from course import runtime
from course.kernels._attention_configs import SPECIALISED, config
from course.kernels.scaled_dot_product_attention import scaled_dot_product_attention
from tests.compare import TF32, UNIT, assert_accurate, assert_like_pytorch, one_dtype
from tests.marks import needs_hopper

pytestmark = pytest.mark.usefixtures("ieee")

MODULE = importlib.import_module("course.kernels.scaled_dot_product_attention")
half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


def exact(q, k, v, is_causal=False, scale=None):
    """In float64: the result, the mean of |v| under the same weights, and the largest sum of |q * k| in a score."""
    q, k, v = (t.double() for t in (q, k, v))
    scale = max(q.shape[-1], 1) ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
    weights = scores.softmax(-1)
    weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)  # nothing to attend to
    sums = (q.abs() @ k.abs().mT * abs(scale)).flatten()
    return weights @ v, weights @ v.abs(), max(sums[sums.isfinite()].tolist(), default=0.0)


def check(q, k, v, is_causal=False, scale=None, tf32=False):
    got = scaled_dot_product_attention(q, k, v, is_causal, scale)
    assert got.dtype == q.dtype and got.device == q.device
    want, magnitude, largest = exact(q, k, v, is_causal, scale)
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
    check(q, k, v, is_causal)


@pytest.mark.parametrize("block_m, block_n", [(16, 16), (32, 16), (16, 64), (64, 64)])
def test_many_blocks(block_m, block_n, is_causal, device, monkeypatch):
    """Several blocks of keys, which the interpreter's large blocks would hold in one."""
    monkeypatch.setattr(MODULE, "attention_configs", lambda *_: [config(block_m, block_n, 4, 2)])
    for L, S in ((77, 130), (150, 83)):
        q, k, v = (torch.randn(n, 16, dtype=torch.float16, device=device) for n in (L, S, S))
        k *= torch.linspace(0.1, 3, S, device=device)[:, None]  # the largest score is in one of the last blocks
        check(q, k, v, is_causal)


@pytest.mark.parametrize("E, EV", [(8, 8), (1, 3), (24, 24), (80, 80), (96, 40), (16, 200), (256, 256)])
def test_head_sizes(E, EV, dtype, device):
    q, k = torch.randn(2, 2, 70, E, dtype=dtype, device=device)
    v = torch.randn(2, 70, EV, dtype=dtype, device=device)
    check(q, k, v, is_causal=E == 24)


@pytest.mark.parametrize("q_lead, k_lead, v_lead", [
    ((), (), ()), ((3,), (3,), (3,)), ((2, 3, 4), (2, 3, 4), (2, 3, 4)), ((2, 3), (1, 3), (2, 1)), ((3,), (), (2, 1)),
    ((1, 1), (1, 1), (1, 1)), ((2, 1, 3, 1), (1, 2, 1, 2), (3, 2)),
])  # fmt: skip
def test_leading_dimensions(q_lead, k_lead, v_lead, device):
    q, k, v = (torch.randn(*lead, n, 16, device=device) for lead, n in zip((q_lead, k_lead, v_lead), (20, 9, 9)))
    check(q, k, v)


@pytest.mark.parametrize("L, S", [(129, 20), (20, 129), (129, 0)])
def test_many_heads_of_unequal_lengths(L, S, is_causal, device):
    """As many at once as a tile holds, of which the larger length decides."""
    q, k, v = (torch.randn(2, 9, n, 8, device=device) for n in (L, S, S))
    check(q, k, v, is_causal)


@pytest.mark.parametrize("shapes", [
    ((2, 3, 0, 8), (2, 3, 5, 8), (2, 3, 5, 8)), ((0, 3, 4, 8), (0, 3, 5, 8), (0, 3, 5, 8)),
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 0)), ((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8)),
    ((2, 3, 4, 0), (2, 3, 5, 0), (2, 3, 5, 8)), ((4, 8), (0, 8), (0, 6)), ((2, 3, 0, 8), (2, 3, 0, 8), (2, 3, 0, 8)),
])  # fmt: skip
def test_empty(shapes, is_causal, dtype, device):
    q, k, v = (torch.randn(shape, dtype=dtype, device=device) for shape in shapes)
    check(q, k, v, is_causal)


@pytest.mark.parametrize("view", [
    lambda t: t.mT.contiguous().mT, lambda t: t[..., ::2], lambda t: t[:, :, 3:], lambda t: t[:, :, ::2],
    lambda t: t[:, :1].expand(t.shape), lambda t: t[:, :, :1].expand(t.shape), lambda t: t.flip(-1)[:, 1:],
    lambda t: t.permute(1, 0, 2, 3), lambda t: t.to(memory_format=torch.channels_last),
])  # fmt: skip
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
])  # fmt: skip
def test_layout(make, device):
    """Backends differ where the heads are not the second of four dimensions; here all of them follow q."""
    q, k, v = make(dtype=torch.float16, device=device)
    got = scaled_dot_product_attention(q, k, v)
    assert_like_pytorch(got.cpu(), F.scaled_dot_product_attention(q.cpu(), k.cpu(), v.cpu()))
    check(q, k, v)


def test_heads_go_back_without_a_copy(device):
    out = scaled_dot_product_attention(*projection(2, 10, 4, 8, device=device))
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


@pytest.mark.parametrize("scale", [0.0, 1, 0.3, -0.5])
def test_scale(scale, is_causal, dtype, device):
    check(*torch.randn(3, 2, 50, 16, dtype=dtype, device=device), is_causal, scale)


def test_large_scores(dtype, device):
    check(*(8 * torch.randn(3, 2, 100, 64, device=device)).to(dtype).unbind())


@pytest.mark.parametrize("where, value", [
    ("q", math.nan), ("k", math.nan), ("v", math.nan), ("k", math.inf), ("q", math.inf), ("v", -math.inf),
])  # fmt: skip
def test_nan_and_infinity(where, value, is_causal, dtype, device, tokens=40):
    tensors = dict(zip("qkv", torch.randn(3, 2, 3, tokens, 64, dtype=dtype, device=device)))
    tensors[where][1, 2, 20, 5] = value
    q, k, v = tensors.values()
    got = scaled_dot_product_attention(q, k, v, is_causal)
    want = F.scaled_dot_product_attention(q.cpu().double(), k.cpu().double(), v.cpu().double(), is_causal=is_causal)
    if is_causal and where != "q":  # PyTorch's own backends differ on whether a masked NaN or infinity counts
        got, want = got[..., 20:, :], want[..., 20:, :]
    if where == "q" and not want.isnan().any():
        want[1, 2, 20] = math.nan  # PyTorch's kernel for the CPU drops a NaN that its math backend keeps
    assert torch.equal(got.cpu().isnan(), want.isnan())
    finite = want.isfinite()
    torch.testing.assert_close(got.cpu().double()[finite], want[finite], rtol=0.05, atol=0.05)
    assert torch.equal(got.cpu().double()[want.isinf()], want[want.isinf()])


def test_keys_that_nobody_sees(dtype, device, tokens=80):
    q, k, v = torch.randn(3, 2, tokens, 64, dtype=dtype, device=device)
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
    got = scaled_dot_product_attention(q, k, v, is_causal, scale=math.log(2))
    want, magnitude, _ = exact(q, k, v, is_causal, scale=math.log(2))
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

    check(operand(*lead, L, E), operand(*lead, S, E), operand(*lead, S, EV), data.draw(st.booleans(), label="causal"))


@one_dtype
def test_opcheck(is_causal, dtype, device):
    q, k, v = projection(2, 7, 3, 8, dtype=dtype, device=device)
    torch.library.opcheck(torch.ops.course.scaled_dot_product_attention.default, (q, k, v, is_causal, None))
    torch.library.opcheck(torch.ops.course.scaled_dot_product_attention.default, (q[0], k, v[..., :5], is_causal, 0.5))


def test_compiles_without_graph_breaks(device):
    def block(qkv):
        q, k, v = qkv.unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    qkv = torch.randn(2, 7, 48, device=device)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(qkv), block(qkv))


def test_bad_input(device):
    q, k, v = torch.randn(3, 2, 5, 8, device=device)
    name = "scaled_dot_product_attention: expected"
    came = r"got q \(2, 5, 8\), k \(2, 5, 7\), v \(2, 5, 8\)"
    with pytest.raises(ValueError, match=rf"{name} q \(..., L, E\), k \(..., S, E\) and v \(..., S, Ev\), {came}"):
        scaled_dot_product_attention(q, k[..., 1:], v)
    with pytest.raises(ValueError, match=rf"{name} q .*, k .* and v .*, got .* v \(2, 4, 8\)"):
        scaled_dot_product_attention(q, k, v[:, 1:])
    with pytest.raises(ValueError, match=rf"{name} q .*, k .* and v .*, got q \(8,\)"):
        scaled_dot_product_attention(q[0, 0], k, v)
    with pytest.raises(ValueError, match=f"{name} leading dimensions that broadcast, got"):
        scaled_dot_product_attention(q, k.repeat(2, 1, 1)[:3], v)
    with pytest.raises(ValueError, match=f"{name} head sizes of at most 256, got"):
        scaled_dot_product_attention(q, k, v.repeat(1, 1, 33))
    with pytest.raises(TypeError, match=f"{name} k in torch.float32 as q, got torch.float16"):
        scaled_dot_product_attention(q, k.half(), v)
    with pytest.raises(TypeError, match=f"{name} q in float32, float16 or bfloat16, got torch.int64"):
        scaled_dot_product_attention(q.long(), k.long(), v.long())
    with pytest.raises(TypeError, match=f"{name} is_causal to be True or False, got Tensor"):
        scaled_dot_product_attention(q, k, v, torch.ones(5, 5, device=device))
    with pytest.raises(ValueError, match=f"{name} v on .*, got meta"):
        scaled_dot_product_attention(q, k, v.to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="scaled_dot_product_attention: v requires a gradient"):
        scaled_dot_product_attention(q, k, v.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"scaled_dot_product_attention: expected q on a GPU, got cpu: move it with"):
        scaled_dot_product_attention(*torch.randn(3, 2, 5, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [64, 80])
def test_tf32(size, is_causal, device):
    torch.backends.cuda.matmul.allow_tf32 = True  # `ieee` puts it back
    check(*torch.randn(3, 2, 3, 197, size, device=device), is_causal, tf32=True)


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


@pytest.fixture
def specialised(monkeypatch):
    """From here on the specialised kernel is taken wherever it can be; a list that says for each call whether."""
    taken = []

    def offered(heads, L, S, block_e, dtype, is_causal, able):
        taken.append(able)
        return [SPECIALISED if able else config(64, 64, 4, 2)]

    monkeypatch.setattr(MODULE, "attention_configs", offered)
    return taken


@needs_hopper
@half
@pytest.mark.parametrize("L, S", [
    (1, 1), (1, 128), (128, 128), (200, 256), (1024, 1024), (577, 577), (64, 129), (300, 1000), (70, 100), (1, 1100),
])  # fmt: skip
@pytest.mark.parametrize("programs", [132, 5])
def test_specialised_lengths(L, S, programs, dtype, device, specialised, monkeypatch):
    """Blocks and tiles that are not full, groups without a query; a program has one tile or several, even or odd."""
    monkeypatch.setattr(runtime, "num_sms", lambda: programs)
    q = torch.randn(2, 3, L, 64, dtype=dtype, device=device)
    k, v = torch.randn(2, 2, 3, S, 64, dtype=dtype, device=device)
    k *= torch.linspace(0.1, 3, S, device=device)[:, None].to(dtype)  # the largest score is in one of the last blocks
    check(q, k, v)
    assert torch.equal(*(scaled_dot_product_attention(q, k, v) for _ in range(2)))  # the same bits every time
    assert all(specialised)


@needs_hopper
@half
def test_specialised_large_batch(dtype, device, specialised):
    check(*torch.randn(3, 20, 12, 300, 64, dtype=dtype, device=device))
    check(*projection(9, 577, 12, 64, dtype=dtype, device=device))
    assert all(specialised)


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
])  # fmt: skip
def test_specialised_strides(view, able, device, specialised):
    tensors = torch.randn(3, 4, 6, 150, 64, dtype=torch.float16, device=device)
    check(*(view(t) for t in tensors))
    for one in range(3):
        check(*(view(t) if i == one else view(t).contiguous() for i, t in enumerate(tensors)))
    assert specialised == 4 * [able]


@needs_hopper
def test_what_the_specialised_kernel_leaves(device, specialised):
    q, k, v = torch.randn(3, 2, 3, 200, 64, dtype=torch.float16, device=device)
    check(q, k, v, is_causal=True)
    check(q.float(), k.float(), v.float())
    check(q[..., :32], k[..., :32], v)
    check(q, k, v[..., :32])
    check(q, k[:, :1], v[:, :1])
    check(q, k[:, :, :0], v[:, :, :0])
    q, k, v = torch.randn(3, 2, 2, 2, 2, 50, 64, dtype=torch.float16, device=device)
    check(q.permute(3, 2, 1, 0, 4, 5), k, v)  # six dimensions
    assert len(specialised) == 7 and not any(specialised)


@needs_hopper
@half
def test_specialised_values(dtype, device, specialised):
    """What is asked of the other kernel: one block of keys and several."""
    test_large_scores(dtype, device)
    test_one_key_each_comes_out_exactly(64, dtype, device)
    test_integers(64, False, dtype, device)
    for S in (64, 128, 512):
        test_equal_weights_come_out_exactly(S, dtype, device)
    for tokens in (80, 128, 300):
        test_keys_that_nobody_sees(dtype, device, tokens)
        for scale in (0.0, 1, 0.05, -0.05):
            check(*torch.randn(3, 2, tokens, 64, dtype=dtype, device=device), scale=scale)
    assert all(specialised)


@needs_hopper
@half
@pytest.mark.parametrize("tokens", [40, 128, 300])
@pytest.mark.parametrize("where, value", [
    ("q", math.nan), ("k", math.nan), ("v", math.nan), ("k", math.inf), ("q", math.inf), ("v", -math.inf),
])  # fmt: skip
def test_specialised_nan_and_infinity(where, value, tokens, dtype, device, specialised):
    test_nan_and_infinity(where, value, False, dtype, device, tokens)
    assert all(specialised)


@needs_hopper
def test_specialised_cuda_graph(specialised):
    test_cuda_graph()
    assert all(specialised)


@needs_hopper
@pytest.mark.usefixtures("whole_gpu")
def test_specialised_more_than_2_31_elements(specialised):
    test_more_than_2_31_elements_in_a_head()
    test_more_than_2_31_elements_in_all_heads()
    assert all(specialised)
