"""Programmatic dependent launch: a kernel takes its place on the GPU while the one before it is still ending.

Between two kernels of a stream the GPU idles for about a microsecond: the second is launched when the first has
finished. On Hopper and later, one launched with `launch_pdl` is launched as the programs of the first end, and
has its registers, shared memory and arguments ready; before it touches memory it calls `gdc_wait`, which returns when
the first has finished and its results are visible (CUDA C++ Programming Guide, Programmatic Dependent Launch).

The first may also say itself when that is, with `gdc_launch_dependents`: the second is launched when each of its
programs has said so or ended. What it stores after that is as safe as what it stored before: `gdc_wait` does not ask
for the signal, it waits until the whole grid has finished. Sent after their last load, it made elementwise kernels,
pools and batch norms over a megabyte or two up to a third faster on an H200. It costs something, though: about 1.3
nanoseconds a program, one after the other, so that a program should move 8 KiB or so. And sent by the layer norms
alone, it made a ViT 5 % slower at batches 1 and 8. The likely reason: the programs of the second kernel then take what
room the first one leaves, two on one multiprocessor and none on another, and stay there. So those leave it out.
"""
import triton
import triton.language as tl
from triton.language.extra import cuda

from course import runtime


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """To be called before the first load or store of a kernel launched with `early_start()`."""
    if EARLY:
        cuda.gdc_wait()


@triton.jit
def let_next_start(EARLY: tl.constexpr):
    """To be called after the last load of such a kernel: what follows it may take its place on the GPU from here on."""
    if EARLY:
        cuda.gdc_launch_dependents()


@triton.jit
def fetch_ahead(ptr, size, EARLY: tl.constexpr):
    """Brings this program's share of the `size` elements at `ptr`, which a later kernel will read, to the L2 cache.

    Nothing is read yet, so that it may stand before `wait_for_previous`.
    """
    if EARLY and ptr is not None:
        LINE: tl.constexpr = 1024 // ptr.dtype.element_ty.primitive_bitwidth  # 128 bytes
        program = tl.program_id(0) + tl.program_id(1) * tl.num_programs(0)
        lines = tl.cdiv(size, LINE)
        for first in range(program * 128, lines, tl.num_programs(0) * tl.num_programs(1) * 128):
            line = tl.minimum(first + tl.arange(0, 128), lines - 1)
            tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptr + line * LINE],
                                      dtype=tl.int32, is_pure=False, pack=1)  # fmt: skip


def early_start() -> dict:
    """What such a kernel is launched with beside its own arguments."""
    able = runtime.capability() >= (9, 0) and not runtime.INTERPRET
    return {"EARLY": True, "launch_pdl": True} if able else {"EARLY": False}
