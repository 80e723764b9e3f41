"""The second half of a product whose sums were split between programs: adds the parts and finishes the result.

    out[m, n] = act(sum over i of parts[i, m, n] + bias[n]) + residual[m, n],    i = 0, 1, ... SPLIT_K - 1

A product with few rows has too few tiles to keep a GPU busy, but its sums are long: so several programs share a
tile, each takes a part of the sum, and writes it in float32. Adding them here, always in the same order and not
with atomics as they come, gives the same bits every time.

Cost: (4 * SPLIT_K + itemsize) * M * N bytes, mostly in the L2 cache.
"""
import torch
import triton
import triton.language as tl

from course.kernels._activation import epilogue
from course.kernels._early_start import early_start, wait_for_previous
from course.kernels._matmul_tile import Product, finish
from course.kernels._sizes import cdiv
from course.runtime import INTERPRET

BLOCK_M, BLOCK_N = (128, 256) if INTERPRET else (8, 128)  # the interpreter's time goes with the number of programs


@triton.jit
def sum_parts_kernel(
    parts_ptr, stride_part, out_ptr, bias_ptr, residual_ptr, M, N, K, bias_stride, residual_strides, norm,
    statistics_ptr, NORM_PARTS: tl.constexpr, PARTS: tl.constexpr, SPLIT_K: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    part_ptrs = parts_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(SPLIT_K):
        acc += tl.load(part_ptrs, mask=inside)
        part_ptrs += tl.cast(stride_part, tl.int64)
    finish(acc, out_ptr, bias_ptr, residual_ptr, tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N, M, N, K,
           bias_stride, residual_strides, norm, statistics_ptr, NORM_PARTS, PARTS, ACTIVATION)  # fmt: skip


def sum_parts(p: Product, parts: torch.Tensor) -> None:
    """Writes the sum of `parts` (SPLIT_K, M or more, N), finished, to `p.out`."""
    sum_parts_kernel[(cdiv(p.M, BLOCK_M), cdiv(p.N, BLOCK_N))](
        parts, parts.stride(0), p.out, p.bias, p.residual, p.M, p.N, p.K, p.bias_stride, p.residual_strides,
        **p.normalising,
        SPLIT_K=parts.shape[0], ACTIVATION=epilogue(p.activation, p.out.dtype), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        **early_start(),
    )  # fmt: skip
