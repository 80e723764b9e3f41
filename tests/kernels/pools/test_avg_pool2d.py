import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from course.kernels import avg_pool2d
from course.kernels.parts.checks import pair
from course.kernels.pools import tiles
from course.kernels.pools.avg_pool2d import ENGINES
from course.kernels.pools.windows import pooled_size
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.engines import offer
from tests.kernels.images import LAYOUTS, images


def check(x, kernel, *args):
    got = avg_pool2d(x, kernel, *args)
    assert_like_pytorch(got, F.avg_pool2d(x, kernel, *args))
    magnitude = F.avg_pool2d(x.double().abs().nan_to_num(), kernel, *args)
    terms = math.prod(pair("", "", kernel))
    assert_accurate(got, F.avg_pool2d(x.double(), kernel, *args), terms=terms, magnitude=magnitude)


@pytest.mark.parametrize("args", [
    (1,), (2,), (3, 2, 1), ((2, 3), (2, 1), (1, 0)), (2, 3), (3, 2, 1, False, False), (3, 2, 0, True),
    (3, 2, 1, True), (3, 2, 1, True, False), (5, 4, 2, True), (7, 1, 3), (6,), ((6, 8), None, 3), ((6, 8), 9, 2, True),
    ((6, 8), 9, 2, True, False), ((13, 18),), ((13, 18), 1), ((14, 19), 19, 0, True), ((14, 18), 18, (1, 0)),
])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parameters(args, layout, device):
    check(LAYOUTS[layout](torch.randn(2, 5, 13, 18, device=device)), *args)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("args", [(3, 2, 1), ((7, 8), 8)])
def test_layouts(args, layout, dtype, device):
    check(LAYOUTS[layout](torch.randn(3, 6, 15, 16, dtype=dtype, device=device)), *args)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 9, 8), (1, 1, 1, 1), (2, 1, 1, 9), (2, 130, 5, 3), (1, 1, 70, 67)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_shapes(shape, channels_last, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device)
    check(x.to(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x, 3, 2, 1)


def test_nan_and_infinity(dtype, device):
    x = torch.randn(2, 4, 12, 12, dtype=dtype, device=device)
    x[0, 0, 2, 3], x[0, 1, 5, 5], x[1, 2, 7, 7], x[1, 3, 7, 7:9] = (
        float("nan"), float("inf"), -float("inf"), torch.tensor([60000.0, 60000.0], device=device)
    )
    x[0, 2, 1, 1], x[0, 2, 1, 2] = float("inf"), -float("inf")
    check(x, 2)
    check(x.to(memory_format=torch.channels_last), 3, 2, 1)
    check(x, 12)


@hypothesis.given(data=st.data())
def test_any_windows(data, device):
    x = data.draw(images(device))
    kernel = data.draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (2, 3), (3, 1), (6, 6), (4, 9)]))
    stride = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode, count_include_pad = data.draw(st.booleans()), data.draw(st.booleans())
    sizes = [pooled_size(*dim, 1, ceil_mode) for dim in zip(x.shape[2:], kernel, stride, padding)]
    hypothesis.assume(min(sizes) >= 1)
    check(x, kernel, stride, padding, ceil_mode, count_include_pad)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_several_tiles_each_way(layout, device, monkeypatch):
    """The interpreter takes images whole: here its tiles are smaller than rows, columns and channels."""
    monkeypatch.setattr(tiles, "INTERPRETER_BLOCK", 4)
    offer(monkeypatch, ENGINES, ENGINES.configs)
    check(LAYOUTS[layout](torch.randn(2, 5, 4, 9, device=device)), 3, 2, 1)


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(2, 3, 7, 8, dtype=dtype, device=device)
    for t in (x, x[0], x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.avg_pool2d.default, (t, [3, 2], [2, 2], [1, 0], True, False))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(2, 3, 7, 8, device=device)
    compiled = torch.compile(avg_pool2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 3, 2, padding=1), F.avg_pool2d(x, 3, 2, padding=1))


def test_bad_input(device):
    x = torch.randn(2, 3, 8, 9, device=device)
    with pytest.raises(ValueError, match=r"avg_pool2d: expected padding of at most half the kernel \(3, 3\), got \(2"):
        avg_pool2d(x, 3, padding=2)
    with pytest.raises(ValueError, match="avg_pool2d: expected kernel_size of at least 1, got 0"):
        avg_pool2d(x, 0)
    with pytest.raises(ValueError, match=r"avg_pool2d: expected input to hold at least one window, got \(2, 3"):
        avg_pool2d(x, 9)
    with pytest.raises(ValueError, match="avg_pool2d: expected input with at least one row and column, got"):
        avg_pool2d(x[..., :0], 1)
    with pytest.raises(TypeError, match="avg_pool2d: expected input in float32, float16 or bfloat16, got torch.fl"):
        avg_pool2d(x.double(), 2)
    with torch.enable_grad(), pytest.raises(ValueError, match="avg_pool2d: input requires a gradient"):
        avg_pool2d(x.clone().requires_grad_(), 2)


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"avg_pool2d: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        avg_pool2d(torch.randn(1, 1, 4, 4), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(9, 64, 2000, 2000), (1, 64, 6000, 6000)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, memory_format):
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_()
    end = x[-1:, -5:, -40:, -40:].double()
    for kernel in (2, 10):
        got = avg_pool2d(x, kernel)[-1:, -5:, -40 // kernel :, -40 // kernel :]
        magnitude = F.avg_pool2d(end.abs(), kernel)
        assert_accurate(got, F.avg_pool2d(end, kernel), terms=kernel * kernel, magnitude=magnitude)
