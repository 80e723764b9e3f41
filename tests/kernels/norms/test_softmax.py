import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import softmax
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.views import each_view, strided


def check(x, dim=-1):
    got = softmax(x, dim)
    assert_like_pytorch(got, torch.softmax(x, dim))
    compare(got, x, dim)


def compare(got, x, dim):
    """Rounding x - m moves exp(x - m) by |x - m| units of it; the rest of the sum, made in pairs, by a few."""
    if x.numel():
        below = x.double().amax(dim, keepdim=True) - x.double()
        exact = torch.softmax(x.double(), dim)
        assert_accurate(got, exact, magnitude=(exact * (16 + below)).nan_to_num(0, 0, 0))


@pytest.mark.parametrize("cols", [1, 2, 10, 197, 1000, 1024, 1025, 5000])
def test_row_lengths(cols, dtype, device):
    check(torch.randn(37, cols, dtype=dtype, device=device))


@pytest.mark.parametrize("shape, dim", [
    ((3, 32_768), 1), ((3, 32_769), 1), ((3, 65_536), 1), ((3, 65_537), 1), ((40_000, 3), 0), ((2, 2500, 33), 1),
    ((150_000,), 0),
])
def test_rows_longer_than_a_block(shape, dim, dtype, device):
    check(3 * torch.randn(shape, dtype=dtype, device=device), dim)


@pytest.mark.parametrize("shape, dim", [
    ((), -1), ((1,), 0), ((1, 1, 1), 1), ((5, 0), 1), ((0, 5), 1), ((5, 0), 0), ((2, 0, 3), 0),
    ((2, 3, 4, 5), 0), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), -2), ((2, 3, 4, 5), 3), ((1000, 7), 0), ((4, 64, 16, 16), 1),
])
def test_any_dimension(shape, dim, dtype, device):
    check(torch.randn(shape, dtype=dtype, device=device), dim)


@pytest.mark.parametrize("dim", [1, -1])
@each_view
def test_strides(view, dim, device):
    check(view(torch.randn(4, 6, 5, 16, device=device)), dim)


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t.to(memory_format=torch.channels_last), lambda t: t.mT])
def test_strides_in_any_dtype(view, dtype, device):
    check(view(torch.randn(2, 32, 16, 24, dtype=dtype, device=device)), 1)


@pytest.mark.parametrize("cols", [9, 40_001])
def test_nan_and_infinity(cols, dtype, device):
    x = torch.randn(9, cols, dtype=dtype, device=device)
    inf = float("inf")
    x[1, -1] = float("nan")
    x[2, 3] = inf
    x[3, 0] = x[3, 4] = inf
    x[4] = -inf
    x[5, :-1] = -inf
    x[6, :5] = -inf
    x[7, :] = torch.finfo(dtype).min
    x[8, ::2] = torch.finfo(dtype).max
    check(x)
    check(x.T, 0)


def test_a_wide_range(dtype, device):
    x = torch.linspace(-40, 40, 2000, device=device).to(dtype) + torch.zeros(3, 1, dtype=dtype, device=device)
    check(x + 1000)
    check(x - 1000)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    x = data.draw(strided(device))
    check(x, data.draw(st.integers(-x.ndim, x.ndim - 1)))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(3, 4, 5, dtype=dtype, device=device)
    torch.library.opcheck(torch.ops.course.softmax.default, (x, 2))
    torch.library.opcheck(torch.ops.course.softmax.default, (x.mT, 1))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(3, 4, device=device)
    compiled = torch.compile(softmax, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), torch.softmax(x, -1))
    torch.testing.assert_close(compiled(x, dim=0), torch.softmax(x, 0))


def test_bad_input(device):
    x = torch.randn(3, 4, device=device)
    with pytest.raises(ValueError, match="softmax: expected dim between -2 and 1, got 2"):
        softmax(x, 2)
    with pytest.raises(ValueError, match="softmax: expected dim between -1 and 0, got -2"):
        softmax(x[0, 0], -2)
    with pytest.raises(TypeError, match="softmax: expected input in float32, float16 or bfloat16, got torch.int64"):
        softmax(x.long())
    with torch.enable_grad(), pytest.raises(ValueError, match="softmax: input requires a gradient"):
        softmax(x.requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"softmax: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        softmax(torch.randn(3))


@pytest.mark.gpu
@pytest.mark.parametrize("shape, dim", [
    ((2**16 + 1, 2**15), 1), ((2**11 + 1, 2**20), 1), ((5, 2**29), 0), ((3, 2**30), 1),
])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, dim):
    x = 10 * torch.randn(shape, dtype=torch.float16, device="cuda")  # so that a few elements of a row stand out
    got = softmax(x, dim).movedim(dim, -1)[-1]
    row = x.movedim(dim, -1)[-1].double()
    exact = torch.softmax(row, 0)
    magnitude = exact * (16 + row.max() - row)
    for part in (exact.topk(min(1000, row.numel())).indices, slice(-1000, None)):
        assert_accurate(got[part], exact[part], magnitude=magnitude[part])
