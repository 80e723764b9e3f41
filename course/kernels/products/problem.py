"""What a call of matmul, linear or norm_linear asks for, and the tensors that it comes with."""
import functools
import math
from typing import NamedTuple

import torch

from course import runtime
from course.kernels.parts.activation import activation_op
from course.kernels.parts.loops import walk
from course.kernels.parts.sizes import next_power_of_2
from course.kernels.products.epilogue import Epilogue
from course.kernels.products.row_statistics import number_of_parts, stored_parts


class Product(NamedTuple):
    """out = activation(a @ b + bias) + residual, for one matrix a (M, K) and b (K, N), or for a batch of them.

    The batch has as few dimensions as reach all of its matrices. Strides are in elements: those of the batch's
    dimensions first, then the row's and the column's. `out` is contiguous. No choice depends on whether there is a
    bias, so it is not mentioned here.
    """

    batch_sizes: tuple[int, ...]
    M: int
    N: int
    K: int
    a_strides: tuple[int, ...]
    b_strides: tuple[int, ...]
    residual_strides: tuple[int, ...] | None
    """None where there is no residual"""
    dtype: torch.dtype
    precision: str
    activation: str | None
    norm: bool
    """whether a's rows are normalised"""
    statistics: bool
    """whether the statistics of out's rows are kept"""
    aligned: bool
    """whether a, b, out and residual begin at multiples of 16 bytes"""

    @property
    def batch(self) -> int:
        return math.prod(self.batch_sizes)

    @property
    def on_tensor_cores(self) -> bool:
        return (self.dtype != torch.float32 or self.precision == "tf32") and runtime.has_tensor_cores()

    @property
    def a_order(self) -> str | None:
        return tma_order(self.a_strides, self.dtype.itemsize)

    @property
    def b_order(self) -> str | None:
        return tma_order(self.b_strides, self.dtype.itemsize)

    @property
    def fits_tma(self) -> bool:
        """Whether this GPU's TMA can read and write all of the matrices, in an order that its tensor cores multiply."""
        p, itemsize = self, self.dtype.itemsize
        if not runtime.tma_feeds_tensor_cores() or p.batch_sizes or p.K == 0 or not p.aligned:
            return False
        if tma_order((p.N, 1), itemsize) != "rows":
            return False
        if p.residual_strides is not None and tma_order(p.residual_strides, itemsize) != "rows":
            return False
        if p.dtype == torch.float32:  # which tensor cores multiply as TF32, if k is innermost in both
            return p.precision == "tf32" and p.a_order == "rows" and p.b_order == "columns"
        return p.a_order is not None and p.b_order is not None

    @property
    def finishing_options(self) -> dict:
        """The constexpr arguments of a kernel that finishes this product: see `epilogue`."""
        return {
            "ACTIVATION": activation_op(self.activation, self.dtype),
            "A_PARTS": number_of_parts(self.K) if self.norm else None,
            "OUT_PARTS": stored_parts(self.N) if self.statistics else None,
        }

    @property
    def worth_measuring(self) -> bool:
        return self.batch * self.M * self.N * self.K >= 2**24

    def choice(self) -> dict[str, int | str]:
        return {
            "M": next_power_of_2(self.M), "N": self.N, "K": self.K, "batch": next_power_of_2(self.batch),
            "dtype": str(self.dtype).removeprefix("torch."), "precision": self.precision,
            "layout": blas_layout(self.a_strides) + blas_layout(self.b_strides), "tma": self.fits_tma,
            "activation": self.activation or "none", "residual": self.residual_strides is not None,
            "norm": self.norm, "statistics": self.statistics,
        }


def tma_order(strides: tuple[int, ...], itemsize: int) -> str | None:
    """How TMA can read a matrix: by "rows", by "columns", or not at all (None).

    Elements of a row (or column) have to be adjacent, and rows (or columns) multiples of 16 bytes apart.
    """
    row, column = strides[-2:]
    if column == 1 and row > 0 and row * itemsize % 16 == 0:
        return "rows"
    if row == 1 and column > 0 and column * itemsize % 16 == 0:
        return "columns"
    return None


def blas_layout(strides: tuple[int, ...]) -> str:
    """As in BLAS, "n" for contiguous rows and "t" (transposed) for contiguous columns; "s" for other strides."""
    row, column = strides[-2:]
    return "n" if column == 1 else "t" if row == 1 else "s"


@functools.lru_cache(maxsize=4096)
def product_problem(
    shape: tuple[int, ...], K: int, out_strides: tuple[int, ...], a_strides: tuple[int, ...],
    b_strides: tuple[int, ...], residual_strides: tuple[int, ...] | None, dtype: torch.dtype, precision: str,
    activation: str | None, norm: bool, statistics: bool, aligned: bool,
) -> Product:
    """The problem of an `out` of `shape` (*batch, M, N) and of operands with these strides.

    A b of two dimensions is one for the whole batch. With it, a batch is one matrix of more rows, wherever the strides
    permit.
    """
    b_batch_strides = b_strides[:-2] or (0,) * (len(shape) - 2)
    added_strides = out_strides if residual_strides is None else residual_strides
    # as few loops over matrices and rows as there can be; b is the same for all rows of a matrix
    sizes, _, a_steps, b_steps, added_steps = walk(
        shape[:-1], out_strides[:-1], a_strides[:-1], (*b_batch_strides, 0), added_strides[:-1]
    )
    if b_steps[-1] != 0:  # the innermost loop goes from one b to the next: over matrices of a single row
        sizes, a_steps, b_steps, added_steps = (*sizes, 1), (*a_steps, 0), (*b_steps, 0), (*added_steps, 0)
    return Product(
        sizes[:-1], sizes[-1], shape[-1], K, (*a_steps, a_strides[-1]), (*b_steps[:-1], *b_strides[-2:]),
        None if residual_strides is None else (*added_steps, residual_strides[-1]),
        dtype, precision, activation, norm, statistics, aligned,
    )


class ProductOperands(NamedTuple):
    """The tensors of a product."""

    a: torch.Tensor
    b: torch.Tensor
    out: torch.Tensor
    epilogue: Epilogue
    prefetch: torch.Tensor | None
    """contiguous, what a later kernel will read"""
    prefetch_size: int
    """elements of `prefetch`"""
