"""Matrix product, one matrix or a batch of them.

    out[m, n] = sum over k of a[m, k] * b[k, n]

A program owns a tile of BLOCK_M x BLOCK_N sums and walks along K, BLOCK_K products at a step. What it loads at a step
serves the whole tile: an element of a BLOCK_N sums and an element of b BLOCK_M of them, so that the larger the
tile, the less is loaded. `linear` and everything else that multiplies matrices comes through `multiply`, with what
remains to be done to the sums, while they are still in registers:

    out = activation(a @ b + bias) + residual

Cost: 2 * M * N * K operations, and (M * K + K * N + M * N) * itemsize bytes if everything moves once. Square
matrices of 4096 in bfloat16 do 1365 operations a byte: far more than any GPU's memory can hold up.
"""
import functools

import torch
import triton
import triton.language as tl

from course.kernels._activation import epilogue
from course.kernels._checks import broadcast_shapes, check_tensors
from course.kernels._dot import dot, matmul_precision
from course.kernels._early_start import early_start, fetch_ahead, wait_for_previous
from course.kernels._matmul_configs import matmul_configs
from course.kernels._matmul_specialised import matmul_specialised, specialised_takes
from course.kernels._matmul_split_k import sum_parts
from course.kernels._matmul_tile import Norm, Product, finish, grouped_tile
from course.kernels._matmul_tma import matmul_tma, tma_reads
from course.kernels._pointwise import walk
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import best_config, custom_op


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, out_ptr, bias_ptr, residual_ptr, ahead_ptr, ahead_size, M, N, K,
    batch_sizes, a_batch_strides, b_batch_strides, residual_batch_strides,
    stride_am, stride_ak, stride_bk, stride_bn, bias_stride, residual_strides, norm, statistics_ptr,
    NORM_PARTS: tl.constexpr, PARTS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    fetch_ahead(ahead_ptr, ahead_size, EARLY)
    wait_for_previous(EARLY)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    tile_m, tile_n = grouped_tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = tl.program_id(0) // tiles
    a_ptr += batch_offset(batch, batch_sizes, a_batch_strides)
    b_ptr += batch_offset(batch, batch_sizes, b_batch_strides)

    # this program's part of the sum
    part = tl.program_id(1)
    length = tl.cdiv(K, BLOCK_K * SPLIT_K) * BLOCK_K
    first_k = part * length
    offs_k = first_k + tl.arange(0, BLOCK_K)

    # rows and columns past the edge start over at 0: what comes of them is not stored, and needs no mask here
    a_rows = (offs_m % M).to(tl.int64)[:, None] * stride_am  # int64: M * stride may pass 2**31
    b_cols = (offs_n % N).to(tl.int64)[None, :] * stride_bn
    a_ptrs = a_ptr + a_rows + offs_k.to(tl.int64)[None, :] * stride_ak
    b_ptrs = b_ptr + b_cols + offs_k.to(tl.int64)[:, None] * stride_bk

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(first_k, tl.minimum(first_k + length, K), BLOCK_K):
        inside = tl.arange(0, BLOCK_K) < K - k
        a = tl.load(a_ptrs, mask=inside[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=inside[:, None], other=0.0)
        acc = dot(a, b, acc, PRECISION)
        a_ptrs += tl.cast(stride_ak, tl.int64) * BLOCK_K
        b_ptrs += tl.cast(stride_bk, tl.int64) * BLOCK_K

    # either a batch or split sums: out holds one matrix for each
    out_ptr += (batch + part).to(tl.int64) * M * N
    if residual_ptr is not None:
        residual_ptr += batch_offset(batch, batch_sizes, residual_batch_strides)
    finish(acc, out_ptr, bias_ptr, residual_ptr, tile_m * BLOCK_M, tile_n * BLOCK_N, M, N, K, bias_stride,
           residual_strides, norm, statistics_ptr, NORM_PARTS, PARTS, ACTIVATION)  # fmt: skip


@triton.jit
def batch_offset(batch, sizes, strides):
    """Where matrix number `batch` starts."""
    DIMS: tl.constexpr = len(sizes)
    offset = tl.zeros((), tl.int64)
    for d in tl.static_range(DIMS):
        offset += (batch % sizes[DIMS - 1 - d]).to(tl.int64) * strides[DIMS - 1 - d]
        batch //= sizes[DIMS - 1 - d]
    return offset


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product of `a` (..., M, K) and `b` (..., K, N), of one dtype (float32, float16, bfloat16), as `torch.matmul`.

    Batch dimensions broadcast. A one-dimensional `a` is a row, a one-dimensional `b` a column, and the result
    lacks that dimension. Any strides; nothing is copied. Sums are float32; float32 operands are multiplied as TF32
    where torch.backends.cuda.matmul.allow_tf32 allows it. Raises ValueError on shapes that do not fit and on
    unequal devices, TypeError on unequal or other dtypes.
    """
    check_tensors("matmul", a=a, b=b)
    came = f"got a {tuple(a.shape)}, b {tuple(b.shape)}"
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: expected tensors of at least one dimension, {came}")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: expected a (..., M, K) and b (..., K, N) of one K, {came}")
    try:
        broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError:
        raise ValueError(f"matmul: expected batch dimensions that broadcast, {came}") from None
    return _matmul(a, b)


@custom_op("matmul")
def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    rows = a if a.ndim > 1 else a[None, :]
    cols = b if b.ndim > 1 else b[:, None]
    batch = broadcast_shapes(rows.shape[:-2], cols.shape[:-2])
    matrices = a.new_empty(*batch, rows.shape[-2], cols.shape[-1])
    multiply(*(t if t.shape[:-2] == batch else t.expand(*batch, -1, -1) for t in (rows, cols)), matrices)
    return matrices.view((*batch, *a.shape[-2:-1], *b.shape[1:][-1:]))


@torch.library.register_fake(_matmul)
def _(a, b):
    return torch.matmul(a, b)


def multiply(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    ahead: torch.Tensor | None = None,
    norm: Norm | None = None,
    statistics: torch.Tensor | None = None,
) -> None:
    """Writes activation(a @ b + bias) + residual to `out`, contiguous; all (*batch, rows, columns), but the bias.

    A `b` of two dimensions is one for the whole batch.
    `ahead`, contiguous, is brought to the cache for a later kernel. With `norm` and `statistics`, single matrices.
    """
    if out.numel() == 0:
        return
    like = out if residual is None else residual
    p = Product(a, b, out, bias, residual, activation, matmul_precision(out.dtype), N=out.shape[-1], K=a.shape[-1],
                bias_stride=0 if bias is None else bias.stride(0), ahead=ahead, norm=norm, statistics=statistics,
                **_places(tuple(out.shape), out.stride(), a.stride(), b.stride(), like.stride()))  # fmt: skip
    batch, tma = out.numel() // (p.M * p.N), tma_reads(p)
    specialised = tma and specialised_takes(p)
    configs = matmul_configs(p.M, p.N, p.K, batch, out.dtype, p.precision, tma, specialised, residual is not None)
    # products with about as many rows share a choice; n and t (transposed) are BLAS's names, s stands for other strides
    rows, matrices = next_power_of_2(p.M), next_power_of_2(batch)
    layout = "".join("n" if col == 1 else "t" if row == 1 else "s" for row, col in (p.a_strides, p.b_strides))
    able = "specialised" if specialised else "tma" if tma else "pointers"
    key = (rows, p.N, p.K, matrices, out.dtype, p.precision, layout, able, activation,
           "bare" if residual is None else "residual",
           *["norm"] * (norm is not None), *["statistics"] * (statistics is not None))  # fmt: skip

    def launch(config):
        if "GROUPS" in config.kwargs:
            matmul_specialised(p, config)
        elif "SLICES" in config.kwargs:
            matmul_tma(p, config)
        else:
            matmul_pointers(p, config)

    launch(best_config("matmul", key, configs, launch))


@functools.lru_cache(maxsize=4096)
def _places(shape, out_strides, a_strides, b_strides, residual_strides) -> dict:
    """How `Product` says where the elements of matrices (*batch, rows, columns) lie."""
    # the fewest loops over matrices and rows: a batch that shares b is one matrix of more rows
    b_batch = b_strides[:-2] or (0,) * (len(shape) - 2)
    sizes, *steps = walk(shape[:-1], out_strides[:-1], a_strides[:-1], (*b_batch, 0), residual_strides[:-1])
    if steps[2][-1] != 0:  # the innermost loop goes from one b to the next: matrices of a single row
        sizes, steps = (*sizes, 1), [(*s, 0) for s in steps]
    _, a_steps, b_steps, residual_steps = steps
    return {
        "M": sizes[-1], "a_strides": (a_steps[-1], a_strides[-1]), "b_strides": b_strides[-2:],
        "residual_strides": (residual_steps[-1], residual_strides[-1]), "batch_sizes": sizes[:-1],
        "a_batch_strides": a_steps[:-1], "b_batch_strides": b_steps[:-1],
        "residual_batch_strides": residual_steps[:-1],
    }  # fmt: skip


def matmul_pointers(p: Product, config: triton.Config) -> None:
    split = config.kwargs["SPLIT_K"]
    tiles = cdiv(p.M, config.kwargs["BLOCK_M"]) * cdiv(p.N, config.kwargs["BLOCK_N"])
    batch = p.out.numel() // (p.M * p.N)
    whole = p if split == 1 else p.part_of_sum(split, p.M)
    matmul_kernel[(batch * tiles, split)](
        p.a, p.b, whole.out, whole.bias, whole.residual, p.ahead, 0 if p.ahead is None else p.ahead.numel(),
        p.M, p.N, p.K,
        p.batch_sizes, p.a_batch_strides, p.b_batch_strides, p.residual_batch_strides,
        *p.a_strides, *p.b_strides, p.bias_stride, p.residual_strides, **whole.normalising,
        ACTIVATION=epilogue(whole.activation, p.out.dtype), PRECISION=p.precision, **config.all_kwargs(),
        **early_start(batch * tiles * split),
    )  # fmt: skip
    if split > 1:
        sum_parts(p, whole.out)
