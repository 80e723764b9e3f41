"""`draw_traffic`, by its words."""
import os

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
