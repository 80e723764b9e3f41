"""Matrix product for Hopper and later: a persistent grid, fed by the tensor memory accelerator (TMA).

One program on each multiprocessor, or two, takes tile after tile. Whole blocks of a and b travel to shared memory
on one instruction each, their addresses and their zeros past the edges made by the copy engine, so that the warps
have nothing to do but multiply. The loop over tiles and the loop over K are flattened into one: the first blocks of
the next tile are under way while this tile is finished and stored.

A tile is finished slice by slice. With AT_ONCE all that this takes from memory is asked for before the first slice; it
fills registers, but otherwise every slice waits for its own. A program that has ONE_TILE asks for it before the first
product, and has it when the last one is done.

Where tiles are few and sums long, SPLIT_K programs share a tile, and `_matmul_split_k` adds their parts.

The copy engine takes matrices whose rows (or columns) start at multiples of 16 bytes: `tma_reads` says whether
all those of a product do.
"""
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import runtime
from course.kernels._activation import epilogue
from course.kernels._dot import dot
from course.kernels._early_start import early_start, fetch_ahead, wait_for_previous
from course.kernels._matmul_split_k import sum_parts
from course.kernels._matmul_tile import Product, grouped_tile, normalise
from course.kernels._row_statistics import load_statistics, mean_and_rstd, store_statistics
from course.kernels._sizes import cdiv


@triton.jit
def matmul_tma_kernel(
    a_desc, b_desc, out_desc, bias_ptr, residual, ahead_ptr, ahead_size, M, N, K, bias_stride, residual_strides,
    norm, statistics_ptr, NORM_PARTS: tl.constexpr, PARTS: tl.constexpr, A_ROWS_FIRST: tl.constexpr,
    B_ROWS_FIRST: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, SLICES: tl.constexpr, EARLY: tl.constexpr,
    AT_ONCE: tl.constexpr = False, ONE_TILE: tl.constexpr = False, SPLIT_K: tl.constexpr = 1,
):  # fmt: skip
    fetch_ahead(ahead_ptr, ahead_size, EARLY)
    wait_for_previous(EARLY)
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    programs = tl.num_programs(0)
    if ONE_TILE and AT_ONCE:
        tile_m, tile_n = grouped_tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
        row, col = tile_m * BLOCK_M, tile_n * BLOCK_N
        if norm is not None:
            means, squares = load_statistics(norm[0], norm[1], row + tl.arange(0, BLOCK_M), M, K, NORM_PARTS)
        slices = load_slices(norm, bias_ptr, residual, row, col, M, N, bias_stride, residual_strides, BLOCK_M, BLOCK_N,
                             SLICES)  # fmt: skip
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        # this program's part of the sum: at least one step, or ptxas may run the products one by one
        steps = tl.maximum(tl.cdiv(K, BLOCK_K * SPLIT_K), 1)
        part = tl.program_id(1)
        for k in range(part * steps, part * steps + steps):  # past the end of K there are zeros
            a, b = load_step(a_desc, b_desc, tile_m, tile_n, k, A_ROWS_FIRST, B_ROWS_FIRST, BLOCK_M, BLOCK_N, BLOCK_K)
            acc = dot(a, b, acc, PRECISION)
        row_norms = ()
        if norm is not None:
            row_norms = mean_and_rstd(means, squares, K, norm[3])
        if SPLIT_K > 1:  # the parts of the whole result lie one below the other
            row += part * tl.cdiv(M, BLOCK_M) * BLOCK_M
        finish_slices(acc, out_desc, row_norms, slices, norm, bias_ptr, residual, statistics_ptr, row, col, M, N,
                      bias_stride, residual_strides, PARTS, ACTIVATION, AT_ONCE, 0, SLICES)  # fmt: skip
    else:
        tl.static_assert(SPLIT_K == 1, "programs that share a tile have one tile, and ask AT_ONCE")
        finished = tl.program_id(0) - programs  # counted apart from `tile`, which the flattened loop runs ahead
        for tile in tl.range(tl.program_id(0), tiles, programs, flatten=True):
            tile_m, tile_n = grouped_tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(tl.cdiv(K, BLOCK_K)):
                a, b = load_step(a_desc, b_desc, tile_m, tile_n, k, A_ROWS_FIRST, B_ROWS_FIRST, BLOCK_M, BLOCK_N,
                                 BLOCK_K)  # fmt: skip
                acc = dot(a, b, acc, PRECISION)

            finished += programs
            tile_m, tile_n = grouped_tile(finished, M, N, BLOCK_M, BLOCK_N, GROUP_M)
            row, col = tile_m * BLOCK_M, tile_n * BLOCK_N
            row_norms = ()
            if norm is not None:  # first of all: many registers, and few once they are summed
                means, squares = load_statistics(norm[0], norm[1], row + tl.arange(0, BLOCK_M), M, K, NORM_PARTS)
                row_norms = mean_and_rstd(means, squares, K, norm[3])
            slices = ()
            if AT_ONCE:
                slices = load_slices(norm, bias_ptr, residual, row, col, M, N, bias_stride, residual_strides, BLOCK_M,
                                     BLOCK_N, SLICES)  # fmt: skip
            finish_slices(acc, out_desc, row_norms, slices, norm, bias_ptr, residual, statistics_ptr, row, col, M, N,
                          bias_stride, residual_strides, PARTS, ACTIVATION, AT_ONCE, 0, SLICES)  # fmt: skip


@triton.jit
def load_step(
    a_desc, b_desc, tile_m, tile_n, k, A_ROWS_FIRST: tl.constexpr, B_ROWS_FIRST: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The blocks of a and b that step `k` of a tile multiplies."""
    if A_ROWS_FIRST:
        a = a_desc.load([tile_m * BLOCK_M, k * BLOCK_K])
    else:
        a = a_desc.load([k * BLOCK_K, tile_m * BLOCK_M]).T
    if B_ROWS_FIRST:
        b = b_desc.load([k * BLOCK_K, tile_n * BLOCK_N])
    else:
        b = b_desc.load([tile_n * BLOCK_N, k * BLOCK_K]).T
    return a, b


@triton.jit
def load_slices(
    norm, bias_ptr, residual, row, col, M, N, bias_stride, residual_strides, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    """`load_slice` of all slices of the tile at `row` and `col`."""
    slices = ()
    for i in tl.static_range(SLICES):
        slices += (load_slice(norm, bias_ptr, residual, row, col + i * (BLOCK_N // SLICES), M, N, bias_stride,
                              residual_strides, BLOCK_M, BLOCK_N // SLICES, True),)  # fmt: skip
    return slices


@triton.jit
def load_slice(
    norm, bias_ptr, residual, row, col, M, N, bias_stride, residual_strides, ROWS: tl.constexpr, COLS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """(sums, bias, residual) for the slice of a tile that begins at `row` and `col`; 0 for what there is none of."""
    offs_n = col + tl.arange(0, COLS)
    sums = 0.0
    bias = 0.0
    added = 0.0
    if norm is not None:
        sums = tl.load(norm[2] + offs_n, mask=offs_n < N)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + offs_n * bias_stride, mask=offs_n < N).to(tl.float32)
    if residual is not None:
        if AT_ONCE:  # a pointer: the compiler would wait for each block from the copy engine
            rows = (row + tl.arange(0, ROWS)).to(tl.int64)[:, None]  # int64: M * N may pass 2**31
            cols = offs_n.to(tl.int64)[None, :]
            residual_ptrs = residual + rows * residual_strides[0] + cols * residual_strides[1]
            added = tl.load(residual_ptrs, mask=(rows < M) & (cols < N))
        else:
            added = residual.load([row, col])
    return sums, bias, added


@triton.jit
def finish_slices(
    acc, out_desc, row_norms, slices, norm, bias_ptr, residual, statistics_ptr, row, col, M, N, bias_stride,
    residual_strides, PARTS: tl.constexpr, ACTIVATION: tl.constexpr, AT_ONCE: tl.constexpr, FIRST: tl.constexpr,
    SLICES: tl.constexpr,
):  # fmt: skip
    """Finishes and stores a tile slice by slice, each of some of its columns, and so with less shared memory."""
    COLS: tl.constexpr = acc.shape[1]
    if SLICES > 1:
        left, right = acc.reshape(acc.shape[0], 2, COLS // 2).permute(0, 2, 1).split()
        finish_slices(left, out_desc, row_norms, slices, norm, bias_ptr, residual, statistics_ptr, row, col, M, N,
                      bias_stride, residual_strides, PARTS, ACTIVATION, AT_ONCE, FIRST, SLICES // 2)  # fmt: skip
        finish_slices(right, out_desc, row_norms, slices, norm, bias_ptr, residual, statistics_ptr, row,
                      col + COLS // 2, M, N, bias_stride, residual_strides, PARTS, ACTIVATION, AT_ONCE,
                      FIRST + SLICES // 2, SLICES // 2)  # fmt: skip
    else:
        if AT_ONCE:
            sums, bias, added = slices[FIRST]
        else:
            sums, bias, added = load_slice(norm, bias_ptr, residual, row, col, M, N, bias_stride, residual_strides,
                                           acc.shape[0], COLS, AT_ONCE)  # fmt: skip
        if norm is not None:
            acc = normalise(acc, row_norms, sums)
        if bias_ptr is not None:
            acc += bias[None, :]
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        if residual is not None:
            acc += added.to(tl.float32)
        out = acc.to(out_desc.dtype)
        out_desc.store([row, col], out)
        if statistics_ptr is not None:
            rows = row + tl.arange(0, acc.shape[0])
            store_statistics(out.to(tl.float32), statistics_ptr, rows, col, M, N, PARTS)


def rows_first(t: torch.Tensor, strides: tuple[int, int]) -> bool | None:
    """Whether the copy engine can read the matrix at `t` by rows (True), by columns (False), or not at all (None)."""
    if t.data_ptr() % 16 == 0:
        for first, (outer, inner) in ((True, strides), (False, strides[::-1])):
            if inner == 1 and outer > 0 and outer * t.itemsize % 16 == 0:
                return first
    return None


def tma_reads(p: Product) -> bool:
    """Whether the copy engine can read and write all of this product."""
    if runtime.capability() not in ((9, 0), (10, 0)) or p.batch_sizes or p.K == 0:
        return False
    if p.residual is not None and not rows_first(p.residual, p.residual_strides):
        return False
    a_rows, b_rows = rows_first(p.a, p.a_strides), rows_first(p.b, p.b_strides)
    if p.out.dtype == torch.float32 and (p.precision == "ieee" or not a_rows or b_rows):
        return False  # tensor cores take float32 as TF32 only, and only with k innermost
    return a_rows is not None and b_rows is not None and rows_first(p.out, (p.N, 1)) is True


def matmul_tma(p: Product, config: triton.Config) -> None:
    a_rows, b_rows = rows_first(p.a, p.a_strides), rows_first(p.b, p.b_strides)

    def describe(t, shape, strides, block, by_rows=True):
        if by_rows:
            return TensorDescriptor(t, shape, list(strides), block)
        return TensorDescriptor(t, shape[::-1], list(strides[::-1]), block[::-1])

    options = config.all_kwargs()
    split = options.get("SPLIT_K", 1)
    block_m, block_n, block_k = (options[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    slice_of_tile = [block_m, block_n // options["SLICES"]]
    rows = cdiv(p.M, block_m) * block_m
    tiles = rows // block_m * cdiv(p.N, block_n)
    resident = options.pop("PER_SM") * runtime.num_sms()
    programs = tiles if split > 1 else min(tiles, resident)
    whole, rows = (p, p.M) if split == 1 else (p.part_of_sum(split, rows), split * rows)
    residual = whole.residual
    if residual is not None and not options.get("AT_ONCE"):
        residual = describe(residual, [p.M, p.N], p.residual_strides, slice_of_tile)
    matmul_tma_kernel[(programs, split)](
        describe(p.a, [p.M, p.K], p.a_strides, [block_m, block_k], a_rows),
        describe(p.b, [p.K, p.N], p.b_strides, [block_k, block_n], b_rows),
        describe(whole.out, [rows, p.N], (p.N, 1), slice_of_tile),
        whole.bias, residual, p.ahead, 0 if p.ahead is None else p.ahead.numel(), p.M, p.N, p.K, p.bias_stride,
        p.residual_strides, **whole.normalising,
        A_ROWS_FIRST=a_rows, B_ROWS_FIRST=b_rows,
        ACTIVATION=epilogue(whole.activation, p.out.dtype), PRECISION=p.precision,
        ONE_TILE=tiles == programs, **options, **early_start(programs * split),
    )  # fmt: skip
    if split > 1:
        sum_parts(p, whole.out)
