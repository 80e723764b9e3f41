"""The second half of a convolution whose sums were split between programs: adds the parts and finishes the result.

    y[m, k] = act(sum over i of parts[i, m, k] + bias[k] + residual[m, k]),    i = 0, 1, ... SPLIT_K - 1

A layer with few output pixels has too few tiles to keep a GPU busy, but its sums are long: so several programs share a
tile, each takes a part of the sum, and writes it in float32. Adding them here, always in the same order and not with
atomics as they come, gives the same bits every time.

The matrix product has its own (`_matmul_split_k`): its result is one contiguous matrix, and the residual comes after
the activation. Here the result lies as images do, in either layout, and the residual comes before.

Cost: (4 * SPLIT_K + itemsize) * N * P * Q * K bytes.
"""
import triton
import triton.language as tl

from course import runtime
from course.kernels._activation import ACTIVATIONS
from course.kernels._conv2d_tile import along, finish, output_pixels
from course.kernels._sizes import cdiv, next_power_of_2


@triton.jit(do_not_specialize=["n_pixels", "result"])
def sum_parts_kernel(
    parts_ptr, bias_ptr, residual_ptr, out_ptr, n_pixels, n_channels, result, residual_strides, out_strides,
    SPLIT_K: tl.constexpr, ACTIVATION: tl.constexpr, PIXEL_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds what SPLIT_K programs computed of each output element, always in the same order, and finishes it."""
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
    finish(acc, bias_ptr, residual_ptr, out_ptr, n, p, q, pixel_inside, k, k_inside, residual_strides, out_strides,
           ACTIVATION, PIXEL_DIM)  # fmt: skip


def sum_parts(parts, bias, residual, out, activation):
    """Finishes the sums of `parts` (SPLIT_K, pixels, channels) into `out`."""
    split, n_pixels, n_channels = parts.shape
    block = 1 << 18 if runtime.INTERPRET else 1024
    block_n = min(next_power_of_2(n_channels), 64)
    block_m = min(next_power_of_2(n_pixels), block // block_n)
    grid = (cdiv(n_pixels, block_m), cdiv(n_channels, block_n))
    sum_parts_kernel[grid](
        parts, bias, residual, out, n_pixels, n_channels, tuple(out.shape[2:]),
        out.stride() if residual is None else residual.stride(), out.stride(),
        SPLIT_K=split, ACTIVATION=ACTIVATIONS[activation], PIXEL_DIM=int(out.stride(1) > out.stride(3)),
        BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
