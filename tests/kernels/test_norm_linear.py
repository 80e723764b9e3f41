import pytest
import torch
import torch.nn.functional as F

from course.kernels import fold_norm, linear, linear_with_statistics, norm_linear, row_statistics
from course.kernels._row_statistics import PART
from tests.compare import assert_accurate, one_dtype
from tests.kernels.test_linear import ACTIVATIONS
from tests.kernels.test_matmul import normal, pointers, rounding, tf32, tma, use  # noqa: F401  a fixture
from tests.marks import needs_tma

PATHS = pytest.mark.parametrize("path", [
    "pointers", "split",
    *(pytest.param(path, marks=needs_tma) for path in ("tma", "tma at once", "tma one tile", "tma split")),
])  # fmt: skip
CONFIGS = {"pointers": pointers(), "split": pointers(3), "tma": tma(), "tma at once": tma(at_once=True),
           "tma one tile": tma(at_once=True, per_sm=100), "tma split": tma(1, True, 3)}  # fmt: skip


def check_statistics(got, x):
    """Of each part of the rows of `x` the mean and the squared deviations from it."""
    width, whole = PART.value, x.shape[-1] // PART.value
    full, rest = x.split((whole * width, x.shape[-1] - whole * width), dim=-1)
    for first, parts in ((0, full.unflatten(-1, (whole, width))), (whole, rest[..., None, :])):
        if parts.numel() == 0:
            continue
        parts, here = parts.double(), slice(first, first + parts.shape[-2])
        assert_accurate(got[..., 0, here], parts.mean(-1), terms=width, magnitude=parts.abs().mean(-1))
        exact = (parts - parts.mean(-1, keepdim=True)).square().sum(-1)
        # a mean that is off by e adds e to every deviation
        off = 4 * width * 2.0**-24 * parts.abs().amax(-1)
        assert_accurate(got[..., 1, here], exact, terms=width, magnitude=exact + width * off * parts.abs().amax(-1))


def layer(N, K, dtype):
    """A folded layer, and what it was folded from, in float64."""
    weight, bias, norm_weight, norm_bias = normal((N, K), dtype) * K**-0.5, normal(N), normal(K), normal(K)
    return fold_norm(weight, bias, norm_weight, norm_bias), [t.double() for t in (weight, bias, norm_weight, norm_bias)]


def check(x, folded, activation=None, eps=1e-5):
    got = norm_linear(x, row_statistics(x), *folded, eps, activation=activation)
    assert got.shape == (*x.shape[:-1], len(folded.weight)) and got.dtype == x.dtype and got.is_contiguous()
    check_values(got, x, folded, activation, eps)


def check_values(got, x, folded, activation=None, eps=1e-5):
    x, weight = x.double(), folded.weight.double()
    mean = x.mean(-1, keepdim=True)
    rstd = (x.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    exact = ACTIVATIONS[activation](rstd * F.linear(x - mean, weight) + folded.bias.double())
    magnitude = rstd * F.linear(x.abs() + mean.abs(), weight.abs()) + folded.bias.double().abs()
    assert_accurate(got, exact, terms=x.shape[-1] + 4, magnitude=1.13 * magnitude, input_rounding=rounding(got.dtype))


@pytest.mark.parametrize("shape", [
    (1, 1), (5, 31), (3, 32), (2, 7, 33), (197, 100), (3, 768), (2, 1025), (40,), (0, 7),
])  # fmt: skip
def test_statistics(shape, dtype, device):
    x = normal(shape, dtype)
    check_statistics(row_statistics(x), x)


def test_statistics_of_any_strides(device):
    x = normal((6, 4, 80))
    for view in (x.transpose(0, 1), x[:, :1], x[..., ::2], x.mT, x[:1].expand(3, -1, -1)):
        check_statistics(row_statistics(view), view)


def test_statistics_far_from_zero(device):
    """The mean of squares less the squared mean would leave no digit of a variance of 1 here."""
    x = normal((4, 200)) + 1e4
    check_statistics(row_statistics(x), x)


@pytest.mark.parametrize("shape, N", [
    ((1, 1), 1), ((5, 7), 3), ((197, 100), 65), ((2, 5, 64), 40), ((7,), 3), ((3, 768), 33), ((0, 7), 3), ((5, 7), 0),
])  # fmt: skip
def test_shapes(shape, N, dtype, device):
    check(normal(shape, dtype), layer(N, shape[-1], dtype)[0], "gelu")


@PATHS
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_every_path(path, activation, dtype, monkeypatch, tf32):  # noqa: F811
    used = use(monkeypatch, CONFIGS[path], pointers())
    x = normal((2, 75, 200), dtype) + 1
    check(x, layer(136, 200, dtype)[0], activation)
    assert ("SLICES" in used[0].kwargs) == path.startswith("tma")


@PATHS
@pytest.mark.parametrize("N, with_residual", [(136, True), (64, False)])
def test_statistics_of_a_layer(path, N, with_residual, dtype, monkeypatch, tf32):  # noqa: F811
    used = use(monkeypatch, CONFIGS[path], pointers())
    x, weight, bias = normal((2, 75, 200), dtype), normal((N, 200), dtype), normal(N, dtype)
    residual = normal((2, 75, N), dtype) if with_residual else None
    y, statistics = linear_with_statistics(x, weight, bias, residual=residual)
    assert torch.equal(y, linear(x, weight, bias, residual=residual))
    check_statistics(statistics, y)
    assert ("SLICES" in used[0].kwargs) == path.startswith("tma")


def test_rows_of_a_larger_tensor(dtype, device):
    """As the class tokens are, and their statistics."""
    x, (folded, _) = normal((5, 3, 40), dtype), layer(24, 40, dtype)
    every = norm_linear(x, row_statistics(x), *folded)
    torch.testing.assert_close(norm_linear(x[:, :1], row_statistics(x)[:, :1], *folded), every[:, :1])


def test_same_as_the_norm_and_the_layer(device, ieee):
    x, (folded, (weight, bias, norm_weight, norm_bias)) = normal((6, 90)) + 3, layer(50, 90, torch.float32)
    want = F.linear(F.layer_norm(x.double(), (90,), norm_weight, norm_bias), weight, bias)
    torch.testing.assert_close(norm_linear(x, row_statistics(x), *folded), want.float(), rtol=1e-4, atol=1e-4)


def test_equal_elements_leave_the_bias(dtype, device):
    """The mean is subtracted with the sums of the rounded weights."""
    x, (folded, _) = torch.full((3, 96), 7.0, dtype=dtype, device=device), layer(20, 96, dtype)
    got = norm_linear(x, row_statistics(x), *folded, 1.0)
    torch.testing.assert_close(got, folded.bias.to(dtype).expand(3, -1), rtol=2e-2, atol=1e-3)


def test_nan_stays_in_its_row(device):
    x, (folded, _) = normal((40, 64)), layer(20, 64, torch.float32)
    x[3, 7], x[9, 1] = float("nan"), float("inf")
    got = norm_linear(x, row_statistics(x), *folded)
    assert got[[3, 9]].isnan().all() and got.isnan().any(1).sum() == 2


@one_dtype
def test_opcheck(dtype, device):
    x, weight, residual = normal((2, 3, 40), dtype), normal((5, 40), dtype), normal((2, 3, 5), dtype)
    ops, folded = torch.ops.course, layer(5, 40, dtype)[0]
    torch.library.opcheck(ops.row_statistics.default, (x,))
    torch.library.opcheck(ops.linear_with_statistics.default, (x, weight, None, residual, None))
    torch.library.opcheck(ops.norm_linear.default, (x, row_statistics(x), *folded, 1e-5, "gelu", None))


def test_compiles_without_graph_breaks(device):
    x, weight, (folded, _) = normal((6, 40)), normal((40, 40)), layer(5, 40, torch.float32)

    def both(x):
        y, statistics = linear_with_statistics(x, weight, residual=x)
        return norm_linear(y, statistics, *folded)

    torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x))


def test_bad_input(device):
    x, (folded, _) = normal((3, 40)), layer(5, 40, torch.float32)
    statistics = row_statistics(x)
    with pytest.raises(ValueError, match=r"norm_linear: expected statistics \(3, 2, 2\), got \(2, 2, 2\)"):
        norm_linear(x, statistics[:2], *folded)
    with pytest.raises(ValueError, match=r"norm_linear: expected sums \(5,\), got \(4,\)"):
        norm_linear(x, statistics, folded.weight, folded.bias, folded.sums[1:])
    with pytest.raises(TypeError, match="norm_linear: expected bias in torch.float32 as x, got torch.float16"):
        norm_linear(x, statistics, folded.weight, folded.bias.half(), folded.sums)
    with pytest.raises(ValueError, match=r"norm_linear: expected x \(\.\.\., 40\) for weight \(5, 40\), got \(3, 39\)"):
        norm_linear(x[:, 1:], statistics, *folded)
    with pytest.raises(TypeError, match="norm_linear: expected statistics in torch.float32, got torch.float16"):
        norm_linear(x, statistics.half(), folded.weight, folded.bias, folded.sums.half())
    with pytest.raises(ValueError, match=r"row_statistics: expected x \(\.\.\., K\) with K of at least 1, got .*0\)"):
        row_statistics(x[:, :0])
    with pytest.raises(ValueError, match=r"linear_with_statistics: expected residual \(3, 5\), got \(3, 40\)"):
        linear_with_statistics(x, folded.weight, residual=x)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 197, 1576, 12608])
def test_layers_of_a_transformer(rows, dtype, ieee):
    x = normal((rows, 768), dtype)
    for N, activation in ((2304, None), (3072, "gelu")):
        check(x, layer(N, 768, dtype)[0], activation)
    for K in (768, 3072):
        y, statistics = linear_with_statistics(normal((rows, K), dtype), normal((768, K), dtype), residual=x)
        check_statistics(statistics, y)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2**25 + 5, 64), (2**30 + 5, 1)])  # the second has as many statistics
@pytest.mark.usefixtures("whole_gpu")
def test_statistics_of_more_than_2_31_elements(shape):
    x = torch.empty(shape, dtype=torch.float16, device="cuda").normal_()
    statistics = row_statistics(x)
    for part in (slice(300), slice(-300, None)):
        check_statistics(statistics[part], x[part])


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.empty(2**25 + 5, 64, dtype=torch.float16, device="cuda").normal_()
    folded, _ = layer(96, 64, x.dtype)
    got = norm_linear(x, row_statistics(x), *folded)
    for part in (slice(300), slice(-300, None)):
        check_values(got[part], x[part], folded)
