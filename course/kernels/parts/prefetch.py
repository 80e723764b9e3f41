"""Prefetching to the L2 cache what a later kernel will read."""
import triton
import triton.language as tl

from course.kernels.parts.pdl import NO_PDL

LINES = tl.constexpr(128)  # cache lines that a program prefetches at a time


@triton.jit
def prefetch_to_l2(ptr, size, PDL: tl.constexpr):
    """Prefetches this program's share of the `size` elements at `ptr`, which a later kernel will read.

    It reads no value, so it may stand before `pdl_wait`, and fills the time that the kernel waits there: without PDL
    there is no such time, and nothing is prefetched. Programs are numbered along the grid's first two axes.
    """
    if PDL != NO_PDL and ptr is not None:
        LINE: tl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth  # elements of a cache line's 128 bytes
        program = tl.program_id(0) + tl.program_id(1) * tl.num_programs(0)
        lines = tl.cdiv(size, LINE)
        for first in range(program * LINES, lines, tl.num_programs(0) * tl.num_programs(1) * LINES):
            line = tl.minimum(first + tl.arange(0, LINES), lines - 1)
            tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptr + line * LINE],
                                      dtype=tl.int32, is_pure=False, pack=1)
