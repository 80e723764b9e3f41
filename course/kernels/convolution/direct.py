"""Convolution in small groups, depthwise above all, without tensor cores.

    y[n, k, p, q] = sum over c, r, s of x[n, g(k) * C + c, p * stride + r, q * stride + s] * w[k, c, r, s]

with C channels in a group and g(k) the group of filter k. A filter meets C * R * S elements only, 9 for a
depthwise 3x3, and no other filter (of its group apart) meets the same ones: as a matrix product it
would leave nearly all of a tensor core's tile empty. So each program takes some pixels of some channels and adds
up one filter tap after the other.

Cost: 2 * N * K * P * Q * C * R * S operations, and (N * C * groups * H * W + N * K * P * Q) * itemsize bytes if x,
which is read R * S times, comes out of the cache all times but the first.
"""
import functools

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution.epilogue import store_result
from course.kernels.convolution.problem import Convolution
from course.kernels.convolution.tile import Geometry, along, geometry_of, image_offset, index_dtype, output_pixels
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.tuning import Config

SMALL_GROUP = 16  # channels * filters of a group that would leave a tensor core's tile nearly empty


@triton.jit(do_not_specialize=["n_pixels"])
def conv2d_direct_kernel(
    x_ptr, weight_ptr, epilogue,
    n_pixels, n_channels, geometry,
    C: tl.constexpr, FILTERS: tl.constexpr, R: tl.constexpr, S: tl.constexpr, INDEX: tl.constexpr,
    PIXEL_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """One tile of BLOCK_M pixels by BLOCK_N channels of the result.

    x_ptr: x (N, C * groups, H, W), with the strides in `geometry`
    weight_ptr: the filters (K, C, R, S), contiguous
    n_pixels, n_channels: of the result, the pixels in all images
    FILTERS: filters of a group
    INDEX: the dtype of offsets within a window
    PIXEL_DIM: which dimension of a tile is the pixels'
    """
    K_DIM: tl.constexpr = 1 - PIXEL_DIM
    image, result, stride, padding, dilation, x_strides = geometry
    tiles_k = tl.cdiv(n_channels, BLOCK_N)
    first = (tl.program_id(0) // tiles_k).to(tl.int64) * BLOCK_M
    n, p, q = output_pixels(first, n_pixels, result[0], result[1], BLOCK_M)
    k = tl.program_id(0) % tiles_k * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel_inside, k_inside = first + tl.arange(0, BLOCK_M) < n_pixels, k < n_channels

    # the top left corner of every window, in the first channel of every filter's group
    h, w = p * stride[0] - padding[0], q * stride[1] - padding[1]
    channel_offset = (k // FILTERS * C).to(tl.int64) * x_strides[1]
    x_ptrs = x_ptr + along(image_offset(n, h, w, x_strides), PIXEL_DIM) + along(channel_offset, K_DIM)
    weight_ptrs = weight_ptr + k.to(tl.int64) * (C * R * S)

    acc = tl.zeros((BLOCK_M, BLOCK_N) if PIXEL_DIM == 0 else (BLOCK_N, BLOCK_M), tl.float32)
    for i in range(C * R * S):
        c, dh, dw = tl.cast(i // (R * S), INDEX), i // S % R * dilation[0], i % S * dilation[1]
        hit = (h + dh >= 0) & (h + dh < image[0]) & (w + dw >= 0) & (w + dw < image[1]) & pixel_inside
        offset = c * x_strides[1] + dh.to(INDEX) * x_strides[2] + dw.to(INDEX) * x_strides[3]
        x = tl.load(x_ptrs + offset, mask=along(hit, PIXEL_DIM) & along(k_inside, K_DIM), other=0.0)
        weight = tl.load(weight_ptrs + i, mask=k_inside, other=0.0)
        acc += x.to(tl.float32) * along(weight.to(tl.float32), K_DIM)

    store_result(acc, epilogue, n, p, q, pixel_inside, k, k_inside, PIXEL_DIM)


def can_run(problem: Convolution) -> bool:
    """Any groups small enough."""
    return problem.groups > 1 and problem.C * problem.group_filters <= SMALL_GROUP


@functools.lru_cache(maxsize=4096)
def configs(problem: Convolution) -> list[Config]:
    """One: up to 64 channels side by side make a whole memory transaction of a channels_last image."""
    block = 1 << 18 if runtime.INTERPRET else 1024
    channels = 64 if problem.out_channels_last or runtime.INTERPRET else 1
    block_n = min(next_power_of_2(problem.K), channels)
    block_m = min(next_power_of_2(problem.n_pixels), block // block_n)
    return [Config("direct", {"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps=4, num_stages=3)]


def launch(problem: Convolution, config: Config, operands: tuple[torch.Tensor | None, ...]) -> None:
    """The convolution of `operands`: x, the filters, bias, residual, and the result, which it writes."""
    x, weight, bias, residual, out = operands
    grid, geometry, options = plan(problem, config)
    conv2d_direct_kernel[grid](
        x, weight.contiguous(), problem.epilogue(bias, residual, out),
        problem.n_pixels, problem.K, geometry, **options,
    )


@functools.lru_cache(maxsize=4096)
def plan(problem: Convolution, config: Config) -> tuple[tuple[int], Geometry, dict]:
    """The grid, the geometry, and what is compiled in."""
    p, sizes = problem, config.blocks
    grid = (cdiv(p.n_pixels, sizes["BLOCK_M"]) * cdiv(p.K, sizes["BLOCK_N"]),)
    return grid, geometry_of(p), {
        "C": p.C, "FILTERS": p.group_filters, "R": p.R, "S": p.S, "INDEX": index_dtype(p),
        "PIXEL_DIM": int(not p.out_channels_last), **config.options,
    }
