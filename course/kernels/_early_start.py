"""Programmatic dependent launch: a kernel takes its place on the GPU while the one before it is still ending.

Between two kernels of a stream the GPU idles for about a microsecond: the second is launched when the first has
finished. On Hopper and later, one launched with `launch_pdl` is launched as the programs of the first end, and
has its registers, shared memory and arguments ready; before it touches memory it calls `gdc_wait`, which returns when
the first has finished and its results are visible (CUDA C++ Programming Guide, Programmatic Dependent Launch).

The first may also say itself when that is, with `gdc_launch_dependents`: the second is launched when each of its
programs has said so or ended. What it stores after that is as safe as what it stored before: `gdc_wait` does not ask
for the signal, it waits until the whole grid has finished. When to say it is a matter of speed alone. Each program that
does costs about 1.3 nanoseconds, one after the other. And the programs of the second kernel take what room there is
and stay there: where one multiprocessor has it earlier than another, two of them on one and none on the other.

- A kernel that moves bytes says it after its last load. Over a megabyte or two that made those kernels up to a third
  faster on an H200; a program should move 8 KiB or so.
- A product or attention says it at its start. What is left to do for the second kernel when the first has finished is
  then to read: ViT-B/16 became 6 % faster for one image, 5 % for 8, 2 % for 16. So does a layer norm of few programs
  (4 % more for 8 images; at 64, with 12,608 programs each, all layer norms together lost 0.12 ms).
- A convolution says it at its start if it leaves half of the multiprocessors free: 5 % for one image of ResNet-18. With
  more programs than that, later kernels lost more than it gained, up to 9 % at 64 images.
"""
import triton
import triton.language as tl
from triton.language.extra import cuda

from course import runtime

NEXT_TOO = tl.constexpr(2)
"""EARLY of a kernel that lets the next one start with it; of one that starts early itself it is 1, and of others 0."""

MOST_AT_ONCE = 2000  # programs that say so at their start: it was worth while with 1,576, and did harm with 12,608


@triton.jit
def wait_for_previous(EARLY: tl.constexpr):
    """To be called before the first load or store of a kernel launched with `early_start()`, by each of its tasks."""
    if EARLY == NEXT_TOO:
        cuda.gdc_launch_dependents()
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


def early_start(programs: int | None = None, most: int = MOST_AT_ONCE) -> dict:
    """What such a kernel is launched with beside its own arguments.

    One whose `programs` are given, and at most `most`, lets the next kernel start when it begins to wait itself.
    """
    if runtime.capability() < (9, 0) or runtime.INTERPRET:
        return {"EARLY": 0}
    let_next = programs is not None and programs <= most
    return {"EARLY": NEXT_TOO.value if let_next else 1, "launch_pdl": True}
