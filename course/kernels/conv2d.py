"""Convolution of images with filters, as one matrix product whose left matrix is never written out.

    y[n, k, p, q] = act(sum over r, s, c of x[n, c, h, w] * weight[k, c, r, s] + bias[k] + residual[n, k, p, q])
                    h = p * stride + r * dilation - padding, w = q * stride + s * dilation - padding

The implicit GEMM (Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014): a row for each output
pixel (n, p, q), a column for each filter k, and one flat index over the R * S * C products of each sum. The left
matrix, every window of x side by side (im2col), would be R * S times as large as x: instead each program works
out, at each step along the sum, where in x its rows have their elements, and takes zero for those in the padding.

Cost: 2 * N * P * Q * K * R * S * C operations, and (N * C * H * W + K * C * R * S + N * K * P * Q) * itemsize bytes if
everything moves once. A 3x3 layer from 64 to 64 channels does 1152 operations for the 4 bytes that each output
element costs it in float16.
"""
import torch
import triton
import triton.language as tl

from course.kernels._activation import ACTIVATIONS
from course.kernels._checks import check_tensors
from course.kernels._conv2d_configs import conv2d_configs
from course.kernels._conv2d_direct import conv2d_direct
from course.kernels._conv2d_few_channels import conv2d_few_channels, worth_spreading
from course.kernels._conv2d_shape import empty_result, pad_sides, result_shape
from course.kernels._conv2d_split_k import sum_parts
from course.kernels._conv2d_tile import along, finish, geometry, image_offset, output_pixels
from course.kernels._conv2d_tma_launch import conv2d_tma, tma_reads
from course.kernels._dot import conv_precision, dot
from course.kernels._matmul_tile import grouped_tile
from course.kernels._sizes import cdiv
from course.kernels._window import pair
from course.runtime import best_config, custom_op

SMALL_GROUP = 16  # channels * filters of a group that would leave a tensor core's tile nearly empty


@triton.jit(do_not_specialize=["n_pixels", "image", "result", "padding", "dilation"])
def conv2d_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr, parts_ptr, n_pixels, n_filters,
    image, result, stride, padding, dilation, x_strides, residual_strides, out_strides,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, PADDED: tl.constexpr, CHANNELS_INNERMOST: tl.constexpr,
    X_PIXEL_DIM: tl.constexpr, OUT_PIXEL_DIM: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    TERMS: tl.constexpr = R * S * C
    STEPS: tl.constexpr = (TERMS + BLOCK_K * SPLIT_K - 1) // (BLOCK_K * SPLIT_K)
    K_DIM: tl.constexpr = 1 - X_PIXEL_DIM
    part, group = tl.program_id(1), tl.program_id(2)
    pid_m, pid_n = grouped_tile(tl.program_id(0), n_pixels, n_filters, BLOCK_M, BLOCK_N, 8)
    first = pid_m.to(tl.int64) * BLOCK_M
    n, p, q = output_pixels(first, n_pixels, result[0], result[1], BLOCK_M)
    filters = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)

    # once: the top left corner of every pixel's window, and every filter's first weight (past the end, the last one's)
    h, w = p * stride[0] - padding[0], q * stride[1] - padding[1]
    x_ptrs = x_ptr + group.to(tl.int64) * C * x_strides[1] + along(image_offset(n, h, w, x_strides), X_PIXEL_DIM)
    h, w = along(h, X_PIXEL_DIM), along(w, X_PIXEL_DIM)
    filter_rows = (group * n_filters + tl.minimum(filters, n_filters - 1)).to(tl.int64) * TERMS
    weight_ptrs = weight_ptr + filter_rows[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        start = (part * STEPS + step) * BLOCK_K
        terms = start + tl.arange(0, BLOCK_K)
        # each step: which filter tap and which channel a term belongs to
        if C % BLOCK_K == 0:  # the whole step lies in one tap: r and s are scalars, and the rows of x contiguous
            tap = start // C
            c = along(terms - tap * C, K_DIM)
        elif CHANNELS_INNERMOST:
            tap = along(terms // C, K_DIM)
            c = along(terms % C, K_DIM)
        else:
            tap = along(terms % (R * S), K_DIM)
            c = along(terms // (R * S), K_DIM)
        dh, dw = tap // S * dilation[0], tap % S * dilation[1]

        inside = along(terms, K_DIM) < TERMS
        if PADDED:
            inside &= (h + dh >= 0) & (h + dh < image[0]) & (w + dw >= 0) & (w + dw < image[1])
        offs = c.to(INDEX) * x_strides[1] + dh.to(INDEX) * x_strides[2] + dw.to(INDEX) * x_strides[3]
        x = tl.load(x_ptrs + offs, mask=inside, other=0.0)
        if X_PIXEL_DIM == 1:
            x = tl.trans(x)
        weight = tl.load(weight_ptrs + terms[:, None], mask=(terms < TERMS)[:, None], other=0.0)
        acc = dot(x, weight, acc, PRECISION)

    offs_m = first + tl.arange(0, BLOCK_M)
    k = group * n_filters + filters
    if parts_ptr is not None:
        n_channels = n_filters * tl.num_programs(2)
        rows = (part.to(tl.int64) * n_pixels + offs_m) * n_channels
        inside = (offs_m < n_pixels)[:, None] & (filters < n_filters)[None, :]
        tl.store(parts_ptr + rows[:, None] + k[None, :], acc, mask=inside)
    else:
        if OUT_PIXEL_DIM == 1:
            acc = tl.trans(acc)
        finish(acc, bias_ptr, residual_ptr, out_ptr, n, p, q, offs_m < n_pixels, k, filters < n_filters,
               residual_strides, out_strides, ACTIVATION, OUT_PIXEL_DIM)  # fmt: skip


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """act(conv2d(x, weight) + bias + residual), everything but the last two as `torch.nn.functional.conv2d`.

    x is (N, C, H, W) or (C, H, W), weight (K, C / groups, R, S), bias (K,), residual (N, K, P, Q) or (K, P, Q) as the
    result; all of one dtype (float32, float16, bfloat16), any strides. `padding` may be "valid", or "same" where
    stride is 1. `activation` is None, "relu", "gelu" or "gelu_tanh", and comes last, as in ResNet. The result is
    channels_last if x or weight is. Sums are float32, rounded once; float32 operands are multiplied as TF32 where
    torch.backends.cudnn.allow_tf32 allows it, but for groups so small that they do not go through tensor cores.
    Raises ValueError on sizes that do not fit together and on unequal devices, TypeError on unequal or other dtypes.
    """
    check_tensors("conv2d", x=x, weight=weight, bias=bias, residual=residual)
    if weight.ndim != 4 or min(weight.shape[0], *weight.shape[2:]) < 1:
        raise ValueError(f"conv2d: expected weight (K, C / groups, R, S), only C 0 at most, got {tuple(weight.shape)}")
    if x.ndim not in (3, 4) or min(x.shape[-2:]) < 1:
        raise ValueError(f"conv2d: expected x (N, C, H, W) or (C, H, W) with H and W at least 1, got {tuple(x.shape)}")
    K, C, R, S = weight.shape
    if not isinstance(groups, int) or groups < 1 or K % groups:
        raise ValueError(f"conv2d: expected groups that divide the {K} filters, got {groups!r}")
    if x.shape[-3] != C * groups:
        raise ValueError(f"conv2d: expected x with {C * groups} channels ({groups} groups of {C}), got {x.shape[-3]}")
    if bias is not None and bias.shape != (K,):
        raise ValueError(f"conv2d: expected bias ({K},), got {tuple(bias.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"conv2d: expected activation to be one of {list(ACTIVATIONS)}, got {activation!r}")
    stride = pair("conv2d", "stride", stride, minimum=1)
    dilation = pair("conv2d", "dilation", dilation, minimum=1)
    padding = pad_sides(padding, (R, S), stride, dilation)

    images = x if x.ndim == 4 else x.unsqueeze(0)
    shape = result_shape(images, weight, stride, padding, dilation)
    if min(shape[2:]) < 1:
        raise ValueError(f"conv2d: expected x that holds {R} by {S} taps at least once, got {tuple(x.shape)}")
    if residual is not None and residual.shape != shape[4 - x.ndim :]:
        raise ValueError(f"conv2d: expected residual {shape[4 - x.ndim :]}, got {tuple(residual.shape)}")
    if residual is not None and x.ndim == 3:
        residual = residual.unsqueeze(0)
    out = _conv2d(images, weight, bias, residual, stride, padding, dilation, groups, activation)
    return out if x.ndim == 4 else out.squeeze(0)


@custom_op("conv2d")
def _conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int, activation: str | None,
) -> torch.Tensor:  # fmt: skip
    out = empty_result(x, weight, stride, padding, dilation)
    if out.numel() == 0:
        return out
    bias = bias if bias is None else bias.contiguous()
    # the path is chosen here: small groups, what the copy engine can read, what it can read after a copy, the rest
    if groups > 1 and weight.shape[1] * weight.shape[0] // groups <= SMALL_GROUP:
        compute = conv2d_direct
    elif tma_reads(x, weight, residual, out, padding, dilation, groups):
        compute = conv2d_tma
    elif worth_spreading(x, weight, residual, out, padding, dilation, groups):
        compute = conv2d_few_channels
    else:
        compute = implicit_gemm
    return compute(x, weight, bias, residual, out, stride, padding, dilation, groups, activation)


@torch.library.register_fake(_conv2d)
def _(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    return empty_result(x, weight, stride, padding, dilation)


def implicit_gemm(x, weight, bias, residual, out, stride, padding, dilation, groups, activation):
    """Writes the convolution to `out`: 4-d, checked, not empty."""
    K, C, R, S = weight.shape
    n_filters, terms, n_pixels = K // groups, R * S * C, out.numel() // K
    precision = conv_precision(x.dtype)
    x_channels_last, out_channels_last = x.stride(1) <= x.stride(3), out.stride(1) <= out.stride(3)

    # copies the weights if they do not lie in the order of the sum
    channels_innermost = x_channels_last or C % 16 == 0
    weight = weight.contiguous(memory_format=torch.channels_last if channels_innermost else torch.contiguous_format)
    # pixels of windows far apart are no neighbours in memory, even where w is innermost
    x_pixel_dim = int(not x_channels_last and stride[1] < 8)

    def launch(config):
        blocks = config.kwargs
        split = blocks["SPLIT_K"]
        tiles = cdiv(n_pixels, blocks["BLOCK_M"]) * cdiv(n_filters, blocks["BLOCK_N"])
        parts = torch.empty((split, n_pixels, K), dtype=torch.float32, device=x.device) if split > 1 else None
        where = geometry(x, residual, out, (R, S), stride, padding, dilation)
        conv2d_kernel[(tiles, split, groups)](
            x, weight, bias, residual, out, parts, n_filters=n_filters, **where,
            C=C, R=R, S=S, PADDED=max(padding) > 0, CHANNELS_INNERMOST=channels_innermost,
            X_PIXEL_DIM=x_pixel_dim, OUT_PIXEL_DIM=int(not out_channels_last),
            ACTIVATION=ACTIVATIONS[activation], PRECISION=precision,
            **blocks, num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip
        if split > 1:
            sum_parts(parts, bias, residual, out, activation)

    coalesced = x_channels_last and out_channels_last and C % 16 == 0
    configs = conv2d_configs(n_pixels, n_filters, C, terms, groups, x.dtype, precision, coalesced)
    key = (*out.shape, C, R, S, *stride, *dilation, groups, x.dtype, precision, x_channels_last, out_channels_last)
    launch(best_config("conv2d", key, configs, launch))
    return out
