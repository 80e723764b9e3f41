"""Convolution in small groups, depthwise above all, without tensor cores.

    y[n, k, p, q] = sum over c, r, s of x[n, g(k) * C + c, p * stride + r, q * stride + s] * w[k, c, r, s]

with C channels in a group and g(k) the group of filter k. A filter meets C * R * S elements only, 9 for a
depthwise 3x3, and no other filter (of its group apart) meets the same ones: as a matrix product it
would leave nearly all of a tensor core's tile empty. So each program takes some pixels of some channels and adds
up one filter tap after the other.

Cost: 2 * N * K * P * Q * C * R * S operations, and (N * C * groups * H * W + N * K * P * Q) * itemsize bytes if x,
which is read R * S times, comes out of the cache all times but the first.
"""
import triton
import triton.language as tl

from course import runtime
from course.kernels._activation import ACTIVATIONS
from course.kernels._conv2d_tile import along, finish, geometry, image_offset, output_pixels
from course.kernels._sizes import cdiv, next_power_of_2


@triton.jit(do_not_specialize=["n_pixels", "image", "result", "padding", "dilation"])
def conv2d_direct_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr, n_pixels, n_channels,
    image, result, stride, padding, dilation, x_strides, residual_strides, out_strides,
    C: tl.constexpr, FILTERS: tl.constexpr, R: tl.constexpr, S: tl.constexpr, ACTIVATION: tl.constexpr,
    INDEX: tl.constexpr, PIXEL_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    K_DIM: tl.constexpr = 1 - PIXEL_DIM
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

    finish(acc, bias_ptr, residual_ptr, out_ptr, n, p, q, pixel_inside, k, k_inside, residual_strides, out_strides,
           ACTIVATION, PIXEL_DIM)  # fmt: skip


def conv2d_direct(x, weight, bias, residual, out, stride, padding, dilation, groups, activation):
    """Writes the convolution to `out`: 4-d, checked, not empty."""
    n_filters, C, R, S = weight.shape
    pixels_last = out.stride(1) > out.stride(3)
    n_pixels = out.numel() // n_filters
    block = 1 << 18 if runtime.INTERPRET else 1024
    # up to 64 channels side by side make a whole memory transaction of a channels_last image
    block_n = min(next_power_of_2(n_filters), 1 if pixels_last and not runtime.INTERPRET else 64)
    block_m = min(next_power_of_2(n_pixels), block // block_n)
    conv2d_direct_kernel[(cdiv(n_pixels, block_m) * cdiv(n_filters, block_n),)](
        x, weight.contiguous(), bias, residual, out, n_channels=n_filters,
        **geometry(x, residual, out, (R, S), stride, padding, dilation),
        C=C, FILTERS=n_filters // groups, R=R, S=S, ACTIVATION=ACTIVATIONS[activation],
        PIXEL_DIM=int(pixels_last), BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return out
