import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import gelu
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.views import VIEWS, strided

APPROXIMATE = ["none", "tanh"]


def exact(x, approximate):
    """Written out: PyTorch's own, on the CPU, makes NaN of +inf."""
    x = x.double()
    if approximate == "none":
        return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def check(x, approximate="none"):
    """1 + erf(...) errs by units of 1, of erf's range and not of its own value: hence the magnitude |x|."""
    got = gelu(x, approximate=approximate)
    assert_like_pytorch(got, torch.nn.functional.gelu(x, approximate=approximate))
    assert_accurate(got, exact(x, approximate), magnitude=x.double().abs().nan_to_num(0, 0, 0))


@pytest.mark.parametrize("approximate", APPROXIMATE)
@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 1025, 98_432])
def test_sizes(n, approximate, dtype, device):
    check(2 * torch.randn(n, dtype=dtype, device=device), approximate)


@pytest.mark.parametrize("view", [*VIEWS, lambda t: t, lambda t: t[0, 0, 0, 0], lambda t: t[:, :0]])
def test_strides(view, dtype, device):
    check(view(torch.randn(4, 6, 5, 8, dtype=dtype, device=device)))


@pytest.mark.parametrize("approximate", APPROXIMATE)
def test_nan_infinity_and_large_values(approximate, dtype, device):
    large = [v for v in (30.0, 60000.0, 1e15, 1e38) if v <= torch.finfo(dtype).max]
    values = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, *large, *(-v for v in large)]
    check(torch.tensor(values, dtype=dtype, device=device), approximate)


def test_every_float16_number(device):
    x = torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(torch.float16)
    for approximate in APPROXIMATE:
        check(x, approximate)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    check(data.draw(strided(device, sizes=(0, 9), dims=(0, 5))), data.draw(st.sampled_from(APPROXIMATE)))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(3, 4, dtype=dtype, device=device)
    for approximate in APPROXIMATE:
        torch.library.opcheck(torch.ops.course.gelu.default, (x.T, approximate))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(3, 4, device=device)
    compiled = torch.compile(gelu, fullgraph=True, backend="aot_eager")
    for approximate in APPROXIMATE:
        want = torch.nn.functional.gelu(x, approximate=approximate)
        torch.testing.assert_close(compiled(x, approximate=approximate), want)


def test_bad_input(device):
    x = torch.randn(3, 4, device=device)
    with pytest.raises(ValueError, match="gelu: expected approximate to be one of .'none', 'tanh'., got 'erf'"):
        gelu(x, approximate="erf")
    with pytest.raises(TypeError, match="gelu: expected input in float32, float16 or bfloat16, got torch.int64"):
        gelu(x.long())
    with torch.enable_grad(), pytest.raises(ValueError, match="gelu: input requires a gradient"):
        gelu(x.requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"gelu: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        gelu(torch.randn(3))


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(2**31 + 5, dtype=torch.float16, device="cuda")
    assert_accurate(gelu(x)[-9:], exact(x[-9:], "none"), magnitude=x[-9:].double().abs())
