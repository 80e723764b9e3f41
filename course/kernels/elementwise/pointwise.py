"""One launch for every operation that works element by element: add, mul and the activations.

The kernels take the operation as a constexpr function, so that each of those files holds one line of arithmetic. Each
element of an operand is read once and each of the result written once: (operands + 1) * n * itemsize bytes. Which
kernel runs depends on the strides:

    flat_kernel       operands and result fill memory without gaps and in the same order: all dimensions are one
    strided_kernel    all others (broadcast, sliced, differently permuted): rows of the result's innermost dimension
"""
import functools

import torch
import triton
import triton.language as tl

from course.kernels.parts.loops import walk
from course.kernels.parts.pdl import NO_PDL, pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import INTERPRETER_BLOCK, cdiv, next_power_of_2
from course.runtime import INTERPRET

BLOCK_BYTES = 4096  # that a program writes; with 8,192, relu of 256 MiB of float32 takes 133 us, not 128, on an H200
NUM_WARPS = 8  # 16 bytes a thread, one load


@triton.jit
def flat_kernel(
    x_ptr, y_ptr, scalar, out_ptr, n_elements, OP: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr = NO_PDL,
):
    """out[i] = OP(x[i], y[i], scalar) for BLOCK elements, without those of y_ptr and scalar that are None."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # int64: n may pass 2**31
    inside = offs < n_elements
    pdl_wait(PDL)
    x = tl.load(x_ptr + offs, mask=inside).to(tl.float32)
    if y_ptr is None:
        out = without_y(x, scalar, OP)
    else:
        out = with_y(x, tl.load(y_ptr + offs, mask=inside).to(tl.float32), scalar, OP)
    pdl_launch_dependents(PDL)
    tl.store(out_ptr + offs, out, mask=inside)


@triton.jit
def without_y(x, scalar, OP: tl.constexpr):
    if scalar is None:
        out = OP(x)
    else:
        out = OP(x, scalar)
    return out


@triton.jit
def with_y(x, y, scalar, OP: tl.constexpr):
    if scalar is None:
        out = OP(x, y)
    else:
        out = OP(x, y, scalar)
    return out


@triton.jit
def strided_kernel(
    x_ptr, y_ptr, scalar, out_ptr,
    n_rows, sizes, x_strides, y_strides, out_strides,
    OP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """The same for BLOCK_M rows by BLOCK_N columns.

    sizes (d1, ..., dk) and strides: those of the loops that visit every element, the columns last
    n_rows: d1 * ... * dk-1
    """
    N_OUTER: tl.constexpr = len(sizes) - 1
    pid = tl.program_id(0).to(tl.int64)  # one axis for rows and columns: a grid's second has only 65,535 places
    blocks_n = tl.cdiv(sizes[N_OUTER], BLOCK_N)
    rows = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < sizes[N_OUTER])[None, :]

    # the row's number as one index per outer dimension, the innermost of them first
    x_row = tl.zeros((BLOCK_M,), tl.int64)
    y_row = tl.zeros((BLOCK_M,), tl.int64)
    out_row = tl.zeros((BLOCK_M,), tl.int64)
    rest = rows
    for d in tl.static_range(N_OUTER):
        index = rest % sizes[N_OUTER - 1 - d]
        rest = rest // sizes[N_OUTER - 1 - d]
        x_row += index * x_strides[N_OUTER - 1 - d]
        y_row += index * y_strides[N_OUTER - 1 - d]
        out_row += index * out_strides[N_OUTER - 1 - d]

    x = tl.load(x_ptr + x_row[:, None] + cols[None, :] * x_strides[N_OUTER], mask=inside).to(tl.float32)
    if y_ptr is None:
        out = without_y(x, scalar, OP)
    else:
        y = tl.load(y_ptr + y_row[:, None] + cols[None, :] * y_strides[N_OUTER], mask=inside)
        out = with_y(x, y.to(tl.float32), scalar, OP)
    tl.store(out_ptr + out_row[:, None] + cols[None, :] * out_strides[N_OUTER], out, mask=inside)


def empty_result(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """An uninitialised tensor of the shape and memory format that PyTorch gives x + y."""
    if x.shape == y.shape:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            if x.is_contiguous(memory_format=memory_format) and y.is_contiguous(memory_format=memory_format):
                return torch.empty_like(x, memory_format=memory_format)
    shape, stride = layout_of_sum((x.shape, x.stride()), (y.shape, y.stride()))
    return torch.empty_strided(shape, stride, dtype=x.dtype, device=x.device)


@functools.lru_cache(maxsize=4096)
def layout_of_sum(*operands: tuple[torch.Size, tuple[int, ...]]) -> tuple[torch.Size, tuple[int, ...]]:
    """The shape and the strides of x + y, from those of x and of y.

    By PyTorch's own rules: of an addition on the meta device, which computes nothing. It takes 100 us.
    """
    x, y = (torch.empty_strided(*layout, device="meta") for layout in operands)
    result = x + y
    return result.shape, result.stride()


def launch(
    op: triton.JITFunction, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None = None,
    scalar: float | None = None,
) -> torch.Tensor:
    """Writes op(x, y, scalar), without what is None, to `out`, whose shape the operands broadcast to, and returns it.

    The kernel gets `scalar` as a float32 argument: no memory, and nothing to compile for another one.
    """
    if out.numel() == 0:
        return out
    block = min(INTERPRETER_BLOCK, next_power_of_2(out.numel())) if INTERPRET else BLOCK_BYTES // out.element_size()
    # expanded only if need be: a view takes as long as everything else before a launch
    operands = [t if t.shape == out.shape else t.expand(out.shape) for t in (x, y) if t is not None]
    sizes, *strides = walk(tuple(out.shape), out.stride(), *[t.stride() for t in operands])
    if len(sizes) == 1 and set(strides) == {(1,)}:
        n = sizes[0]
        flat_kernel[(cdiv(n, block),)](x, y, scalar, out, n, OP=op, BLOCK=block, num_warps=NUM_WARPS, **pdl_options())
        return out

    out_strides, x_strides = strides[:2]
    y_strides = strides[2] if y is not None else x_strides
    block_n = min(next_power_of_2(sizes[-1]), block)
    block_m = block // block_n
    n_rows = out.numel() // sizes[-1]
    grid = (cdiv(n_rows, block_m) * cdiv(sizes[-1], block_n),)
    strided_kernel[grid](
        x, y, scalar, out, n_rows, sizes, x_strides, y_strides, out_strides,
        OP=op, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=NUM_WARPS,
    )
    return out
