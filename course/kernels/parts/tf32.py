"""TF32: float32 numbers with 10 bits of fraction, which is what tensor cores read of a float32 operand.

The hardware cuts off the other 13 bits, which makes every product a little too small in magnitude: sums of positive
numbers come out 0.065 % low. cuBLAS and cuDNN round their operands to the nearest TF32 number first (PTX's
`cvt.rna.tf32.f32`), and so do these kernels: in registers, or, where TMA takes operands past the registers, in a pass
of its own before, as for attention's queries, keys and values. Between the layers of one model each kernel rounds what
it stores instead, for the next one.
"""
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq

from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv
from course.runtime import INTERPRET

INTERPRETED = tl.constexpr(INTERPRET)
BLOCK = 1024


@triton.jit
def round_to_tf32(x):
    """float32 `x` rounded to the nearest TF32 number, ties away from zero. The interpreter multiplies all of its bits,
    so there it is `x`."""
    if INTERPRETED:
        return x
    bits = x.to(tl.int32, bitcast=True)
    if cuda_capability_geq(8, 0):
        bits = tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [bits], dtype=tl.int32,
                                         is_pure=True, pack=1)
    else:  # AMD's GPUs, and those of NVIDIA before TF32
        finite = (bits & 0x7F800000) != 0x7F800000
        bits = tl.where(finite, (bits + 0x1000) & -0x2000, bits)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def cut_to_tf32(x):
    """float32 `x` as tensor cores read it when it was not rounded."""
    if INTERPRETED:
        return x
    return (x.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def round_to_tf32_kernel(x_ptr, out_ptr, n_elements, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out = round_to_tf32(x), both `n_elements` contiguous float32 numbers."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # int64: n_elements may pass 2**31
    inside = offs < n_elements
    pdl_wait(PDL)
    x = tl.load(x_ptr + offs, mask=inside)
    pdl_launch_dependents(PDL)
    tl.store(out_ptr + offs, round_to_tf32(x), mask=inside)


def extent(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Elements of memory from the first of a tensor, not empty, to the last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides))


def rounded_to_tf32(t: torch.Tensor) -> torch.Tensor:
    """float32 `t` rounded to TF32, with t's strides: all memory from its first element to its last is rounded."""
    if t.is_meta:  # which has strides and no numbers
        return t
    n = extent(t.shape, t.stride())
    out = t.new_empty(n)
    round_to_tf32_kernel[(cdiv(n, BLOCK),)](t, out, n, BLOCK=BLOCK, num_warps=8, **pdl_options())
    return out.as_strided(t.shape, t.stride())
