"""What the matrix kernels share: which tile a program computes, and how a finished tile becomes the result."""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course.kernels._row_statistics import load_statistics, mean_and_rstd, number_of_parts, store_statistics


class Norm(NamedTuple):
    """A layer norm of a's rows, taken into the product: `norm_linear` says how.

    `statistics` (M, 2 * parts) has its rows `stride` apart; `sums` (N,) are b's column sums.
    """

    statistics: torch.Tensor
    stride: int
    sums: torch.Tensor
    eps: float


class Product(NamedTuple):
    """out = activation(a @ b + bias) + residual, with a (M, K), b (K, N) and contiguous out (M, N), or a batch of them.

    The tensors say where their first elements are, the strides where the others are. The batch has as many
    dimensions as it takes. `ahead` is what a later kernel will read. `norm` normalises a's rows, and `statistics`, in
    the form of `_row_statistics`, are those of out's.
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
    norm: Norm | None
    statistics: torch.Tensor | None

    def part_of_sum(self, split: int, rows: int) -> "Product":
        """This product where `split` programs share a sum: to (split, rows, N), the rest waits for the sum of parts."""
        parts = self.out.new_empty(split, rows, self.N, dtype=torch.float32)
        return self._replace(out=parts, bias=None, residual=None, activation=None, norm=None, statistics=None)

    @property
    def normalising(self) -> dict:
        """What the kernels take for `norm` and `statistics`."""
        return {
            "norm": None if self.norm is None else tuple(self.norm),
            "NORM_PARTS": None if self.norm is None else number_of_parts(self.K),
            "statistics_ptr": self.statistics,
            "PARTS": None if self.statistics is None else number_of_parts(self.N),
        }


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
def normalise(acc, row_norms, sums):
    """The sums that normalised rows would have given; `row_norms` are the rows' (mean, rstd)."""
    return (acc - row_norms[0][:, None] * sums[None, :]) * row_norms[1][:, None]


@triton.jit
def finish(
    acc, out_ptr, bias_ptr, residual_ptr, first_m, first_n, M, N, K, bias_stride, residual_strides, norm,
    statistics_ptr, NORM_PARTS: tl.constexpr, PARTS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Stores activation(acc + bias) + residual, computed in float32, to the contiguous matrix at `out_ptr`."""
    offs_m = first_m + tl.arange(0, acc.shape[0])
    offs_n = first_n + tl.arange(0, acc.shape[1])
    if norm is not None:
        means, squares = load_statistics(norm[0], norm[1], offs_m, M, K, NORM_PARTS)
        row_norms = mean_and_rstd(means, squares, K, norm[3])
        acc = normalise(acc, row_norms, tl.load(norm[2] + offs_n, mask=offs_n < N))
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + offs_n * bias_stride, mask=offs_n < N)
        acc += bias.to(tl.float32)[None, :]
    if ACTIVATION is not None:
        acc = ACTIVATION(acc)
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    rows, cols = offs_m.to(tl.int64)[:, None], offs_n.to(tl.int64)[None, :]  # int64: M * N may pass 2**31
    if residual_ptr is not None:
        residual_ptrs = residual_ptr + rows * residual_strides[0] + cols * residual_strides[1]
        acc += tl.load(residual_ptrs, mask=inside).to(tl.float32)
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows * N + cols, out, mask=inside)
    if statistics_ptr is not None:
        store_statistics(out.to(tl.float32), statistics_ptr, offs_m, first_n, M, N, PARTS)
