"""One launch for every operation that works element by element: add, mul, relu, gelu.

The kernels take the operation as a constexpr function, so that each of those files holds one line of
arithmetic. Operands and result that fill memory without gaps and in the same order are walked flat, whatever
their shape; all others (broadcast, sliced, differently permuted) are walked as rows of the result's
innermost dimension, through strides.

Either way an element is read once per operand and written once: (operands + 1) * n * itemsize bytes.
"""
import functools

import torch
import triton
import triton.language as tl

from course.kernels._early_start import early_start, let_next_start, wait_for_previous
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import INTERPRET

BLOCK_BYTES = 4096  # that a program writes; with 8,192, relu of 256 MiB of float32 takes 133 us, not 128, on an H200
NUM_WARPS = 8  # 16 bytes a thread, one load
INTERPRETER_BLOCK = 1 << 16  # the interpreter's time goes with the number of programs


@triton.jit
def flat_kernel(
    x_ptr, y_ptr, out_ptr, n_elements, OP: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr = False,
):  # fmt: skip
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # int64: n may pass 2**31
    inside = offs < n_elements
    wait_for_previous(EARLY)
    x = tl.load(x_ptr + offs, mask=inside).to(tl.float32)
    if y_ptr is None:
        out = OP(x)
    else:
        out = OP(x, tl.load(y_ptr + offs, mask=inside).to(tl.float32))
    let_next_start(EARLY)
    tl.store(out_ptr + offs, out, mask=inside)


@triton.jit
def strided_kernel(
    x_ptr, y_ptr, out_ptr, n_rows, sizes, x_strides, y_strides, out_strides,
    OP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    N_OUTER: tl.constexpr = len(sizes) - 1
    pid = tl.program_id(0).to(tl.int64)  # one axis for both: a grid's second has only 65,535 places
    blocks_n = tl.cdiv(sizes[N_OUTER], BLOCK_N)
    rows = pid // blocks_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < sizes[N_OUTER])[None, :]

    # the row's number, taken apart into one index per outer dimension, the innermost of them first
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
        out = OP(x)
    else:
        y = tl.load(y_ptr + y_row[:, None] + cols[None, :] * y_strides[N_OUTER], mask=inside)
        out = OP(x, y.to(tl.float32))
    tl.store(out_ptr + out_row[:, None] + cols[None, :] * out_strides[N_OUTER], out, mask=inside)


def empty_result(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A new tensor of the shape and memory format that PyTorch gives x + y, not written to yet."""
    if x.shape == y.shape:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            if x.is_contiguous(memory_format=memory_format) and y.is_contiguous(memory_format=memory_format):
                return torch.empty_like(x, memory_format=memory_format)
    # PyTorch's own rules, by an addition that computes nothing: right for every case, and slow to ask for
    return torch.empty_like(torch.add(x.to("meta"), y.to("meta")), device=x.device)


def launch(op: triton.JITFunction, out: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """Writes op(x) or op(x, y) to `out`, whose shape the operands broadcast to, and returns it."""
    if out.numel() == 0:
        return out
    block = min(INTERPRETER_BLOCK, next_power_of_2(out.numel())) if INTERPRET else BLOCK_BYTES // out.element_size()
    # a view takes as long as all else before a launch
    operands = [t if t.shape == out.shape else t.expand(out.shape) for t in (x, y) if t is not None]
    sizes, *strides = walk(tuple(out.shape), out.stride(), *[t.stride() for t in operands])
    if len(sizes) == 1 and set(strides) == {(1,)}:
        n = sizes[0]
        flat_kernel[(cdiv(n, block),)](x, y, out, n, OP=op, BLOCK=block, num_warps=NUM_WARPS, **early_start())
        return out

    out_strides, x_strides = strides[:2]
    y_strides = strides[2] if y is not None else x_strides
    block_n = min(next_power_of_2(sizes[-1]), block)
    block_m = block // block_n
    n_rows = out.numel() // sizes[-1]
    grid = (cdiv(n_rows, block_m) * cdiv(sizes[-1], block_n),)
    strided_kernel[grid](x, y, out, n_rows, sizes, x_strides, y_strides, out_strides,
                         OP=op, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=NUM_WARPS)  # fmt: skip
    return out


@functools.lru_cache(maxsize=4096)
def walk(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The fewest nested loops that visit every element: their sizes, then each tensor's strides.

    The first tensor, the result, decides the order, its smallest stride innermost. Two loops become
    one wherever every tensor steps from the end of the inner one straight into the outer one.

    >>> walk((2, 3, 4), (12, 4, 1), (12, 4, 1))
    ((24,), (1,), (1,))
    >>> walk((2, 3, 4), (12, 4, 1), (0, 4, 1))
    ((2, 12), (12, 1), (0, 1))
    """
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -strides[0][d])
    loops = []  # (size, stride of each tensor), outermost first
    for d in order:
        size, steps = shape[d], [s[d] for s in strides]
        if loops and all(outer == size * inner for outer, inner in zip(loops[-1][1], steps)):
            size *= loops.pop()[0]
        loops.append((size, steps))
    if not loops:
        loops = [(1, [1] * len(strides))]
    sizes, steps = zip(*loops)
    return tuple(sizes), *zip(*steps)
