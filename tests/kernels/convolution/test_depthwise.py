"""Depthwise convolutions: tiles of any size, whatever this machine would choose by itself."""
import pytest
import torch
import torch.nn.functional as F

from course import runtime
from course.kernels import conv2d
from course.kernels.convolution import depthwise
from course.kernels.convolution.conv2d import ENGINES
from course.kernels.convolution.depthwise import most_channels, packed_taps, part_of
from course.tuning import Config
from tests.kernels.convolution.test_conv2d import check, check_integers, integers, layouts, problem_of, random
from tests.kernels.engines import offer
from tests.kernels.images import LAYOUTS


def use_tiles(monkeypatch, rows, cols, vec, block=128):
    """From here on depthwise convolutions are computed in these tiles; returns the problems that were."""
    problems = []

    def one(problem):
        assert depthwise.can_run(problem)
        problems.append(problem)
        blocks = {"ROWS": rows, "COLS": cols, "VEC": min(vec, most_channels(problem)), "BLOCK": block}
        return [Config("depthwise", blocks, num_warps=max(1, block // 32))]

    offer(monkeypatch, ENGINES, one)
    return problems


@pytest.mark.parametrize("x_shape, size, how", [
    ((2, 40, 9, 6), (3, 3), dict(padding=1)),
    ((1, 24, 8, 9), (5, 5), dict(padding=2, stride=2)),
    ((1, 16, 7, 7), (7, 7), dict(padding=3)),
    ((3, 5, 11, 8), (2, 4), dict(padding=(1, 0), stride=(1, 3))),
    ((1, 48, 1, 5), (3, 3), dict(padding=3)),  # windows that meet only padding
    ((2, 8, 5, 4), (1, 1), dict(stride=4)),
    ((1, 1, 6, 6), (4, 3), dict(padding="same")),
])
@pytest.mark.parametrize("tile", [(1, 1, 1), (2, 2, 8), (7, 1, 4), (1, 4, 2)])
@layouts
def test_any_tile(x_shape, size, how, tile, layout, device, monkeypatch):
    problems = use_tiles(monkeypatch, *tile)
    C = x_shape[1]
    x = random(*x_shape, dtype=torch.float16, device=device, layout=layout)
    w = random(C, 1, *size, dtype=torch.float16, device=device)
    residual = random(*conv2d(x, w, groups=C, **how).shape, dtype=torch.float16, device=device, layout=layout)
    check(x, w, w[:, 0, 0, 0], residual, "relu", groups=C, **how)
    assert problems


@layouts
def test_every_dtype(layout, dtype, device, monkeypatch):
    use_tiles(monkeypatch, 2, 2, 8)
    x = random(2, 24, 5, 9, dtype=dtype, device=device, layout=layout)
    check(x, random(24, 1, 3, 3, dtype=dtype, device=device), activation="gelu", groups=24, padding=1)


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("w_layout", ["contiguous", "channels_last", "transposed", "expanded"])
def test_strides(x_layout, w_layout, device, monkeypatch):
    use_tiles(monkeypatch, 2, 2, 4)
    x = integers(2, 12, 6, 5, dtype=torch.float16, device=device, layout=x_layout)
    w = integers(12, 1, 3, 3, dtype=torch.float16, device=device, layout=w_layout)
    check_integers(x, w, padding=1, groups=12)


def test_other_images_and_channels_stay_apart(device, monkeypatch):
    """Infinity and NaN come out where their windows are, in their own channel."""
    use_tiles(monkeypatch, 4, 2, 8)
    x = random(2, 16, 6, 6, dtype=torch.float16, device=device, layout="channels_last")
    x[0, 3, 2, 2], x[1, 15, 0, 0] = float("inf"), float("nan")
    w = random(16, 1, 3, 3, dtype=torch.float16, device=device).abs()
    y, want = conv2d(x, w, padding=1, groups=16), F.conv2d(x.float(), w.float(), padding=1, groups=16)
    assert torch.equal(y.isinf(), want.isinf()) and torch.equal(y.isnan(), want.isnan())
    assert y.isinf().sum() == 9 and y.isnan().sum() == 4


def test_vectors_are_as_wide_as_every_pixel_allows(device):
    def widest(x, groups):
        w = torch.empty(groups, 1, 3, 3, dtype=x.dtype, device=device)
        return most_channels(problem_of(x, w, groups=groups, pad=1))

    x = torch.empty(2, 48, 6, 6, dtype=torch.float16, device=device)
    last = x.to(memory_format=torch.channels_last)
    assert widest(x, 48) == 1 and widest(last, 48) == 8 and widest(last.float(), 48) == 4
    assert widest(last[:, :44], 44) == 4 and widest(last[:, :15], 15) == 1
    assert widest(last[:, 1:33], 32) == 1  # not from a multiple of 16 bytes on
    assert widest(last[..., ::2], 48) == 8


def test_packed_taps(device):
    w = torch.randn(70, 1, 2, 3, device=device)
    packed = packed_taps(w)
    assert packed.stride(0) == 1 and torch.equal(packed, w)
    assert packed_taps(packed) is packed


def test_parts_of_the_channels():
    assert [part_of(n, 16) for n in (1, 16, 24, 36, 144, 7, 34)] == [1, 16, 12, 18, 16, 7, 17]


def test_what_it_offers(device, monkeypatch):
    """The predicted best first, each tile once, and never more than the registers hold."""
    monkeypatch.setattr(depthwise.runtime, "INTERPRET", False)
    monkeypatch.setattr(runtime, "num_sms", lambda: 132)
    depthwise.configs.cache_clear()
    x = torch.empty(16, 96, 56, 56, dtype=torch.float16, device=device).to(memory_format=torch.channels_last)
    for size in (3, 5, 7):
        problem = problem_of(x, torch.empty(96, 1, size, size, dtype=x.dtype, device=device), pad=size // 2, groups=96)
        offered = depthwise.configs(problem)
        costs = [config.cost for config in offered]
        assert len({str(config) for config in offered}) == len(offered) > 5 and costs == sorted(costs)
        for config in offered:
            rows, cols, vec = (config.blocks[name] for name in ("ROWS", "COLS", "VEC"))
            assert (rows * cols + size**2 + cols - 1 + size) * vec <= depthwise.MOST_REGISTERS
    depthwise.configs.cache_clear()
