"""An image as rows of patches: what turns a ViT's patch convolution into a linear layer.

    out[b, 1 + i * GW + j, (c, r, s)] = x[b, c, i * PH + r, j * PW + s],    out[b, 0, :] = 0

A convolution whose stride is its kernel reads every pixel once, so its implicit GEMM has nothing to share between
windows, and its gathers (PW pixels at a time) are slower than one pass that puts the patches side by side. Row 0 is the
class token's place: what follows works on one matrix, and adds that token with the positions.

Cost: 2 * B * C * H * W * itemsize bytes, and the rows of zeros.
"""
import math

import torch
import triton
import triton.language as tl

from course.kernels.parts.checks import check_tensors, pair
from course.kernels.parts.modes import torch_function
from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.operators import custom_op

WIDEST_BLOCK = 1024  # pixels of a row that one program takes


@triton.jit
def patchify_kernel(
    x_ptr, out_ptr, x_strides, out_stride_b, C, GH, GW,
    PH: tl.constexpr, PW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_X: tl.constexpr, PDL: tl.constexpr,
):
    """One channel of one row of patches, BLOCK_X columns of x, and its part of the row of zeros.

    x_ptr: x (B, C, H, W)
    out_ptr: (B, 1 + GH * GW, C * PH * PW), contiguous but for the images, `out_stride_b` apart
    GH, GW: patches from top to bottom and from left to right, each of PH by PW pixels
    """
    pdl_wait(PDL)
    c = tl.program_id(0) % C
    i = tl.program_id(0) // C % GH
    b = (tl.program_id(0) // (C * GH)).to(tl.int64)
    r = tl.arange(0, BLOCK_R)[:, None]
    x = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    inside = (r < PH) & (x < GW * PW)

    x_ptr += b * x_strides[0] + c.to(tl.int64) * x_strides[1]
    offs = (i * PH + r).to(tl.int64) * x_strides[2] + x.to(tl.int64) * x_strides[3]
    pixels = tl.load(x_ptr + offs, mask=inside)

    out_ptr += b * out_stride_b + c * (PH * PW)
    row = 1 + i * GW + x // PW
    tl.store(out_ptr + row.to(tl.int64) * (C * PH * PW) + r * PW + x % PW, pixels, mask=inside)
    if (i == 0) & (tl.program_id(1) == 0):  # the class token's row, each program its channel's part
        s = tl.arange(0, BLOCK_X)[None, :]
        for first in range(0, PW, BLOCK_X):
            zeros = tl.zeros((BLOCK_R, BLOCK_X), pixels.dtype)
            tl.store(out_ptr + r * PW + first + s, zeros, mask=(r < PH) & (first + s < PW))


@torch_function()
def patchify(input: torch.Tensor, patch_size: int | tuple[int, int]) -> torch.Tensor:
    """Patches of `input` (B, C, H, W) as the rows of (B, 1 + patches, C * PH * PW), after one row of zeros per image.

    Patches are numbered row by row; those that would hang over the right or lower edge are left out, as a convolution
    of that stride leaves them out. Row 1 + p is column p of torch.nn.functional.unfold with that stride.
    Any strides; float32, float16, bfloat16. Raises ValueError on other shapes, TypeError on other dtypes.
    """
    check_tensors("patchify", input=input)
    patch_size = pair("patchify", "patch_size", patch_size, minimum=1)
    if input.ndim != 4:
        raise ValueError(f"patchify: expected input (B, C, H, W), got {tuple(input.shape)}")
    if input.shape[2] < patch_size[0] or input.shape[3] < patch_size[1]:
        raise ValueError(f"patchify: expected images of at least {patch_size}, got {tuple(input.shape)}")
    return _patchify(input, patch_size)


@custom_op("patchify")
def _patchify(x: torch.Tensor, patch_size: list[int]) -> torch.Tensor:
    out = _empty_rows(x, patch_size)
    if out.numel() == 0:
        return out
    (PH, PW), (B, C, H, W) = patch_size, x.shape
    GH, GW = H // PH, W // PW
    block_r, block_x = next_power_of_2(PH), min(next_power_of_2(GW * PW), WIDEST_BLOCK)
    grid = B * GH * C, cdiv(GW * PW, block_x)
    patchify_kernel[grid](
        x, out, x.stride(), out.stride(0), C, GH, GW, PH=PH, PW=PW, BLOCK_R=block_r, BLOCK_X=block_x,
        num_warps=min(max(block_r * block_x // 512, 1), 8), **pdl_options(math.prod(grid)),
    )
    return out


@torch.library.register_fake(_patchify)
def _empty_rows(x, patch_size):
    (PH, PW), (B, C, H, W) = patch_size, x.shape
    return x.new_empty(B, 1 + (H // PH) * (W // PW), C * PH * PW)
