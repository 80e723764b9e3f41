"""The second half of a product whose sums were split between programs: adds the parts and finishes the result.

    out[m, n] = act(sum over i of parts[i, m, n] + bias[n]) + residual[m, n],    i = 0, 1, ... SPLIT_K - 1

A product with few rows has too few tiles to keep a GPU busy, but its sums are long. So several programs share a tile:
each computes a part of the sum, and writes it in float32. The parts are added here, always in the same order and not by
atomics in the order in which they are ready, so that equal inputs give equal bits.

Cost: (4 * SPLIT_K + itemsize) * M * N bytes, mostly in the L2 cache.
"""

import torch
import triton
import triton.language as tl

from course.kernels.parts.pdl import pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv
from course.kernels.products.epilogue import finish_tile
from course.kernels.products.problem import Product, ProductOperands
from course.runtime import INTERPRET, per_gpu

BLOCK_M, BLOCK_N = (128, 256) if INTERPRET else (8, 128)  # the interpreter's time goes with the number of programs


@triton.jit
def matmul_sum_parts_kernel(
    parts_ptr, stride_part, out_ptr, epilogue, M, N, K,
    SPLIT_K: tl.constexpr, ACTIVATION: tl.constexpr, A_PARTS: tl.constexpr, OUT_PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):
    """out (M, N), of the SPLIT_K float32 matrices at `parts_ptr`, which have N columns and are `stride_part` apart.

    Of K, over which the sums go, the epilogue's norm needs to know.
    """
    pdl_wait(PDL)
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    part_ptrs = parts_ptr + offs_m.to(tl.int64)[:, None] * N + offs_n[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for _ in range(SPLIT_K):
        acc += tl.load(part_ptrs, mask=inside)
        part_ptrs += tl.cast(stride_part, tl.int64)
    finish_tile(acc, out_ptr, epilogue, 0, tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N, M, N, K,
                ACTIVATION, A_PARTS, OUT_PARTS)


def sum_matmul_parts(problem: Product, parts: torch.Tensor, operands: ProductOperands) -> None:
    """Writes the sum of `parts` (SPLIT_K, M or more, N), finished, to `operands.out`."""
    grid, options = plan(problem)
    matmul_sum_parts_kernel[grid](
        parts, parts.stride(0), operands.out, operands.epilogue, problem.M, problem.N, problem.K,
        SPLIT_K=parts.shape[0], **options,
    )


@per_gpu
def plan(problem: Product) -> tuple[tuple[int, int], dict]:
    """The grid, and what is compiled in."""
    grid = cdiv(problem.M, BLOCK_M), cdiv(problem.N, BLOCK_N)
    return grid, {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, **problem.finishing_options, **pdl_options()}
