"""The second half of a convolution through pointers whose sums were split between programs: it adds up the parts.

    y[m, k] = act(sum over i of parts[i, m, k] + bias[k] + residual[m, k]),    i = 0, 1, ... SPLIT_K - 1

A layer with few output pixels has too few tiles to keep a GPU busy, but its sums are long: so several programs share a
tile, each takes a part of the sum, and writes it in float32. Adding them here, always in the same order and not with
atomics in the order of their arrival, gives the same bits every time.

Cost: (4 * SPLIT_K + itemsize) * N * P * Q * K bytes.
"""
import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.convolution.epilogue import store_result
from course.kernels.convolution.problem import Convolution
from course.kernels.convolution.tile import along, output_pixels
from course.kernels.parts.sizes import cdiv, next_power_of_2


@triton.jit(do_not_specialize=["n_pixels"])
def conv2d_sum_parts_kernel(
    parts_ptr, epilogue, n_pixels, n_channels, result,
    SPLIT_K: tl.constexpr, PIXEL_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """One tile of BLOCK_M pixels by BLOCK_N channels of the result.

    parts_ptr: (SPLIT_K, n_pixels, n_channels), float32, contiguous
    result: rows and columns of the result
    PIXEL_DIM: which dimension of a tile is the pixels'
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    offs_m = first + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel_inside, k_inside = offs_m < n_pixels, k < n_channels

    # one part holds the channels of a pixel side by side
    parts_ptrs = parts_ptr + along(offs_m * n_channels, PIXEL_DIM) + along(k, 1 - PIXEL_DIM)
    inside = along(pixel_inside, PIXEL_DIM) & along(k_inside, 1 - PIXEL_DIM)
    acc = tl.load(parts_ptrs, mask=inside)
    for _ in range(1, SPLIT_K):
        parts_ptrs += n_pixels.to(tl.int64) * n_channels
        acc += tl.load(parts_ptrs, mask=inside)

    n, p, q = output_pixels(first, n_pixels, result[0], result[1], BLOCK_M)
    store_result(acc, epilogue, n, p, q, pixel_inside, k, k_inside, PIXEL_DIM)


def sum_parts(
    problem: Convolution, parts: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Writes the result of the problem whose sums are those of `parts` (SPLIT_K, pixels, filters) to `out`."""
    split, n_pixels, n_channels = parts.shape
    block = 1 << 18 if runtime.INTERPRET else 1024
    block_n = min(next_power_of_2(n_channels), 64)
    block_m = min(next_power_of_2(n_pixels), block // block_n)
    grid = (cdiv(n_pixels, block_m), cdiv(n_channels, block_n))
    conv2d_sum_parts_kernel[grid](
        parts, problem.epilogue(bias, residual, out), n_pixels, n_channels, (problem.P, problem.Q),
        SPLIT_K=split, PIXEL_DIM=int(not problem.out_channels_last), BLOCK_M=block_m, BLOCK_N=block_n,
    )
