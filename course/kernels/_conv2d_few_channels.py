"""Convolution of images with few channels, a network's first layer, for Hopper and later.

    y[k, (n, p, q)] = sum over r of sum over (s, c) of weight[k, r, (s, c)] * x[n, p * stride + r, (q * stride + s, c)]

A pixel of 3 channels is far less than the 64 bytes that the copy engine should move at once. But the S pixels of a
row that a window covers are neighbours in memory: taken for the channels of one wide pixel, they turn a filter of
7 by 7 taps and 3 channels into one of 7 by 1 taps and 21 channels. That the windows of neighbours overlap is nothing to
the copy engine, which can read from any multiple of 16 bytes on. So x is copied once, its channels filled up
with zeros until one window starts such a multiple after the other, and with it the padding left and right. The
filters are laid out likewise, and the rest is `_conv2d_tma`.

Cost beside that of the product: x read once and written once with the zeros, for the 3 channels of a stem and in
float16 14 bytes a pixel, where 64 filters with a stride of 2 write 32.
"""
import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._conv2d_tma_configs import SMALL
from course.kernels._conv2d_tma_launch import conv2d_tma, tma_writes
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._sizes import cdiv, next_power_of_2

FEW = 8  # channels


@triton.jit(do_not_specialize=["n_rows", "height", "width", "left"])
def spread_rows_kernel(
    x_ptr, out_ptr, n_rows, height, width, left, length, x_strides,
    C: tl.constexpr, SPREAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Writes every row of every image as `length` elements: `left` pixels of zeros, the row's pixels, and zeros again.

    A pixel takes SPREAD elements, of which C are its channels.
    """
    wait_for_previous(EARLY)
    blocks_n = tl.cdiv(length, BLOCK_N)
    row = (tl.program_id(0) // blocks_n).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(0) % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    w, c = col // SPREAD - left, col % SPREAD
    hit = (w >= 0) & (w < width) & (c < C)
    x_ptrs = x_ptr + (row // height * x_strides[0] + row % height * x_strides[2])[:, None]
    x_ptrs += (c.to(tl.int64) * x_strides[1] + w.to(tl.int64) * x_strides[3])[None, :]
    x = tl.load(x_ptrs, mask=(row < n_rows)[:, None] & hit[None, :], other=0.0)
    tl.store(out_ptr + row[:, None] * length + col[None, :], x, mask=(row < n_rows)[:, None] & (col < length)[None, :])


def spread_rows(x: torch.Tensor, left: int, length: int, spread: int) -> torch.Tensor:
    """(N, H, length) of x (N, C, H, W): see the kernel."""
    N, C, H, W = x.shape
    out = x.new_empty(N, H, length)
    block_n = min(next_power_of_2(length), 1024)
    block_m = min(next_power_of_2(N * H), (1 << 18 if runtime.INTERPRET else 2048) // block_n)
    spread_rows_kernel[(cdiv(N * H, block_m) * cdiv(length, block_n),)](
        x, out, N * H, H, W, left, length, x.stride(),
        C=C, SPREAD=spread, BLOCK_M=block_m, BLOCK_N=block_n, **early_start(),
    )  # fmt: skip
    return out


def worth_spreading(x, weight, residual, out, padding, dilation, groups) -> bool:
    """Whether few enough channels come, and enough work that two more launches are soon made up for."""
    work = out.numel() * weight[0].numel()
    return (
        x.shape[1] <= FEW and dilation[1] == 1 and work >= SMALL
        and tma_writes(x, weight, residual, out, padding, dilation, groups)
    )  # fmt: skip


def conv2d_few_channels(x, weight, bias, residual, out, stride, padding, dilation, groups, activation):
    """Writes the convolution to `out`: 4-d, checked, not empty, and `worth_spreading`."""
    (N, C, H, _), (K, _, R, S), columns = x.shape, weight.shape, out.shape[3]
    once = 16 // x.itemsize  # elements
    spread = next(size for size in range(C, C + once) if stride[1] * size % once == 0)
    length = cdiv(((columns - 1) * stride[1] + S) * spread, once) * once
    rows = spread_rows(x, padding[2], length, spread)
    # past its end a window is filled with zeros by the copy engine, and a filter in memory
    window, terms = S * spread, cdiv(S * spread, 4 * once) * 4 * once
    windows = rows.as_strided((N, window, H, columns), (H * length, 1, length, stride[1] * spread))
    filters = spread_rows(weight, 0, terms, spread).as_strided((K, terms, R, 1), (R * terms, 1, terms, terms))
    down = (stride[0], 1), (*padding[:2], 0, 0), (dilation[0], 1)  # what is left to do, now that rows are done
    return conv2d_tma(windows, filters, bias, residual, out, *down, 1, activation)
