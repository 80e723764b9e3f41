import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import relu
from tests.compare import assert_like_pytorch, one_dtype
from tests.kernels.views import VIEWS, strided


def check(x):
    """Nothing is computed, so nothing may be rounded: PyTorch's result exactly, NaN included."""
    got, want = relu(x), torch.relu(x)
    assert_like_pytorch(got, want)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 1025, 98_432])
def test_sizes(n, dtype, device):
    check(torch.randn(n, dtype=dtype, device=device))


@pytest.mark.parametrize("view", [*VIEWS, lambda t: t, lambda t: t[0, 0, 0, 0], lambda t: t[:, :0]])
def test_strides(view, dtype, device):
    check(view(torch.randn(4, 6, 5, 8, dtype=dtype, device=device)))


def test_nan_infinity_and_zeros(dtype, device):
    tiny = torch.finfo(dtype).smallest_normal
    values = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, tiny, -tiny, 60000.0]
    check(torch.tensor(values, dtype=dtype, device=device))


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    check(data.draw(strided(device, sizes=(0, 9), dims=(0, 5))))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(3, 4, dtype=dtype, device=device)
    torch.library.opcheck(torch.ops.course.relu.default, (x,))
    torch.library.opcheck(torch.ops.course.relu.default, (x.T,))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(3, 4, device=device)
    compiled = torch.compile(relu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), torch.relu(x), rtol=0, atol=0)


def test_bad_input(device):
    x = torch.randn(3, 4, device=device)
    with pytest.raises(TypeError, match="relu: expected input in float32, float16 or bfloat16, got torch.int64"):
        relu(x.long())
    with pytest.raises(TypeError, match="relu: expected input to be a tensor, got list"):
        relu([1.0])
    with torch.enable_grad(), pytest.raises(ValueError, match="relu: input requires a gradient"):
        relu(x.requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"relu: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        relu(torch.randn(3))


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(2**31 + 5, dtype=torch.float16, device="cuda")
    for view in (x, x[::2]):
        torch.testing.assert_close(relu(view)[-9:], torch.relu(view[-9:]), rtol=0, atol=0)
