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

from course.kernels._checks import check_tensors
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._sizes import cdiv, next_power_of_2
from course.kernels._window import pair
from course.runtime import custom_op

WIDEST = 1024  # pixels of a row that one program takes


@triton.jit
def patchify_kernel(
    x_ptr, out_ptr, x_strides, out_stride_b, C, GH, GW,
    PH: tl.constexpr, PW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_X: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
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


def patchify(x: torch.Tensor, patch_size: int | tuple[int, int]) -> torch.Tensor:
    """Patches of `x` (B, C, H, W) as the rows of (B, 1 + patches, C * PH * PW), after one row of zeros per image.

    Patches are numbered row by row; those that would hang over the right or lower edge are left out, as a convolution
    of that stride leaves them out. Row 1 + p is column p of torch.nn.functional.unfold with that stride.
    Any strides; float32, float16, bfloat16. Raises ValueError on other shapes, TypeError on other dtypes.
    """
    check_tensors("patchify", x=x)
    patch_size = pair("patchify", "patch_size", patch_size, minimum=1)
    if x.ndim != 4:
        raise ValueError(f"patchify: expected x (B, C, H, W), got {tuple(x.shape)}")
    if x.shape[2] < patch_size[0] or x.shape[3] < patch_size[1]:
        raise ValueError(f"patchify: expected images of at least {patch_size}, got x {tuple(x.shape)}")
    return _patchify(x, patch_size)


@custom_op("patchify")
def _patchify(x: torch.Tensor, patch_size: list[int]) -> torch.Tensor:
    out = _empty_rows(x, patch_size)
    if out.numel() == 0:
        return out
    (PH, PW), (B, C, H, W) = patch_size, x.shape
    GH, GW = H // PH, W // PW
    block_r, block_x = next_power_of_2(PH), min(next_power_of_2(GW * PW), WIDEST)
    grid = B * GH * C, cdiv(GW * PW, block_x)
    patchify_kernel[grid](
        x, out, x.stride(), out.stride(0), C, GH, GW, PH=PH, PW=PW, BLOCK_R=block_r, BLOCK_X=block_x,
        num_warps=min(max(block_r * block_x // 512, 1), 8), **early_start(math.prod(grid)),
    )  # fmt: skip
    return out


@torch.library.register_fake(_patchify)
def _empty_rows(x, patch_size):
    (PH, PW), (B, C, H, W) = patch_size, x.shape
    return x.new_empty(B, 1 + (H // PH) * (W // PW), C * PH * PW)
