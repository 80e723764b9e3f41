"""The pictures of chapter 2: what chains of kernels move, and the sum that goes along a row."""
import os

import pytest
import torch
import triton
import triton.language as tl

from course import lab


@triton.jit
def twice(x_ptr, d_ptr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(d_ptr + offs, 2 * tl.load(x_ptr + offs))


@triton.jit
def total(d_ptr, s_ptr, BLOCK: tl.constexpr):
    tl.store(s_ptr, tl.sum(tl.load(d_ptr + tl.arange(0, BLOCK)), axis=0))


def test_traffic_says_what_moves():
    x, d, s = torch.ones(8), torch.ones(8), torch.ones(1)
    chain = [lab.trace(twice, (1,), x, d, BLOCK=8), lab.trace(total, (1,), d, s, BLOCK=8)]
    picture = lab.draw_traffic({"two kernels": chain, "the first": chain[:1]})
    assert picture.alt == (
        "two kernels, 100 bytes: twice reads x (32) and writes d (32); total reads d (32) and writes s (4)\n"
        "the first, 64 bytes: twice reads x (32) and writes d (32)"
    )
    picture.savefig(os.devnull, format="png")


def test_online_keeps_maximum_and_sum():
    picture = lab.draw_online([0.0, 1.0, 3.0, 2.0, -1.0], 2)
    assert picture.alt.splitlines() == [
        "block 0: m = 1.00, s = 1.37",
        "block 1: m = 3.00, s = 1.37 × 0.14 + 1.37 = 1.55",
        "block 2: m = 3.00, s = 1.55 × 1.00 + 0.02 = 1.57",
    ]
    picture.savefig(os.devnull, format="png")
    assert f"{float(torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0]).sub(3).exp().sum()):.2f}" == "1.57"


def test_online_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="draw_online: expected 1 to 6 blocks to draw, got 7"):
        lab.draw_online([0.0] * 7, 1)
