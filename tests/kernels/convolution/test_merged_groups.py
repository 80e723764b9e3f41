"""Groups of few channels, several of them as one."""
import pytest
import torch

from course import runtime
from course.kernels.convolution import merged_groups, pointers, problem, tma
from course.kernels.convolution.conv2d import ENGINES
from course.kernels.convolution.merged_groups import merged, merged_filters
from tests.kernels.convolution.test_conv2d import (
    check, check_integers, engine_of, integers, problem_of, random, use_tma,
)
from tests.kernels.engines import Forgetful
from tests.marks import needs_tma

GROUPS = [(32, 4, 4), (16, 8, 8), (8, 16, 32), (6, 32, 32), (16, 24, 8)]
"""How many, channels and filters of each."""


@pytest.fixture(autouse=True)
def small_problems_too(monkeypatch):
    monkeypatch.setattr(problem, "SMALL", 0)
    monkeypatch.setattr(ENGINES, "chosen", Forgetful())


@pytest.mark.parametrize("groups, channels, filters", GROUPS)
@pytest.mark.parametrize("how", [dict(padding=1), dict(stride=2, padding=1), dict(dilation=2)])
def test_values(groups, channels, filters, how, device):
    x = random(2, groups * channels, 6, 8, dtype=torch.float16, device=device, layout="channels_last")
    w = random(groups * filters, channels, 3, 2, dtype=torch.float16, device=device)
    check(x, w, w[:, 0, 0, 0], activation="relu", groups=groups, **how)


@needs_tma
@pytest.mark.parametrize("groups, channels, filters", [(32, 4, 4), (8, 16, 32)])
@pytest.mark.parametrize("split", [1, 3])
def test_through_tma(groups, channels, filters, split, device, monkeypatch):
    problems = use_tma(monkeypatch, (1, 4, 4), channels=32, split=split, engine=merged_groups)
    x = integers(2, groups * channels, 6, 8, dtype=torch.float16, device=device, layout="channels_last")
    x = x * (torch.rand(x.shape, device=device) < 0.2)
    w = integers(groups * filters, channels, 3, 3, dtype=torch.float16, device=device)
    residual = integers(2, groups * filters, 3, 4, dtype=torch.float16, device=device, layout="channels_last")
    check_integers(x, w, bias=w[:, 0, 0, 0], residual=residual, activation="relu", groups=groups, padding=1, stride=2)
    assert problems and merged_groups.engine(merged(problems[0])) is tma


@needs_tma
@pytest.mark.parametrize("split", [1, 2])
def test_groups_of_many_channels_through_tma(split, dtype, device, monkeypatch):
    problems = use_tma(monkeypatch, (1, 4, 4), channels=16, split=split, slices=2)
    x = random(2, 96, 5, 6, dtype=dtype, device=device, layout="channels_last")
    check(x, random(192, 32, 3, 3, dtype=dtype, device=device), groups=3, padding=1)
    assert problems


def test_what_is_merged(device, monkeypatch):
    """As few groups as make 64 filters and 64 bytes of channels, if that divides the groups."""
    monkeypatch.setattr(runtime, "capability", lambda: (9, 0))

    def merge(groups, channels, filters, dtype=torch.float16):
        x = torch.empty(1, groups * channels, 4, 4, dtype=dtype, device=device).to(memory_format=torch.channels_last)
        w = torch.empty(groups * filters, channels, 3, 3, dtype=dtype, device=device)
        asked = problem_of(x, w, groups=groups, pad=1)
        found = merged(asked)
        name, _ = engine_of(asked)
        assert (name == "merged_groups") == (found is not None)
        return found and (found.groups, found.C, found.group_filters)

    assert merge(32, 4, 4) == (2, 64, 64)
    assert merge(32, 8, 8) == (4, 64, 64)
    assert merge(32, 16, 16) == (8, 64, 64)
    assert merge(32, 32, 32) == (16, 64, 64)
    assert merge(16, 4, 4) == (1, 64, 64)
    assert merge(8, 8, 8, torch.float32) == (1, 64, 64)
    assert merge(8, 32, 64) is None  # one group is enough
    assert merge(6, 4, 4) is None
    assert merge(1, 64, 64) is None
    assert merge(64, 48, 2) is None  # too many zeros


@pytest.mark.parametrize("strides", ["contiguous", "channels_last"])
def test_the_filters(strides, device):
    w = random(12, 2, 3, 2, dtype=torch.float32, device=device, layout=strides)
    got = merged_filters(w, group_filters=3, merged=2)
    want = torch.zeros(12, 4, 3, 2, device=device)
    for k in range(12):
        first = k // 3 % 2 * 2
        want[k, first : first + 2] = w[k]
    assert torch.equal(got, want) and got.is_contiguous(memory_format=torch.channels_last)


def test_elsewhere_through_pointers(device, monkeypatch):
    monkeypatch.setattr(runtime, "capability", lambda: (8, 0))
    x = random(1, 128, 4, 4, dtype=torch.float16, device=device, layout="channels_last")
    w = random(128, 4, 3, 3, dtype=torch.float16, device=device)
    assert merged_groups.engine(merged(problem_of(x, w, groups=32))) is pointers
