import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import layer_norm
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.views import each_view, strided


def check(x, n_dims=1, weight=None, bias=None, eps=1e-5):
    """Sums in pairs and blocks err by some 16 units: of the values for the mean, and relatively for the variance."""
    shape = x.shape[x.ndim - n_dims :]
    got = layer_norm(x, shape, weight, bias, eps)
    assert_like_pytorch(got, torch.nn.functional.layer_norm(x, shape, weight, bias, eps))
    x64, w64, b64 = (None if t is None else t.double() for t in (x, weight, bias))
    exact = torch.nn.functional.layer_norm(x64, shape, w64, b64, eps)
    dims = tuple(range(-n_dims, 0))
    if x.numel():
        rstd = (x64.var(dims, keepdim=True, correction=0) + eps).rsqrt()
        scale = 1.0 if weight is None else w64.abs()
        magnitude = (x64.abs() + x64.abs().mean(dims, keepdim=True)) * rstd * scale
        magnitude = magnitude + (0.0 if bias is None else b64.abs())
        assert_accurate(got, exact, terms=16, magnitude=magnitude.nan_to_num(0, 0, 0))


def affine(shape, dtype, device):
    return torch.randn(shape, dtype=dtype, device=device), torch.randn(shape, dtype=dtype, device=device)


@pytest.mark.parametrize("cols", [1, 2, 10, 197, 768, 1000, 1024, 1025, 5000])
def test_row_lengths(cols, dtype, device):
    check(torch.randn(37, cols, dtype=dtype, device=device), 1, *affine(cols, dtype, device))


@pytest.mark.parametrize("shape, n_dims", [
    ((3, 32_768), 1), ((3, 32_769), 1), ((2, 70_001), 1), ((3, 9, 50, 50), 3), ((150_000,), 1),
])
def test_rows_longer_than_a_block(shape, n_dims, dtype, device):
    x = 3 * torch.randn(shape, dtype=dtype, device=device) + 1
    check(x, n_dims, *affine(shape[len(shape) - n_dims :], dtype, device))


@pytest.mark.parametrize("cols", [33, 20_000, 40_000])
def test_weight_and_bias_are_optional(cols, dtype, device):
    x = torch.randn(5, cols, dtype=dtype, device=device)
    weight, bias = affine(cols, dtype, device)
    check(x)
    check(x, 1, weight)
    check(x, 1, None, bias)
    check(x, 1, weight.repeat_interleave(2)[::2], bias[:1].expand(cols))


@pytest.mark.parametrize("shape, n_dims", [
    ((1,), 1), ((1, 1), 2), ((5, 0), 1), ((0, 5), 1), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), 2), ((2, 3, 4, 5), 4),
    ((7, 1, 6), 2), ((2, 1, 1, 5), 3),
])
def test_any_number_of_dimensions(shape, n_dims, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device)
    check(x, n_dims, *affine(shape[len(shape) - n_dims :], dtype, device))


@pytest.mark.parametrize("n_dims", [1, 2])
@each_view
def test_strides(view, n_dims, device):
    x = view(torch.randn(4, 6, 5, 16, device=device))
    check(x, n_dims, *affine(x.shape[x.ndim - n_dims :], x.dtype, device))


@pytest.mark.parametrize("cols", [500, 40_000])
def test_a_mean_far_from_zero(cols, device):
    """Where the mean of squares less the square of the mean keeps no digit, and that of a rounded sum few."""
    x = torch.randn(3, cols, device=device) + 10_000
    check(x)
    exact = torch.nn.functional.layer_norm(x.double(), (cols,))
    torch.testing.assert_close(layer_norm(x, (cols,)).double(), exact, rtol=1e-5, atol=2.0**-24 * 10_000)


@pytest.mark.parametrize("cols", [9, 20_000, 40_000])
def test_constant_rows_and_eps(cols, dtype, device):
    x = torch.full((3, cols), 0.5, dtype=dtype, device=device)
    check(x)
    check(x, 1, *affine(cols, dtype, device))
    check(torch.randn_like(x), eps=0.5)
    assert layer_norm(torch.zeros_like(x), (cols,), eps=0.0).isnan().all()


@pytest.mark.parametrize("cols", [9, 20_001])
def test_nan_and_infinity(cols, dtype, device):
    x = torch.randn(4, cols, dtype=dtype, device=device)
    x[1, -1] = float("nan")
    x[2, 3] = float("inf")
    x[3, 0], x[3, 4] = float("inf"), -float("inf")
    weight, bias = affine(cols, dtype, device)
    check(x, 1, weight, bias)
    weight[2], bias[3] = float("inf"), float("nan")
    check(x, 1, weight, bias)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    x = data.draw(strided(device))
    n_dims = data.draw(st.integers(1, x.ndim))
    check(x, n_dims, *affine(x.shape[x.ndim - n_dims :], x.dtype, device))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(3, 4, 5, dtype=dtype, device=device)
    weight, bias = affine((4, 5), dtype, device)
    torch.library.opcheck(torch.ops.course.layer_norm.default, (x, (4, 5), weight, bias, 1e-5))
    torch.library.opcheck(torch.ops.course.layer_norm.default, (x.mT, (4,), None, None, 1e-5))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(3, 4, device=device)
    weight, bias = affine((4,), x.dtype, device)
    compiled = torch.compile(layer_norm, fullgraph=True, backend="aot_eager")
    want = torch.nn.functional.layer_norm(x, (4,), weight, bias)
    torch.testing.assert_close(compiled(x, (4,), weight, bias), want)


def test_bad_input(device):
    x, w = torch.randn(3, 4, device=device), torch.randn(4, device=device)
    with pytest.raises(ValueError, match=r"layer_norm: expected input to end in normalized_shape \(3,\), got \(3, 4\)"):
        layer_norm(x, (3,))
    with pytest.raises(ValueError, match=r"layer_norm: expected input to end in normalized_shape \(2, 3, 4\), got"):
        layer_norm(x, (2, 3, 4))
    with pytest.raises(ValueError, match=r"layer_norm: expected normalized_shape of one size or more, got \(\)"):
        layer_norm(x, ())
    with pytest.raises(TypeError, match="layer_norm: expected normalized_shape to be a sequence of sizes, got int"):
        layer_norm(x, 4)
    with pytest.raises(ValueError, match=r"layer_norm: expected weight of shape \(4,\), got \(3,\)"):
        layer_norm(x, (4,), w[:3])
    with pytest.raises(ValueError, match=r"layer_norm: expected bias of shape \(4,\), got \(1, 4\)"):
        layer_norm(x, (4,), w, w[None])
    with pytest.raises(TypeError, match="layer_norm: expected weight in torch.float32 as input, got torch.float16"):
        layer_norm(x, (4,), w.half())
    with pytest.raises(TypeError, match="layer_norm: expected input in float32, float16 or bfloat16, got torch.int64"):
        layer_norm(x.long(), (4,))
    with torch.enable_grad(), pytest.raises(ValueError, match="layer_norm: weight requires a gradient"):
        layer_norm(x, (4,), w.requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"layer_norm: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        layer_norm(torch.randn(3), (3,))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2**17 + 1, 2**14), (2**11 + 1, 2**20), (3, 2**30)])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape):
    x = torch.randn(shape, dtype=torch.float16, device="cuda")
    got = layer_norm(x, shape[1:])[-1]
    exact = torch.nn.functional.layer_norm(x[-1].double(), shape[1:])
    for part in (slice(1000), slice(-1000, None)):
        assert_accurate(got[part], exact[part], terms=64, magnitude=exact[part].abs() + 1)


EQUAL = (0.1, -7.7, 1 / 3, 5.0, 1e-30, 3e4)


@pytest.mark.parametrize("cols", [1, 3, 9, 97, 192, 768, 1000, 8191, 8193, 20_000, 32_769, 40_001])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_rows_of_equal_numbers_are_zeros(cols, eps, dtype, device):
    x = torch.tensor(EQUAL, dtype=dtype, device=device)[:, None].expand(-1, cols)
    for rows in (x, x.contiguous(), x.T.contiguous().T):
        assert not layer_norm(rows, (cols,), eps=eps).any()
    weight, bias = affine(cols, dtype, device)
    assert torch.equal(layer_norm(x, (cols,), weight, bias, eps), bias.expand(x.shape))


def test_equal_numbers_from_any_strides(device):
    x = torch.randn(8, device=device).as_strided((8, 3, 5), (1, 0, 0))
    for n_dims in (1, 2):
        assert not layer_norm(x, x.shape[-n_dims:], eps=1e-12).any()


@pytest.mark.parametrize("cols", [500, 40_000])
def test_first_element_far_from_the_others(cols, device):
    """Which the mean must not be computed relative to."""
    x = torch.randn(3, cols, device=device)
    x[:, 0] = 1e6
    check(x)
