"""What the matrix kernels share: which tile a program computes, and how a finished tile becomes the result."""
from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Product(NamedTuple):
    """out = activation(a @ b + bias) + residual, with a (M, K), b (K, N) and contiguous out (M, N), or a batch of them.

    The tensors say where their first elements are, the strides where the others are. The batch has as many
    dimensions as it takes. `ahead` is what a later kernel will read.
    """

    a: torch.Tensor
    b: torch.Tensor
    out: torch.Tensor
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    activation: str | None
    precision: str
    M: int
    N: int
    K: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    bias_stride: int
    residual_strides: tuple[int, int]
    batch_sizes: tuple[int, ...]
    a_batch_strides: tuple[int, ...]
    b_batch_strides: tuple[int, ...]
    residual_batch_strides: tuple[int, ...]
    ahead: torch.Tensor | None


@triton.jit
def grouped_tile(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Row and column of a tile, counted down GROUP_M rows of tiles before the next column of tiles.

    Programs that run at the same time then cover a square rather than a strip, and find the rows
    of a and the columns of b that they share in the L2 cache.
    """
    group_size = GROUP_M * tl.cdiv(N, BLOCK_N)
    first_m = tile // group_size * GROUP_M
    rows = tl.minimum(tl.cdiv(M, BLOCK_M) - first_m, GROUP_M)
    return first_m + tile % group_size % rows, tile % group_size // rows


@triton.jit
def bias_and_activation(acc, bias_ptr, bias_stride, offs_n, N, ACTIVATION: tl.constexpr):
    """activation(acc + bias), in float32."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + offs_n * bias_stride, mask=offs_n < N)
        acc += bias.to(tl.float32)[None, :]
    if ACTIVATION is not None:
        acc = ACTIVATION(acc)
    return acc


@triton.jit
def finish(
    acc, out_ptr, bias_ptr, residual_ptr, offs_m, offs_n, M, N, bias_stride, residual_strides,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Stores activation(acc + bias) + residual, computed in float32, to the contiguous matrix at `out_ptr`."""
    acc = bias_and_activation(acc, bias_ptr, bias_stride, offs_n, N, ACTIVATION)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    offs_m, offs_n = offs_m.to(tl.int64)[:, None], offs_n.to(tl.int64)[None, :]  # int64: M * N may pass 2**31
    if residual_ptr is not None:
        residual_ptrs = residual_ptr + offs_m * residual_strides[0] + offs_n * residual_strides[1]
        acc += tl.load(residual_ptrs, mask=inside).to(tl.float32)
    tl.store(out_ptr + offs_m * N + offs_n, acc, mask=inside)
