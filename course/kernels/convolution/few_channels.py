"""Convolution of images with few channels, a network's first layer, by TMA.

    y[k, (n, p, q)] = sum over r of sum over (s, c) of weight[k, r, (s, c)] * x[n, p * stride + r, (q * stride + s, c)]

A pixel of 3 channels is far less than the 64 bytes that TMA should copy at once. But the S pixels of a row that a
window covers are neighbours in memory: taken for the channels of one wide pixel, they turn a filter of
7 by 7 taps and 3 channels into one of 7 by 1 taps and 21 channels. That the windows of neighbours overlap does not
matter to TMA, which can read from any multiple of 16 bytes on. So x is copied once, its channels filled up
with zeros until one window starts such a multiple after the other, and with it the padding left and right. The
filters are laid out likewise, and the rest is the engine `tma`.

Cost beside that of the product: x read once and written once with the zeros, for the 3 channels of a stem and in
float16 14 bytes a pixel, where 64 filters with a stride of 2 write 32.
"""
import dataclasses
import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution import tma
from course.kernels.convolution.problem import FEW_CHANNELS, Convolution
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.tf32 import round_to_tf32
from course.runtime import per_gpu
from course.tuning import Config


@triton.jit(do_not_specialize=["n_rows", "height", "width", "left"])
def spread_rows_kernel(
    x_ptr, out_ptr, n_rows, height, width, left, length, x_strides,
    C: tl.constexpr, SPREAD: tl.constexpr, ROUNDING: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):
    """Writes every row of every image as `length` elements: `left` pixels of zeros, the row's pixels, and zeros again.

    A pixel takes SPREAD elements, of which C are its channels.
    """
    pdl_wait(PDL)
    blocks_n = tl.cdiv(length, BLOCK_N)
    row = (tl.program_id(0) // blocks_n).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    w, c = col // SPREAD - left, col % SPREAD
    hit = (w >= 0) & (w < width) & (c < C)
    x_ptrs = x_ptr + (row // height * x_strides[0] + row % height * x_strides[2])[:, None]
    x_ptrs += (c.to(tl.int64) * x_strides[1] + w.to(tl.int64) * x_strides[3])[None, :]
    x = tl.load(x_ptrs, mask=(row < n_rows)[:, None] & hit[None, :], other=0.0)
    if ROUNDING is not None:
        x = ROUNDING(x)
    tl.store(out_ptr + row[:, None] * length + col[None, :], x, mask=(row < n_rows)[:, None] & (col < length)[None, :])


def spread_rows(
    x: torch.Tensor, left: int, length: int, spread: int, rounding: triton.JITFunction | None
) -> torch.Tensor:
    """(N, H, length) of x (N, C, H, W): see the kernel."""
    N, C, H, W = x.shape
    out = x.new_empty(N, H, length)
    block_n = min(next_power_of_2(length), 1024)
    block_m = min(next_power_of_2(N * H), (1 << 18 if runtime.INTERPRET else 2048) // block_n)
    spread_rows_kernel[(cdiv(N * H, block_m) * cdiv(length, block_n),)](
        x, out, N * H, H, W, left, length, x.stride(),
        C=C, SPREAD=spread, ROUNDING=rounding, BLOCK_M=block_m, BLOCK_N=block_n, **pdl_options(),
    )
    return out


def can_run(problem: Convolution) -> bool:
    """Few enough channels, and enough work that two more launches are soon made up for."""
    few = problem.groups == 1 and problem.channels <= FEW_CHANNELS and problem.dilation[1] == 1
    return few and problem.worth_measuring and tma.can_write(problem)


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    return [dataclasses.replace(config, engine="few_channels") for config in tma.configs(plan(problem).windows)]


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, *rest = operands
    p = plan(problem)
    rounding = round_to_tf32 if problem.precision == "tf32" else None
    rows = spread_rows(x, problem.padding[2], p.length, p.spread, rounding)
    filters = spread_rows(weight, 0, p.windows.C, p.spread, rounding)  # (K, R, C)
    tma.launch(p.windows, config, (rows, filters.unsqueeze(2).permute(0, 3, 1, 2), *rest))


class SpreadPlan(NamedTuple):
    """How few channels are spread, and what is left to compute."""

    spread: int
    """elements that a pixel takes"""
    length: int
    """elements of a row of spread pixels"""
    windows: Convolution


@functools.lru_cache(maxsize=4096)
def plan(problem: Convolution) -> SpreadPlan:
    p, once = problem, 16 // problem.dtype.itemsize  # elements of 16 bytes
    spread = next(size for size in range(p.C, p.C + once) if p.stride[1] * size % once == 0)
    length = cdiv(((p.Q - 1) * p.stride[1] + p.S) * spread, once) * once
    window = p.S * spread
    return SpreadPlan(spread, length, p._replace(
        # past its end a window is filled with zeros by TMA, and a filter in memory
        channels=window, C=cdiv(window, 4 * once) * 4 * once, W=p.Q, S=1,
        x_strides=(p.H * length, 1, length, p.stride[1] * spread),
        # what is left to do, now that rows are done
        stride=(p.stride[0], 1), padding=(*p.padding[:2], 0, 0), dilation=(p.dilation[0], 1),
        precision="ieee" if p.precision == "ieee" else "tf32_operands",
    ))
