import math

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from course import runtime
from course.kernels import linear
from course.kernels.products import hopper
from course.kernels.products.hopper import REGISTERS, TILE_ROWS
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.products.test_matmul import (
    by_hopper, by_pointers, by_tma, normal, rounding, tf32, use,  # noqa: F401  a fixture
)
from tests.marks import needs_hopper, needs_tma

ACTIVATIONS = {None: lambda y: y, "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda y: F.gelu(y, approximate="tanh")}


def check(x, weight, bias=None, activation=None, residual=None):
    got = linear(x, weight, bias, activation=activation, residual=residual)
    assert_like_pytorch(got, F.linear(x, weight, bias))
    bias64 = None if bias is None else bias.double()
    exact = ACTIVATIONS[activation](F.linear(x.double(), weight.double(), bias64))
    magnitude = F.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias64.abs())
    if residual is not None:
        exact, magnitude = exact + residual.double(), magnitude + residual.double().abs()
    # no activation is steeper than 1.13
    assert_accurate(got, exact, terms=x.shape[-1] + 2, magnitude=1.13 * magnitude, input_rounding=rounding(x.dtype))


@pytest.mark.parametrize("x_shape, N", [
    ((1, 1), 1), ((5, 7), 3), ((197, 100), 65), ((1, 300), 10), ((7,), 3), ((2, 5, 7), 3), ((2, 3, 1, 7), 4),
    ((0, 7), 3), ((2, 0, 7), 3), ((5, 7), 0),
])
def test_shapes(x_shape, N, dtype, device):
    x, weight, bias = normal(x_shape, dtype), normal((N, x_shape[-1]), dtype), normal(N, dtype)
    check(x, weight)
    check(x, weight, bias, "gelu", normal((*x_shape[:-1], N), dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogues(activation, dtype, device):
    x, weight, bias, residual = (normal(shape, dtype) for shape in ((2, 33, 50), (40, 50), 40, (2, 33, 40)))
    for b in (None, bias):
        for r in (None, residual):
            check(x, weight, b, activation, r)


def test_gelu_of_every_float16_number(device):
    """Fused into a half-precision layer it is a shorter polynomial, a little less exact."""
    x = torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(torch.float16)[:, None]
    x64 = x.double()
    exact = 0.5 * x64 * (1 + torch.erf(x64 * math.sqrt(0.5)))
    got = linear(x, torch.ones(1, 1, dtype=x.dtype, device=device), activation="gelu")
    assert_accurate(got, exact, magnitude=x64.abs().nan_to_num(0, 0, 0), slack=30)


@pytest.mark.parametrize("path", ["pointers", "split", pytest.param("tma", marks=needs_tma)])
def test_prefetching_changes_nothing(path, dtype, monkeypatch):
    use(monkeypatch, {"pointers": by_pointers(), "split": by_pointers(3), "tma": by_tma()}[path], by_pointers())
    x, weight, following = normal((75, 200), dtype), normal((136, 200), dtype), normal((3, 77), dtype)
    kept = following.clone()
    assert torch.equal(linear(x, weight, prefetch=following), linear(x, weight))
    assert torch.equal(following, kept)


def test_no_terms(dtype, device):
    """Over no inputs the sum is zero: what remains is the bias."""
    bias, residual = normal(5, dtype), normal((3, 5), dtype)
    check(normal((3, 0), dtype), normal((5, 0), dtype), bias, "relu", residual)


VIEWS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: F.pad(t, (3, 2))[..., 3:-2],
    "batch and rows swapped": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "one matrix, repeated": lambda t: t[:1].expand(t.shape),
    "one column, repeated": lambda t: t[..., :1].expand(t.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_strides(view, dtype, device):
    x, weight, residual = normal((3, 20, 50), dtype), normal((1, 40, 50), dtype), normal((3, 20, 40), dtype)
    bias = normal(80, dtype)[::2]
    check(view(x), weight[0], bias)
    check(x, view(weight)[0], bias)
    check(x, weight[0], bias, residual=view(residual))
    check(view(x), weight[0], bias, "gelu", view(residual))


def test_residual_is_the_input(device):
    x = normal((6, 16))
    check(x, normal((16, 16)), residual=x)


@pytest.mark.parametrize("activation, with_residual", [(None, True), ("gelu", False), ("gelu_tanh", True)])
@pytest.mark.parametrize("path", [
    "pointers", "split",
    *(pytest.param(path, marks=needs_tma) for path in ("tma", "tma at once", "tma one tile", "tma split")),
    *(pytest.param(path, marks=needs_hopper) for path in ("hopper", "hopper, 2 warp groups")),
])
def test_every_path(path, activation, with_residual, dtype, monkeypatch, tf32):  # noqa: F811
    slices = 4 if with_residual else 1
    configs = {"pointers": by_pointers(), "split": by_pointers(3), "tma": by_tma(slices),
               "tma at once": by_tma(slices, True), "tma one tile": by_tma(slices, True, per_sm=100),
               "tma split": by_tma(slices, True, 3), "hopper": by_hopper(), "hopper, 2 warp groups": by_hopper(2)}
    used = use(monkeypatch, configs[path], by_pointers())
    x, weight, bias = normal((2, 75, 200), dtype), normal((136, 200), dtype), normal(136, dtype)
    residual = normal((2, 75, 136), dtype) if with_residual else None
    check(x, weight, bias, activation, residual)
    assert (used[0].engine == "tma") == path.startswith("tma")
    assert (used[0].engine == "hopper") == (path.startswith("hopper") and dtype != torch.float32)


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("activation, warp_groups", [*((a, 3) for a in ACTIVATIONS), (None, 2), ("gelu", 2)])
def test_many_tiles_on_hopper(activation, warp_groups, dtype, monkeypatch):
    """Several tiles for each program: a tile's residual takes the place of what is being stored of the one before."""
    used = use(monkeypatch, by_hopper(warp_groups))
    x, weight, bias = normal((7000, 200), dtype), normal((1032, 200), dtype), normal(1032, dtype)
    residual, following = normal((7000, 1032), dtype), normal((300, 65), dtype)
    check(x, weight, bias, activation, residual)
    check(x, weight, bias, activation)
    check(x, weight, None, activation, residual)
    check(x, weight, bias[:1].expand(1032))
    assert torch.equal(linear(x, weight, prefetch=following), linear(x, weight))
    assert all(config.engine == "hopper" for config in used)


@needs_hopper
@pytest.mark.parametrize("warp_groups", REGISTERS)
@pytest.mark.parametrize("rows", TILE_ROWS, ids=str)
def test_each_size_of_tile_on_hopper(rows, warp_groups, monkeypatch):
    """A few programs, each with many tiles, and many steps of each: every place in shared memory is used again."""
    used = use(monkeypatch, by_hopper(warp_groups))
    monkeypatch.setattr(hopper, "rows_of_a_tile", lambda *sizes: rows)
    monkeypatch.setattr(runtime, "num_sms", lambda: 5)
    sizes = (1000, 1160), (1096, 1160), (1096,), (1000, 1096)
    x, weight, bias, residual = (normal(size, torch.bfloat16) for size in sizes)
    check(x, weight, bias)
    check(x, weight, bias, "relu", residual)
    assert all(config.engine == "hopper" for config in used)


@needs_tma
def test_residual_that_tma_cannot_read(monkeypatch, dtype):
    used = use(monkeypatch, by_tma(), by_pointers())
    check(normal((64, 32), dtype), normal((64, 32), dtype), residual=normal((64, 64), dtype).T)
    check(normal((64, 32), dtype), normal((64, 32), dtype), residual=normal((64, 65), dtype)[:, 1:])
    assert not any(config.engine == "tma" for config in used)


def test_nan_and_infinity(device):
    x, weight, residual = normal((40, 30)), normal((20, 30)), normal((40, 20))
    x[3, 7], x[5, 29], weight[2, 4], residual[1, 1] = float("nan"), float("inf"), -float("inf"), float("nan")
    for activation in ACTIVATIONS:
        check(x, weight, None, activation, residual)


@hypothesis.given(
    lead=st.lists(st.integers(0, 5), max_size=3), N=st.integers(0, 40), K=st.integers(0, 40),
    activation=st.sampled_from(list(ACTIVATIONS)), with_bias=st.booleans(), with_residual=st.booleans(),
)
def test_any_shapes(lead, N, K, activation, with_bias, with_residual):
    residual = normal((*lead, N)) if with_residual else None
    check(normal((*lead, K)), normal((N, K)), normal(N) if with_bias else None, activation, residual)


@one_dtype
def test_opcheck(dtype, device):
    x, weight, bias, residual = (normal(shape, dtype) for shape in ((2, 3, 4), (5, 4), 5, (2, 3, 5)))
    torch.library.opcheck(torch.ops.course.linear.default, (x, weight, None, None, None))
    torch.library.opcheck(torch.ops.course.linear.default, (x.mT.contiguous().mT, weight, bias, residual, "gelu"))


def test_compiles_without_graph_breaks(device):
    x, weight, bias, residual = normal((2, 3, 4)), normal((5, 4)), normal(5), normal((2, 3, 5))
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    got = compiled(x, weight, bias, activation="relu", residual=residual)
    torch.testing.assert_close(got, linear(x, weight, bias, activation="relu", residual=residual))


def test_bad_input(device):
    x, weight, bias = normal((3, 4)), normal((5, 4)), normal(5)
    with pytest.raises(ValueError, match=r"linear: expected input \(\.\.\., 4\) for weight \(5, 4\), got \(3, 5\)"):
        linear(normal((3, 5)), weight)
    with pytest.raises(ValueError, match=r"linear: expected input \(\.\.\., 4\) .* got \(\)"):
        linear(x[0, 0], weight)
    with pytest.raises(ValueError, match=r"linear: expected weight \(N, K\), got \(4,\)"):
        linear(x, weight[0])
    with pytest.raises(ValueError, match=r"linear: expected bias \(5,\), got \(4,\)"):
        linear(x, weight, bias[1:])
    with pytest.raises(ValueError, match=r"linear: expected residual \(3, 5\), got \(5,\)"):
        linear(x, weight, residual=bias)
    with pytest.raises(ValueError, match=r"linear: expected activation to be one of \[None, 'relu', .*\], got 'swish'"):
        linear(x, weight, activation="swish")
    with pytest.raises(ValueError, match=r"linear: expected prefetch to be contiguous, got strides \(1, 4\)"):
        linear(x, weight, prefetch=weight.T)
    with pytest.raises(TypeError, match="linear: expected bias in torch.float32 as input, got torch.float16"):
        linear(x, weight, bias.half())
    with pytest.raises(TypeError, match="linear: expected input in float32, float16 or bfloat16, got torch.int64"):
        linear(x.long(), weight.long())
    with pytest.raises(ValueError, match="linear: expected residual on .*, got meta"):
        linear(x, weight, residual=normal((3, 5)).to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="linear: weight requires a gradient"):
        linear(x, weight.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"linear: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        linear(torch.randn(3, 4), torch.randn(5, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 197, 1576, 12608])
def test_layers_of_a_transformer(rows, dtype, ieee):
    for N, K, activation, with_residual in (
        (2304, 768, None, False), (768, 768, None, True), (3072, 768, "gelu", False), (768, 3072, None, True),
    ):
        residual = normal((rows, N), dtype) if with_residual else None
        check(normal((rows, K), dtype), normal((N, K), dtype), normal(N, dtype), activation, residual)


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x, weight, bias = (normal(shape, torch.float16) for shape in ((40_000, 64), (60_000, 64), 60_000))
    residual = normal(60_000, torch.float16).expand(40_000, -1)
    got = linear(x, weight, bias, activation="relu", residual=residual)[-300:, -300:]
    want = linear(x[-300:], weight[-300:], bias[-300:], activation="relu", residual=residual[-300:, -300:])
    torch.testing.assert_close(got, want)
