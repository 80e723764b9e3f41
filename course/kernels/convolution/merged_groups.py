"""Convolution in groups of few channels, on tensor cores: several groups together, as one with zeros in its filters.

    y[k] = sum over all channels c of the merged groups of x[c] * w'[k, c],    w'[k, c] = w[k, c] in k's group, else 0

A filter of 4 channels would leave most of a tensor core's tile empty, and a pixel's 4 channels are less than what TMA
copies at once. So as many groups as make 64 filters (16, in ResNeXt-50's first stage) become one, whose matrix of
weights is block-diagonal: each filter has zeros for the channels of the other groups. That is 16 times as many
multiplications, which tensor cores do at more than 16 times the rate. The filters are laid out so at each call, one
small launch; the rest is the engine `tma`, or where it cannot run, `pointers`.

A product with zero is not zero where x is infinite or NaN: there the other merged groups get NaN as well.

Cost beside that of the product: the zeros, K * R * S * 64 * itemsize bytes written and read.
"""
import dataclasses
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution import pointers, tma
from course.kernels.convolution.boxes import LEAST_FILTERS
from course.kernels.convolution.problem import Convolution
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.runtime import per_gpu
from course.tuning import Config

LARGEST_GROUP = 128
"""Channels or filters of merged groups: more would be too many zeros."""


@triton.jit(do_not_specialize=["n_rows"])
def merge_groups_kernel(
    weight_ptr, out_ptr, n_rows, strides,
    C: tl.constexpr, FILTERS: tl.constexpr, MERGED: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):
    """Writes the filters (K, C, R, S), with `strides`, as (K, R, S, MERGED * C): BLOCK_M of the K * R * S rows.

    FILTERS, MERGED: filters of a group, and how many groups become one
    """
    pdl_wait(PDL)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.arange(0, BLOCK_N)
    k, r, s = row // (R * S), row // S % R, row % S
    mine = (k // FILTERS % MERGED)[:, None] == (col // C)[None, :]
    offs = (k * strides[0] + r * strides[2] + s * strides[3])[:, None] + (col % C * strides[1])[None, :]
    weight = tl.load(weight_ptr + offs, mask=(row < n_rows)[:, None] & mine, other=0.0)
    pdl_launch_dependents(PDL)
    inside = (row < n_rows)[:, None] & (col < MERGED * C)[None, :]
    tl.store(out_ptr + row.to(tl.int64)[:, None] * (MERGED * C) + col[None, :], weight, mask=inside)


def merged_filters(weight: torch.Tensor, group_filters: int, merged: int) -> torch.Tensor:
    """The filters (K, merged * C, R, S) of `weight` (K, C, R, S), channels_last, with zeros for other groups."""
    K, C, R, S = weight.shape
    out = weight.new_empty(K, R, S, merged * C)
    block_n = next_power_of_2(merged * C)
    block_m = min(next_power_of_2(K * R * S), (1 << 18 if runtime.INTERPRET else 2048) // block_n)
    merge_groups_kernel[(cdiv(K * R * S, block_m),)](
        weight, out, K * R * S, weight.stride(), C=C, FILTERS=group_filters, MERGED=merged, R=R, S=S,
        BLOCK_M=block_m, BLOCK_N=block_n, **pdl_options(),
    )
    return out.permute(0, 3, 1, 2)


def merged(problem: Convolution) -> Convolution | None:
    """The same with as few groups merged as fill a tile; None where that would take too many, or gain nothing."""
    p = problem
    if p.groups == 1:
        return None
    run = 64 // p.dtype.itemsize  # channels that TMA copies at once, at least
    least = math.lcm(LEAST_FILTERS // math.gcd(LEAST_FILTERS, p.group_filters), run // math.gcd(run, p.C))
    if p.groups % least or least == 1 or least * max(p.C, p.group_filters) > LARGEST_GROUP:
        return None
    return p._replace(groups=p.groups // least, C=p.C * least)


def can_run(problem: Convolution) -> bool:
    """Groups that can be merged, in images with their channels side by side, and enough work for one more launch."""
    p = merged(problem)
    if p is None or not p.worth_measuring or p.dtype == torch.float32 and p.precision == "ieee":
        return False
    return p.x_channels_last and p.out_channels_last


def engine(merged: Convolution):
    return tma if tma.can_run(merged) else pointers


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    p = merged(problem)
    return [dataclasses.replace(config, engine="merged_groups") for config in engine(p).configs(p)]


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, *rest = operands
    p = merged(problem)
    filters = merged_filters(weight, problem.group_filters, problem.groups // p.groups)
    engine(p).launch(p, config, (x, filters, *rest))
