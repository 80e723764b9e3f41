import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from course import kernels
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.views import VIEWS, strided

PYTORCH = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu6": F.relu6, "hardsigmoid": F.hardsigmoid, "hardswish": lambda x: x * (F.relu6(x + 3) / 6),
    "leaky_relu": F.leaky_relu,
}
"""hardswish multiplies by 6 first in PyTorch, and so overflows."""

each = pytest.mark.parametrize("name", PYTORCH)
in_place = pytest.mark.parametrize("name", ["silu", "relu6", "hardsigmoid", "hardswish", "leaky_relu"])


def check(x, name):
    """Exact but for the units of two powers of 2, a division and a product; of subnormal sigmoids, of their steps."""
    got = getattr(kernels, name)(x)
    assert_like_pytorch(got, PYTORCH[name](x))
    exact = PYTORCH[name](x.double())
    away = 3.0 if name.startswith("hard") else 0.0  # x + 3 is rounded
    magnitude = exact.abs() + x.double().abs() * (2.0**-126 + away / 6) + away / 6
    if name == "quick_gelu":  # 1.702 x is, before it is an exponent
        magnitude += 1.702 * x.double().abs() * exact.abs()
    magnitude = magnitude.nan_to_num(0, 0, 0)
    assert_accurate(got, exact, terms=3, magnitude=magnitude)


@each
@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1025, 98_432])
def test_sizes(n, name, dtype, device):
    check(4 * torch.randn(n, dtype=dtype, device=device), name)


@each
def test_every_magnitude(name, device):
    """Tails, too, to a relative error: no exponential overflows, and no 1 is subtracted from what is nearly 1."""
    powers = 2.0 ** torch.linspace(-140, 8, 5001, device=device)
    check(torch.cat([powers, -powers, torch.linspace(-110, 110, 20001, device=device)]), name)


@each
def test_nan_infinity_zeros_and_large_values(name, dtype, device):
    """The infinities are PyTorch's: NaN of -inf * 0, in silu for instance."""
    large = [v for v in (6.0, 30.0, 60000.0, 1e15, 3e38) if v <= torch.finfo(dtype).max]
    values = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.0, -3.0, *large, *(-v for v in large)]
    x = torch.tensor(values, dtype=dtype, device=device)
    check(x, name)
    zeros = getattr(kernels, name)(x[3:5])
    if name != "relu6" or device.type == "cpu":  # whose clamp makes 0 of -0 on a GPU
        assert torch.equal(zeros.signbit(), PYTORCH[name](x[3:5]).signbit())


@each
def test_every_float16_number(name, device):
    check(torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(torch.float16), name)


@each
@pytest.mark.parametrize("view", [*VIEWS, lambda t: t[0, 0, 0, 0], lambda t: t[:, :0]])
def test_strides(view, name, device):
    check(view(torch.randn(4, 6, 5, 8, device=device)), name)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    check(data.draw(strided(device, sizes=(0, 9), dims=(0, 5))), data.draw(st.sampled_from(list(PYTORCH))))


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.5, 2, True, torch.tensor(0.5)])
def test_negative_slope(slope, dtype, device):
    x = torch.randn(3, 70, dtype=dtype, device=device)
    for view in (x, x[:, ::2]):
        assert_accurate(kernels.leaky_relu(view, slope), F.leaky_relu(view.double(), float(slope)), terms=2)


@in_place
def test_in_place(name, device):
    x = torch.randn(6, 8, device=device)[:, ::2]
    want = PYTORCH[name](x)
    got = getattr(kernels, name)(x, inplace=True)
    assert got is x
    torch.testing.assert_close(x, want)


@one_dtype
@each
def test_opcheck(name, dtype, device):
    x = torch.randn(3, 4, dtype=dtype, device=device)
    if name == "leaky_relu":
        torch.library.opcheck(torch.ops.course.leaky_relu.default, (x.T, 0.2))
    else:
        torch.library.opcheck(torch.ops.course.activation.default, (x.T, name))


@each
def test_compiles_without_graph_breaks(name, device):
    x = torch.randn(3, 4, device=device)
    compiled = torch.compile(getattr(kernels, name), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), PYTORCH[name](x))


@each
def test_fused(name, dtype, device):
    """As the activation of linear and conv2d: what follows the sum, in float32, is rounded once."""
    x, weight = torch.randn(5, 24, dtype=dtype, device=device), torch.randn(9, 24, dtype=dtype, device=device)
    sums = x.double() @ weight.double().T
    magnitude = x.double().abs() @ weight.double().abs().T + 1
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = kernels.linear(x, weight, activation=name)
        image = kernels.conv2d(x[:, :, None, None], weight[:, :, None, None], activation=name)[:, :, 0, 0]
    for y in (got, image):
        assert_accurate(y, PYTORCH[name](sums), terms=24, magnitude=2 * magnitude)


@each
def test_bad_input(name, device):
    function, x = getattr(kernels, name), torch.randn(3, device=device)
    with pytest.raises(TypeError, match=f"{name}: expected input in float32, float16 or bfloat16, got torch.int64"):
        function(x.long())
    with pytest.raises(TypeError, match=f"{name}: expected input to be a tensor, got list"):
        function([1.0])
    with torch.enable_grad(), pytest.raises(ValueError, match=f"{name}: input requires a gradient"):
        function(x.requires_grad_())


def test_bad_slope(device):
    for slope in (None, "0.1", torch.ones(2), 1j):
        with pytest.raises(TypeError, match="leaky_relu: expected negative_slope to be a number, got") as error:
            kernels.leaky_relu(torch.randn(3, device=device), slope)
        assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(2**31 + 5, dtype=torch.float16, device="cuda")
    torch.testing.assert_close(kernels.leaky_relu(x, 0.5)[-9:], F.leaky_relu(x[-9:], 0.5))
    torch.testing.assert_close(kernels.silu(x)[-9:], F.silu(x[-9:]))
