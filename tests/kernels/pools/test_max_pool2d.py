import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from course.kernels import max_pool2d
from course.kernels.pools import tiles
from course.kernels.pools.windows import pooled_size
from tests.compare import assert_like_pytorch, one_dtype
from tests.kernels.images import LAYOUTS, images


def check(x, *args):
    got, want = max_pool2d(x, *args), F.max_pool2d(x, *args)
    assert_like_pytorch(got, want)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)  # it chooses, it does not round


@pytest.mark.parametrize("args", [
    (1,), (2,), (3, 2, 1), (3, 1, 1), ((2, 3), (2, 1), (1, 0)), (2, 3), (3, 2, 1, 2), ((2, 3), 1, 1, (3, 1)),
    (3, 2, 0, 1, True), (3, 2, 1, 1, True), (5, 1, 2), (5, 4, 2, 1, True),
])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parameters(args, layout, device):
    check(LAYOUTS[layout](torch.randn(2, 5, 13, 18, device=device)), *args)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_several_tiles_each_way(layout, device, monkeypatch):
    """The interpreter takes images whole: here its tiles are smaller than rows, columns and channels."""
    monkeypatch.setattr(tiles, "INTERPRETER_BLOCK", 4)
    check(LAYOUTS[layout](torch.randn(2, 5, 4, 9, device=device)), 3, 2, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype, device):
    check(LAYOUTS[layout](torch.randn(3, 6, 9, 8, dtype=dtype, device=device)), 3, 2, 1)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 9, 8), (1, 1, 1, 1), (2, 1, 1, 9), (2, 130, 5, 3), (1, 1, 70, 67)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_shapes(shape, channels_last, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device)
    check(x.to(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x, 3, 2, 1)


def test_nan_and_infinity(dtype, device):
    x = torch.randn(2, 4, 12, 12, dtype=dtype, device=device)
    x[x > 1] = float("nan")
    x[x < -1] = -float("inf")
    x[0, 0], x[0, 1] = -float("inf"), float("nan")
    check(x, 2)
    check(x.to(memory_format=torch.channels_last), 3, 2, 1)


def test_windows_without_an_element_are_minus_infinity(device):
    check(torch.randn(1, 1, 2, 2, device=device), 2, 1, 1, 3)


@hypothesis.given(data=st.data())
def test_any_windows(data, device):
    x = data.draw(images(device))
    kernel, stride, dilation = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode = data.draw(st.booleans())
    sizes = [pooled_size(*dim, ceil_mode) for dim in zip(x.shape[2:], kernel, stride, padding, dilation)]
    hypothesis.assume(min(sizes) >= 1)
    check(x, kernel, stride, padding, dilation, ceil_mode)


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(2, 3, 7, 8, dtype=dtype, device=device)
    for t in (x, x[0], x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.max_pool2d.default, (t, [3, 2], [2, 2], [1, 0], [1, 2], True))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(2, 3, 7, 8, device=device)
    compiled = torch.compile(max_pool2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 3, 2, padding=1), F.max_pool2d(x, 3, 2, padding=1))


def test_bad_input(device):
    x = torch.randn(2, 3, 8, 9, device=device)
    with pytest.raises(ValueError, match=r"max_pool2d: expected padding of at most half the kernel \(3, 2\), got \(1"):
        max_pool2d(x, (3, 2), padding=(1, 2))
    with pytest.raises(ValueError, match="max_pool2d: expected padding of at least 0, got -1"):
        max_pool2d(x, 3, padding=-1)
    with pytest.raises(ValueError, match="max_pool2d: expected stride of at least 1, got 0"):
        max_pool2d(x, 3, 0)
    with pytest.raises(ValueError, match=r"max_pool2d: expected dilation of at least 1, got \(1, 0\)"):
        max_pool2d(x, 3, dilation=(1, 0))
    with pytest.raises(ValueError, match=r"max_pool2d: expected input to hold at least one window, got \(2, 3"):
        max_pool2d(x, 9)
    with pytest.raises(ValueError, match=r"max_pool2d: expected input of shape \(N, C, H, W\) or .*, got \(8, 9\)"):
        max_pool2d(x[0, 0], 2)
    with pytest.raises(ValueError, match="max_pool2d: expected input with at least one channel, got"):
        max_pool2d(x[:, :0], 2)
    with pytest.raises(ValueError, match="max_pool2d: expected kernel_size to be an integer or a pair.*, got 3 of"):
        max_pool2d(x, (1, 2, 3))
    with pytest.raises(TypeError, match="max_pool2d: expected kernel_size to be an integer or a pair.*, got 2.0"):
        max_pool2d(x, 2.0)
    with pytest.raises(TypeError, match="max_pool2d: expected input in float32, float16 or bfloat16, got torch.int64"):
        max_pool2d(x.long(), 2)
    with torch.enable_grad(), pytest.raises(ValueError, match="max_pool2d: input requires a gradient"):
        max_pool2d(x.clone().requires_grad_(), 2)


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"max_pool2d: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        max_pool2d(torch.randn(1, 1, 4, 4), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(9, 64, 2000, 2002), (1, 64, 6000, 6002)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, memory_format):
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_()
    end = x[-1:, -5:, -40:, -40:]
    torch.testing.assert_close(max_pool2d(x, 2)[-1:, -5:, -20:, -20:], F.max_pool2d(end, 2), rtol=0, atol=0)
