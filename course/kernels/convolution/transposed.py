"""Convolution of images in PyTorch's default format by way of channels_last, as cuDNN computes it.

A window's elements are far apart in an image whose columns are innermost: TMA cannot copy them, and a program that
gathers them takes several times as long. So x is copied to channels_last, convolved by one of the engines that want it
so, and the result copied back: what comes and what goes has the memory format that PyTorch's function would give it.

Cost beside that of the convolution: 2 * (N * C * H * W + N * K * P * Q) * itemsize bytes. A model that stays in
channels_last from its first image to its last (`model.to(memory_format=torch.channels_last)`, and its images likewise)
has none of it.
"""
import dataclasses
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution import few_channels, merged_groups, tma
from course.kernels.convolution.problem import Convolution, pixel_step
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES, aligned
from course.runtime import per_gpu
from course.tuning import Config


@triton.jit(do_not_specialize=["n_pixels", "n_channels"])
def transpose_images_kernel(
    x_ptr, out_ptr, n_pixels, n_channels, x_strides, out_strides,
    ALIGN_P: tl.constexpr, ALIGN_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):
    """Copies BLOCK_P pixels of BLOCK_C channels of one image.

    n_pixels, n_channels: of an image
    x_strides, out_strides: of images, channels and pixels
    ALIGN_P, ALIGN_C: runs of pixels, and of channels, begin at a multiple of so many elements
    """
    tiles_c, tiles_p = tl.cdiv(n_channels, BLOCK_C), tl.cdiv(n_pixels, BLOCK_P)
    image = (tl.program_id(0) // (tiles_c * tiles_p)).to(tl.int64)
    p = tl.program_id(0) // tiles_c % tiles_p * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(0) % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (p < aligned(n_pixels, ALIGN_P))[:, None] & (c < aligned(n_channels, ALIGN_C))[None, :]
    pdl_wait(PDL)
    x_offs = image * x_strides[0] + (p.to(tl.int64) * x_strides[2])[:, None] + (c.to(tl.int64) * x_strides[1])[None, :]
    x = tl.load(x_ptr + tl.multiple_of(x_offs, (ALIGN_P, ALIGN_C)), mask=inside)
    pdl_launch_dependents(PDL)
    out_offs = image * out_strides[0] + (p.to(tl.int64) * out_strides[2])[:, None]
    out_offs += (c.to(tl.int64) * out_strides[1])[None, :]
    tl.store(out_ptr + tl.multiple_of(out_offs, (ALIGN_P, ALIGN_C)), x, mask=inside)


def transpose_images(x: torch.Tensor, out: torch.Tensor) -> None:
    """Copies the images `x` (N, C, H, W) to `out`, of the same shape; rows of each follow each other without gaps."""
    N, C, H, W = x.shape
    steps = tuple((t.stride(0), t.stride(1), pixel_step((H, W), t.stride())) for t in (x, out))
    begin = math.gcd(VECTOR_BYTES, x.data_ptr(), out.data_ptr()) // x.element_size()

    def align(length, run):
        others = [s for step in steps if step[run] == 1 for d, s in enumerate(step) if d != run]
        return math.gcd(begin, length, *others)

    block = 1 << 9 if runtime.INTERPRET else 64
    block_p, block_c = min(block, next_power_of_2(H * W)), min(block, next_power_of_2(C))
    transpose_images_kernel[(N * cdiv(H * W, block_p) * cdiv(C, block_c),)](
        x, out, H * W, C, *steps, ALIGN_P=align(H * W, 2), ALIGN_C=align(C, 1), BLOCK_P=block_p, BLOCK_C=block_c,
        **pdl_options(),
    )


def channels_last_strides(channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    return height * width * channels, 1, width * channels, channels


@per_gpu
def inner(problem: Convolution) -> tuple[object, Convolution] | None:
    """The engine that computes the same in channels_last, and that problem; None where none can."""
    p = problem._replace(memory_format=torch.channels_last, residual_aligned=True)
    if p.residual_strides is not None:
        p = p._replace(residual_strides=p.out_strides)
    if few_channels.can_run(p):
        return few_channels, p
    if not p.tma_reads:
        p = p._replace(x_strides=channels_last_strides(p.channels, p.H, p.W), aligned=True)
    return next(((engine, p) for engine in (merged_groups, tma) if engine.can_run(p)), None)


def can_run(problem: Convolution) -> bool:
    """Images or results that are not in channels_last, and so much work that their copies are soon made up for."""
    p = problem
    if p.x_channels_last and p.out_channels_last or not p.worth_measuring or runtime.capability() < (9, 0):
        return False
    return p.x_without_gaps and inner(p) is not None


@per_gpu
def configs(problem: Convolution) -> list[Config]:
    engine, p = inner(problem)
    return [dataclasses.replace(config, engine="transposed") for config in engine.configs(p)]


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, bias, residual, out = operands
    engine, p = inner(problem)
    if p.x_strides != problem.x_strides:
        x, default = torch.empty_like(x, memory_format=torch.channels_last), x
        transpose_images(default, x)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    if problem.out_channels_last:
        engine.launch(p, config, (x, weight, bias, residual, out))
    else:
        last = torch.empty_like(out, memory_format=torch.channels_last)
        engine.launch(p, config, (x, weight, bias, residual, last))
        transpose_images(last, out)
