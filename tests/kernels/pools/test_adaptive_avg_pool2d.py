import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from course import runtime
from course.kernels import adaptive_avg_pool2d
from course.kernels.pools import separate_windows
from course.kernels.pools.avg_pool2d import ENGINES
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.engines import offer
from tests.kernels.images import LAYOUTS, images


def check(x, size):
    got, want = adaptive_avg_pool2d(x, size), F.adaptive_avg_pool2d(x, size)
    assert_like_pytorch(got, want)
    magnitude = F.adaptive_avg_pool2d(x.double().abs().nan_to_num(), size)
    longest = (x.shape[-2] // max(want.shape[-2], 1) + 2) * (x.shape[-1] // max(want.shape[-1], 1) + 2)
    assert_accurate(got, F.adaptive_avg_pool2d(x.double(), size), terms=longest, magnitude=magnitude)


@pytest.mark.parametrize("size", [0, 1, 2, (2, 1), (2, 3), (4, 5), (1, 9), (6, 1), (7, 2), (None, 2), (None, None)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_sizes(size, layout, device):
    check(LAYOUTS[layout](torch.randn(2, 5, 6, 12, device=device)), size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, (3, 2), (2, 3)])
def test_layouts(size, layout, dtype, device):
    check(LAYOUTS[layout](torch.randn(2, 6, 9, 8, dtype=dtype, device=device)), size)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (3, 9, 8), (1, 1, 1, 1), (2, 1, 1, 9), (2, 0, 3, 3), (2, 130, 7, 7)])
@pytest.mark.parametrize("size", [1, 2])
def test_shapes(shape, size, dtype, device):
    check(torch.randn(shape, dtype=dtype, device=device), size)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_few_large_images_are_cut_into_parts(layout, dtype, device):
    check(LAYOUTS[layout](torch.randn(1, 3, 293, 305, dtype=dtype, device=device)), 1)


@pytest.mark.parametrize("shape", [
    (3, 77, 7, 7), (1, 3, 5, 7), (130, 1, 6, 6), (2, 40, 3, 21), (3, 5, 8, 8), (2, 9, 5, 13),
])
def test_small_images_one_after_the_other(shape, dtype, device):
    """7 x 7 elements in vectors of 8: rows begin and end in the middle of them, and so does the tensor."""
    x = torch.randn(shape, dtype=dtype, device=device)
    check(x, 1)
    x[0, 0, -1, -1], x[-1, -1, 0, 0] = float("nan"), float("inf")  # these stay in their rows
    check(x, 1)


SHAPES = [(3, 77, 7, 7), (2, 130, 8, 8), (2, 130, 5, 13), (5, 64, 3, 11), (2, 40, 4, 8), (130, 1, 2, 25), (2, 3, 64, 1)]
"""Of 33 to 64 pixels, and of one more and one fewer; with channels that fill tiles of 64, or do not."""


@pytest.mark.parametrize("view", [
    lambda t: t, lambda t: t[1:, 1:], lambda t: t[:, ::2], lambda t: t[:, :, 1:], lambda t: t[:, :1].expand(t.shape),
])
@pytest.mark.parametrize("shape", SHAPES)
def test_small_images_with_innermost_channels(shape, view, device):
    x = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    check(view(x), 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_nan_and_infinity_stay_in_their_channel(shape, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    x[0, 0, -1, -1], x[-1, -1, 0, 0] = float("nan"), float("inf")
    check(x, 1)


@pytest.fixture
def one_multiprocessor(monkeypatch):
    """The tiles of a GPU of one multiprocessor: the interpreter takes larger ones, and other GPUs need more windows."""
    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(runtime, "num_sms", lambda: 1)
    offer(monkeypatch, ENGINES, ENGINES.configs)
    separate_windows.configs.cache_clear()
    yield
    separate_windows.configs.cache_clear()


@pytest.mark.usefixtures("one_multiprocessor")
def test_many_windows_of_innermost_channels(dtype, device):
    """Each thread adds up whole windows."""
    check(torch.randn(8, 130, 9, 8, dtype=dtype, device=device).to(memory_format=torch.channels_last), 1)
    check(torch.randn(1, 130, 9, 12, dtype=dtype, device=device).to(memory_format=torch.channels_last), (2, 5))


@pytest.mark.parametrize("shape, layout, size, engine", [
    ((2, 3, 12, 8), "contiguous", (4, 2), "sliding_tile"),
    ((2, 3, 5, 6), "contiguous", 1, "sliding_tile"),
    ((2, 3, 7, 7), "contiguous", 1, "row_means"),
    ((2, 3, 7, 7), "transposed", 1, "separate_windows"),
    ((2, 3, 7, 7), "channels_last", 1, "image_means"),
    ((2, 3, 8, 8), "contiguous", 1, "separate_windows"),
    ((2, 3, 8, 8), "channels_last", 1, "image_means"),
    ((1, 3, 8, 9), "contiguous", 1, "image_parts"),
    ((1, 3, 8, 9), "channels_last", 1, "image_parts"),
    ((2, 3, 7, 8), "contiguous", 3, "separate_windows"),
])
@pytest.mark.usefixtures("one_multiprocessor")
def test_which_engine_computes(shape, layout, size, engine, device, monkeypatch):
    computed = []

    def record(problem, configs=ENGINES.configs):
        computed.extend(config.engine for config in configs(problem))
        return configs(problem)

    offer(monkeypatch, ENGINES, record)
    check(LAYOUTS[layout](torch.randn(shape, device=device)), size)
    assert computed == [engine]


def test_nan_and_infinity(dtype, device):
    x = torch.randn(2, 4, 12, 12, dtype=dtype, device=device)
    x[0, 0, 2, 3], x[0, 1, 5, 5], x[1, 2, 7, 7] = float("nan"), float("inf"), -float("inf")
    x[0, 2, 1, 1], x[0, 2, 1, 2] = float("inf"), -float("inf")
    for size in (1, 4, 5):
        check(x, size)
        check(x.to(memory_format=torch.channels_last), size)


@hypothesis.given(data=st.data())
def test_any_sizes(data, device):
    check(data.draw(images(device, largest=16)), data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5))))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(2, 3, 7, 8, dtype=dtype, device=device)
    for t in (x, x[0], x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.adaptive_avg_pool2d.default, (t, 3, 4))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(2, 3, 7, 8, device=device)
    compiled = torch.compile(adaptive_avg_pool2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, (1, None)), F.adaptive_avg_pool2d(x, (1, None)))


def test_bad_input(device):
    x = torch.randn(2, 3, 8, 9, device=device)
    with pytest.raises(ValueError, match="adaptive_avg_pool2d: expected output_size of at least 0, got"):
        adaptive_avg_pool2d(x, -1)
    with pytest.raises(ValueError, match="adaptive_avg_pool2d: expected output_size to be .* pair, got .3,."):
        adaptive_avg_pool2d(x, (3,))
    with pytest.raises(TypeError, match="adaptive_avg_pool2d: expected output_size to be an integer .*, got 2.5"):
        adaptive_avg_pool2d(x, 2.5)
    with pytest.raises(ValueError, match=r"adaptive_avg_pool2d: expected input of shape \(N, .*, got \(8, 9\)"):
        adaptive_avg_pool2d(x[0, 0], 2)
    with pytest.raises(ValueError, match="adaptive_avg_pool2d: expected input with at least one row and column, got"):
        adaptive_avg_pool2d(x[:, :, :0], 2)
    with pytest.raises(TypeError, match="adaptive_avg_pool2d: expected input in float32, float16 or bfloat16, got"):
        adaptive_avg_pool2d(x.int(), 2)
    with torch.enable_grad(), pytest.raises(ValueError, match="adaptive_avg_pool2d: input requires a gradient"):
        adaptive_avg_pool2d(x.clone().requires_grad_(), 2)


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"adaptive_avg_pool2d: expected input on a GPU, got cpu: move it"):
        adaptive_avg_pool2d(torch.randn(1, 1, 4, 4), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(9, 64, 2000, 2000), (1, 64, 6000, 6000)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, memory_format):
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_()
    end = x[-1:, -3:].double()
    for size in (1, 7):
        magnitude = F.adaptive_avg_pool2d(end.abs(), size)
        exact = F.adaptive_avg_pool2d(end, size)
        assert_accurate(adaptive_avg_pool2d(x, size)[-1:, -3:], exact, terms=2000, magnitude=magnitude)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(700_000, 64, 7, 7), (1, 45_000_001, 7, 7)])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements_of_small_images(shape):
    """Many images pass 2**31, and so do the pixels of one image of many channels."""
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=torch.channels_last).normal_()
    end = x[-1:, -3:].double()
    exact, magnitude = F.adaptive_avg_pool2d(end, 1), F.adaptive_avg_pool2d(end.abs(), 1)
    assert_accurate(adaptive_avg_pool2d(x, 1)[-1:, -3:], exact, terms=64, magnitude=magnitude)
