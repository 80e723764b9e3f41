import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import add
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.views import each_view, operands


def check(x, y):
    got = add(x, y)
    assert_like_pytorch(got, torch.add(x, y))
    assert_accurate(got, x.double() + y.double())


@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 1025, 98_432])
def test_sizes(n, dtype, device):
    check(torch.randn(n, dtype=dtype, device=device), torch.randn(n, dtype=dtype, device=device))


@pytest.mark.parametrize("x_shape, y_shape", [
    ((), ()), ((3,), ()), ((4, 1), (1, 5)), ((2, 3, 4), (4,)), ((2, 3, 4, 5), (3, 1, 5)),
    ((7, 1, 5, 1), (3, 1, 9)), ((0, 3), (1, 3)), ((2, 1, 3, 1, 2, 3), (2, 3, 1, 2, 1, 1)),
])
def test_broadcasting(x_shape, y_shape, dtype, device):
    check(torch.randn(x_shape, dtype=dtype, device=device), torch.randn(y_shape, dtype=dtype, device=device))


@each_view
def test_strides(view, dtype, device):
    x = view(torch.randn(4, 6, 5, 8, dtype=dtype, device=device))
    check(x, torch.randn(x.shape, dtype=dtype, device=device))
    check(torch.randn(x.shape, dtype=dtype, device=device), x)


def test_nan_and_infinity(dtype, device):
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, 60000.0], dtype=dtype, device=device)
    check(values[:, None], values[None, :])


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    check(*data.draw(operands(device)))


@one_dtype
def test_opcheck(dtype, device):
    x, y = torch.randn(3, 4, dtype=dtype, device=device), torch.randn(4, dtype=dtype, device=device)
    torch.library.opcheck(torch.ops.course.add.default, (x, y))


def test_compiles_without_graph_breaks(device):
    x, y = torch.randn(3, 4, device=device), torch.randn(4, device=device)
    compiled = torch.compile(add, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), x + y)


def test_bad_input(device):
    x = torch.randn(3, 4, device=device)
    with pytest.raises(ValueError, match=r"add: expected shapes that broadcast, got input \(3, 4\), other \(3, 3\)"):
        add(x, torch.randn(3, 3, device=device))
    with pytest.raises(TypeError, match="add: expected other in torch.float32 as input, got torch.float16"):
        add(x, x.half())
    with pytest.raises(TypeError, match="add: expected input in float32, float16 or bfloat16, got torch.int64"):
        add(x.long(), x.long())
    with pytest.raises(ValueError, match="add: expected other on .*, got meta"):
        add(x, x.to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="add: other requires a gradient"):
        add(x, x.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"add: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        add(torch.randn(3), torch.randn(3))


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(2**31 + 5, dtype=torch.float16, device="cuda")
    y = torch.randn(1, dtype=torch.float16, device="cuda")
    for got in (add(x, x)[-9:], add(x, y)[-9:] + (x - y)[-9:]):
        torch.testing.assert_close(got, 2 * x[-9:], rtol=2**-9, atol=2**-8)
