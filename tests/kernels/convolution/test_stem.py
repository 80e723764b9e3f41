import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course import runtime
from course.kernels import stem
from course.kernels.convolution.stem import stem_weight
from course.precision import conv_precision
from course.runtime import INTERPRET
from tests.compare import TF32, assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.images import LAYOUTS


def reference(x, weight, bias):
    y = F.conv2d(x, weight, bias, stride=2, padding=3)
    return F.max_pool2d(F.relu(y), 3, 2, 1)


def check(x, weight, bias):
    got = stem(x, stem_weight(weight), bias)
    x, weight, bias = (t.cpu().double() for t in (x, weight, bias))
    # each element is one of its window's sums: off by no more than the largest of their bounds
    magnitude = reference(x.abs(), weight.abs(), bias.abs())
    # tensor cores cut float32 off after TF32's 10 bits instead of rounding it: twice the error
    rounding = 2 * TF32 if conv_precision(got.dtype) == "tf32" and not INTERPRET else 0.0
    terms = weight[0].numel() + 1
    assert_accurate(got, reference(x, weight, bias), terms=terms, magnitude=magnitude, input_rounding=rounding)
    assert got.is_contiguous(memory_format=torch.channels_last)


def drawn(x_shape, filters, dtype, device, layout="contiguous"):
    x = LAYOUTS[layout](torch.randn(x_shape, dtype=dtype, device=device))
    weight = torch.randn(filters, x_shape[1], 7, 7, dtype=dtype, device=device)
    return x, weight, torch.randn(filters, dtype=dtype, device=device)


@pytest.mark.parametrize("x_shape, filters", [
    ((2, 3, 32, 32), 64), ((1, 3, 64, 118), 64), ((3, 3, 37, 61), 24), ((1, 1, 29, 27), 16), ((2, 4, 12, 9), 70),
    ((1, 3, 1, 1), 3), ((2, 2, 2, 3), 8),
])
def test_shapes(x_shape, filters, dtype, device):
    check(*drawn(x_shape, filters, dtype, device))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, device):
    x, weight, bias = drawn((2, 3, 34, 40), 64, torch.float16, device, layout)
    check(x, weight.to(memory_format=torch.channels_last), bias)
    check(x, weight, torch.stack((bias, bias), 1)[:, 0])


@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 70), st.integers(1, 70)),
       filters=st.integers(1, 70))
def test_any_shapes(shape, filters, device):
    check(*drawn(shape, filters, torch.float32, device))


@pytest.mark.parametrize("multiprocessors", [1, 20])
@pytest.mark.parametrize("width", [75, 230])
def test_integers_come_out_exactly(width, multiprocessors, dtype, device, monkeypatch):
    """Small integers are exact in every dtype, and so must their sums be: whatever part of a strip a program has."""
    monkeypatch.setattr(runtime, "num_sms", lambda: multiprocessors)
    x = torch.randint(-1, 2, (2, 3, 47, width), device=device).to(dtype)
    weight, bias = (torch.randint(-1, 2, s, device=device).to(dtype) for s in ((64, 3, 7, 7), (64,)))
    got = stem(x, stem_weight(weight), bias)
    want = reference(*(t.cpu().double() for t in (x, weight, bias))).to(dtype)
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=0)


def test_nan_and_infinity(dtype, device):
    """They go where PyTorch sends them, and further only where the eighth column of a window holds one."""
    x, weight, bias = drawn((2, 3, 48, 60), 8, dtype, device)
    x[0, 1, 20, 30] = float("nan")
    x[1, 0, 0, 0], x[1, 2, 47, 59] = float("inf"), -float("inf")
    got = stem(x, stem_weight(weight), bias).cpu()
    want = reference(*(t.cpu().double() for t in (x, weight, bias)))
    special = ~want.isfinite()
    assert torch.equal(got.isnan()[want.isnan()], torch.ones(int(want.isnan().sum()), dtype=torch.bool))
    assert not got.isfinite()[special].any()
    # the eighth column is the one before a window: of the next pooled pixel at most
    near = F.max_pool2d(special.any(1, keepdim=True).float(), (1, 3), 1, (0, 1)) > 0
    elsewhere = (~near).expand_as(got)
    torch.testing.assert_close(got[elsewhere].double(), want[elsewhere], rtol=0.02, atol=0.5)
    bias[3], weight[5, 0, 0, 0] = float("nan"), float("nan")
    got = stem(x, stem_weight(weight), bias)
    assert got[:, [3, 5]].isnan().all() and got[:, 4].isfinite().any()


def test_empty(device):
    x, weight, bias = drawn((0, 3, 9, 9), 8, torch.float32, device)
    assert_like_pytorch(stem(x, stem_weight(weight), bias), reference(x, weight, bias))


def test_in_full_precision(ieee, device):
    check(*drawn((2, 3, 33, 40), 24, torch.float32, device))


@one_dtype
def test_opcheck(dtype, device):
    x, weight, bias = drawn((2, 3, 18, 21), 8, dtype, device)
    for images in (x, x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.stem.default, (images, stem_weight(weight), bias))


def test_compiles_without_graph_breaks(device):
    x, weight, bias = drawn((2, 3, 18, 21), 8, torch.float16, device)
    packed = stem_weight(weight)
    compiled = torch.compile(stem, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, packed, bias), stem(x, packed, bias))


def test_bad_input(device):
    x, weight, bias = drawn((2, 3, 18, 21), 8, torch.float32, device)
    packed = stem_weight(weight)
    with pytest.raises(ValueError, match=r"stem: expected x \(N, C, H, W\) with C from 1 to 4 .*, got \(3, 18, 21\)"):
        stem(x[0], packed, bias)
    with pytest.raises(ValueError, match=r"stem: expected x .*, got \(2, 5, 18, 21\)"):
        stem(x[:, :1].expand(-1, 5, -1, -1), packed, bias)
    with pytest.raises(ValueError, match=r"stem: expected x .*, got \(2, 3, 0, 21\)"):
        stem(x[:, :, :0], packed, bias)
    with pytest.raises(ValueError, match=r"stem: expected weight \(K, 7, 8, 4\), as .*, got \(8, 3, 7, 7\)"):
        stem(x, weight, bias)
    with pytest.raises(ValueError, match=r"stem: expected bias \(8,\), got \(7,\)"):
        stem(x, packed, bias[:7])
    with pytest.raises(TypeError, match="stem: expected bias in torch.float32 as x, got torch.float16"):
        stem(x, packed, bias.half())


@pytest.mark.gpu
def test_graph_capture():
    x, weight, bias = drawn((2, 3, 224, 224), 64, torch.float16, "cuda")
    packed = stem_weight(weight)
    want = stem(x, packed, bias)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = stem(x, packed, bias)
    graph.replay()
    assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(1, 3, 26_768, 26_800, dtype=torch.float16, device="cuda")
    _, weight, bias = drawn((1, 3, 8, 8), 64, torch.float16, "cuda")
    got = stem(x, stem_weight(weight), bias)
    end = x[:, :, -64:, -64:]  # from its second window on, a part sees what the whole sees
    want = stem(end, stem_weight(weight), bias)
    assert torch.equal(got[:, :, -8:, -8:], want[:, :, -8:, -8:])
