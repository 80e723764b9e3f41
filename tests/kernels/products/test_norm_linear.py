import pytest
import torch
import torch.nn.functional as F

from course.kernels import fold_norm, linear, linear_with_statistics, norm_linear, row_statistics
from tests.compare import assert_accurate, one_dtype
from tests.kernels.products.test_linear import ACTIVATIONS
from tests.kernels.products.test_matmul import (
    by_pointers, by_tma, normal, rounding, tf32, use,  # noqa: F401  a fixture
)
from tests.kernels.products.test_row_statistics import EQUAL, check_statistics
from tests.marks import needs_tma

PATHS = pytest.mark.parametrize("path", [
    "pointers", "split",
    *(pytest.param(path, marks=needs_tma) for path in ("tma", "tma at once", "tma one tile", "tma split")),
])
CONFIGS = {"pointers": by_pointers(), "split": by_pointers(3), "tma": by_tma(), "tma at once": by_tma(at_once=True),
           "tma one tile": by_tma(at_once=True, per_sm=100), "tma split": by_tma(1, True, 3)}


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


@pytest.mark.parametrize("shape, N", [
    ((1, 1), 1), ((5, 7), 3), ((197, 100), 65), ((2, 5, 64), 40), ((7,), 3), ((3, 768), 33), ((0, 7), 3), ((5, 7), 0),
])
def test_shapes(shape, N, dtype, device):
    check(normal(shape, dtype), layer(N, shape[-1], dtype)[0], "gelu")


@PATHS
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_every_path(path, activation, dtype, monkeypatch, tf32):  # noqa: F811
    used = use(monkeypatch, CONFIGS[path], by_pointers())
    x = normal((2, 75, 200), dtype) + 1
    check(x, layer(136, 200, dtype)[0], activation)
    assert (used[0].engine == "tma") == path.startswith("tma")


@PATHS
@pytest.mark.parametrize("N, with_residual", [(136, True), (64, False)])
def test_statistics_of_a_layer(path, N, with_residual, dtype, monkeypatch, tf32):  # noqa: F811
    used = use(monkeypatch, CONFIGS[path], by_pointers())
    x, weight, bias = normal((2, 75, 200), dtype), normal((N, 200), dtype), normal(N, dtype)
    residual = normal((2, 75, N), dtype) if with_residual else None
    y, statistics = linear_with_statistics(x, weight, bias, residual=residual)
    assert torch.equal(y, linear(x, weight, bias, residual=residual))
    check_statistics(statistics, y)
    assert (used[0].engine == "tma") == path.startswith("tma")


def test_rows_of_a_larger_tensor(dtype, device):
    """As the class tokens are, and their statistics."""
    x, (folded, _) = normal((5, 3, 40), dtype), layer(24, 40, dtype)
    every = norm_linear(x, row_statistics(x), *folded)
    torch.testing.assert_close(norm_linear(x[:, :1], row_statistics(x)[:, :1], *folded), every[:, :1])


def test_same_as_the_norm_and_the_layer(device, ieee):
    x, (folded, (weight, bias, norm_weight, norm_bias)) = normal((6, 90)) + 3, layer(50, 90, torch.float32)
    want = F.linear(F.layer_norm(x.double(), (90,), norm_weight, norm_bias), weight, bias)
    torch.testing.assert_close(norm_linear(x, row_statistics(x), *folded), want.float(), rtol=1e-4, atol=1e-4)


@PATHS
@pytest.mark.parametrize("K", [9, 96, 200, 768])
def test_rows_of_equal_numbers_leave_the_bias(path, K, dtype, monkeypatch, tf32):  # noqa: F811
    """Exactly, though the mean is subtracted from rounded sums: the norm of such a row is 0, and so is their factor."""
    use(monkeypatch, CONFIGS[path], by_pointers())
    folded, _ = layer(136, K, dtype)
    x = torch.tensor(EQUAL, dtype=dtype, device=folded.weight.device)[:, None].expand(-1, K)
    for eps in (1e-5, 1e-12):
        got = norm_linear(x, row_statistics(x), *folded, eps)
        assert torch.equal(got, folded.bias.expand(len(EQUAL), -1))
    assert norm_linear(x, row_statistics(x), *folded, 0.0).isnan().all()  # 0 / 0, as PyTorch's layer_norm


@PATHS
def test_a_layer_whose_rows_are_equal_numbers(path, dtype, monkeypatch, tf32):  # noqa: F811
    use(monkeypatch, CONFIGS[path], by_pointers())
    x, bias = normal((len(EQUAL), 64), dtype).zero_(), torch.zeros(200, dtype=dtype, device=normal(1).device)
    residual = torch.tensor(EQUAL, dtype=dtype, device=x.device)[:, None].expand(-1, 200)
    y, statistics = linear_with_statistics(x, normal((200, 64), dtype), bias, residual=residual)
    assert torch.equal(y, residual)
    folded, _ = layer(24, 200, dtype)
    assert torch.equal(norm_linear(y, statistics, *folded, 1e-12), folded.bias.expand(len(EQUAL), -1))


def test_nan_stays_in_its_row(device):
    x, (folded, _) = normal((40, 64)), layer(20, 64, torch.float32)
    x[3, 7], x[9, 1] = float("nan"), float("inf")
    got = norm_linear(x, row_statistics(x), *folded)
    assert got[[3, 9]].isnan().all() and got.isnan().any(1).sum() == 2


@one_dtype
def test_opcheck(dtype, device):
    x, weight, residual = normal((2, 3, 40), dtype), normal((5, 40), dtype), normal((2, 3, 5), dtype)
    ops, folded = torch.ops.course, layer(5, 40, dtype)[0]
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
    with pytest.raises(TypeError, match="norm_linear: expected bias in torch.float32 as input, got torch.float16"):
        norm_linear(x, statistics, folded.weight, folded.bias.half(), folded.sums)
    with pytest.raises(ValueError, match=r"norm_linear: expected input \(\.\.\., 40\) for weight .*, got \(3, 39\)"):
        norm_linear(x[:, 1:], statistics, *folded)
    with pytest.raises(TypeError, match="norm_linear: expected statistics in torch.float32, got torch.float16"):
        norm_linear(x, statistics.half(), folded.weight, folded.bias, folded.sums.half())
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
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.empty(2**25 + 5, 64, dtype=torch.float16, device="cuda").normal_()
    folded, _ = layer(96, 64, x.dtype)
    got = norm_linear(x, row_statistics(x), *folded)
    for part in (slice(300), slice(-300, None)):
        check_values(got[part], x[part], folded)
