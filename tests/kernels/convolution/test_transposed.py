"""Images in PyTorch's default format, by way of channels_last."""
import pytest
import torch
import torch.nn.functional as F

from course.kernels.convolution import problem, tma, transposed
from course.kernels.convolution.conv2d import ENGINES
from course.kernels.convolution.problem import pixel_step
from course.kernels.convolution.transposed import transpose_images
from tests.kernels.convolution.test_conv2d import check, engine_of, problem_of, random, use_tma
from tests.marks import needs_tma


@pytest.fixture(autouse=True)
def small_problems_too(monkeypatch):
    monkeypatch.setattr(problem, "SMALL", 0)


@needs_tma
@pytest.mark.parametrize("x_shape, w_shape, how", [
    ((2, 64, 6, 7), (72, 64, 3, 3), dict(padding=1)),
    ((2, 64, 6, 8), (72, 64, 3, 3), dict(padding=1, stride=2)),
    ((2, 128, 6, 7), (128, 4, 3, 3), dict(padding=1, groups=32)),
    ((3, 32, 5, 1), (64, 32, 1, 1), {}),
])
@pytest.mark.parametrize("x_layout, w_layout", [
    ("contiguous", "contiguous"), ("contiguous", "channels_last"), ("every other column", "contiguous"),
])
def test_values(x_shape, w_shape, how, x_layout, w_layout, dtype, device, monkeypatch):
    groups = how.get("groups", 1)
    channels = min(w_shape[1] * (16 if groups > 1 else 1), 64 if dtype != torch.float32 else 32)
    problems = use_tma(monkeypatch, (1, 4, 4), channels=channels, slices=2, engine=transposed)
    x = random(*x_shape, dtype=dtype, device=device, layout=x_layout)
    w = random(*w_shape, dtype=dtype, device=device, layout=w_layout)
    y = F.conv2d(x.float(), w.float(), **how)
    check(x, w, w[:, 0, 0, 0], random(*y.shape, dtype=dtype, device=device), "relu", **how)
    assert problems


@needs_tma
def test_few_channels(device, monkeypatch):
    problems = use_tma(monkeypatch, (1, 2, 8), channels=32, engine=transposed)
    x = random(2, 3, 12, 11, dtype=torch.float16, device=device)
    check(x, random(16, 3, 7, 7, dtype=torch.float16, device=device), stride=2, padding=3)
    assert problems


@needs_tma
def test_when(device, monkeypatch):
    use_tma(monkeypatch)

    def engine(x, w, **how):
        return engine_of(problem_of(x, w, **how))[1]

    x, w = torch.empty(2, 64, 6, 6, dtype=torch.float16, device=device), torch.empty(64, 64, 3, 3, dtype=torch.float16)
    last = x.to(memory_format=torch.channels_last)
    assert engine(x, w) is transposed and engine(last, w) is tma
    assert engine(last, w.to(memory_format=torch.channels_last)) is tma
    assert engine(x[:, :31], w[:, :31]) is not transposed  # nothing that TMA can read in channels_last either
    assert engine(x[..., :5], w) is not transposed  # not one step from pixel to pixel
    monkeypatch.setattr(problem, "SMALL", 2**24)
    assert engine(x, w) is not transposed
    assert transposed in ENGINES.by_name.values()


@pytest.mark.parametrize("shape", [(2, 70, 9, 7), (1, 64, 8, 8), (3, 1, 5, 1), (2, 24, 1, 6)])
@pytest.mark.parametrize("back", [False, True])
def test_copies(shape, back, dtype, device):
    x, out = torch.randn(shape, device=device).to(dtype), torch.full(shape, float("nan"), dtype=dtype, device=device)
    if back:
        x = x.to(memory_format=torch.channels_last)
    else:
        out = out.to(memory_format=torch.channels_last)
    transpose_images(x, out)
    assert torch.equal(out, x)


def test_copies_from_any_address(device):
    """Elements in front of a multiple of 16 bytes are not read as part of a vector."""
    memory = torch.randn(2 * 16 * 8 * 8 + 3, device=device).half()
    x = memory[3:].view(2, 16, 8, 8)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    transpose_images(x, out)
    assert torch.equal(out, x)


def test_one_step_from_pixel_to_pixel():
    def step(x):
        return pixel_step(x.shape[2:], x.stride())

    x = torch.empty(2, 3, 4, 5)
    assert step(x) == 1 and step(x.to(memory_format=torch.channels_last)) == 3
    assert step(x[..., :4]) is None and step(x[..., ::2]) is None
    assert step(x[..., :1]) == 5 and step(x[:, :, :1, :4]) == 1
