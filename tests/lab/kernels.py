"""Small kernels that tests of several wings launch."""
import torch
import triton
import triton.language as tl

from course.runtime import DEVICE


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, 2 * tl.load(x_ptr + offs, mask=offs < n), mask=offs < n)


@triton.jit
def unmasked_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, 2 * tl.load(x_ptr + offs))


@triton.jit
def normalise(e):
    return e / tl.sum(e, axis=0)


@triton.jit
def softmax_kernel(x_ptr, out_ptr, stride, n_cols, BLOCK_N: tl.constexpr):
    cols = tl.arange(0, BLOCK_N)
    offs = tl.program_id(0) * stride + cols
    x = tl.load(x_ptr + offs, mask=cols < n_cols, other=-float("inf"))
    tl.store(out_ptr + offs, normalise(tl.exp(x - x.max(axis=0))), mask=cols < n_cols)


@triton.jit
def outer_kernel(a_ptr, b_ptr, c_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    a = tl.load(a_ptr + rows, mask=rows < M)
    b = tl.load(b_ptr + cols, mask=cols < N)
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(c_ptr + rows[:, None] * N + cols[None, :], a[:, None] * b[None, :], mask=inside)


@triton.jit
def count_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        offs = start + tl.arange(0, BLOCK)
        tl.atomic_add(out_ptr, tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0)))


def vector(n):
    return torch.arange(float(n), device=DEVICE)
