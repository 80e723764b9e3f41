"""Programmatic dependent launch (PDL): a kernel is launched while the one before it in the stream is still ending.

Between two kernels of a stream the GPU idles for about a microsecond, because the second kernel is launched when the
first one has finished. On Hopper and later, a kernel launched with `launch_pdl` is launched as the programs of the
first one end, and has its registers, shared memory and arguments ready by then. Before it touches memory it executes
`griddepcontrol.wait`, which returns when the first kernel has finished and its results are visible (CUDA C++
Programming Guide, Programmatic Dependent Launch).

The first kernel may permit that launch earlier, by `griddepcontrol.launch_dependents`: the second kernel is launched
when every program of the first has executed it or has ended. What a program stores after this signal is as safe as what
it stored before, because `griddepcontrol.wait` waits for the end of the whole grid and not for the signal. So when to
signal is a matter of speed alone. Each program that signals costs about 1.3 nanoseconds, one after the other. And the
programs of the second kernel take the room that is free and stay there: where one multiprocessor is free earlier than
another, it gets two of them and the other none.

- A kernel that moves bytes signals after its last load. For a megabyte or two that made those kernels up to a third
  faster on an H200; a program should move 8 KiB or so.
- A product or attention signals at its start. What the second kernel still has to do when the first one has finished is
  then to read: ViT-B/16 became 6 % faster for one image, 5 % for 8, 2 % for 16. So does a layer norm of few programs
  (4 % more for 8 images; for 64, with 12,608 programs each, all layer norms together lost 0.12 ms).
- A convolution signals at its start if it leaves half of the multiprocessors free: 5 % for one image of ResNet-18. With
  more programs than that, later kernels lost more than it gained, up to 9 % for 64 images.
"""
import triton
import triton.language as tl
from triton.language.extra import cuda

from course import runtime

# a kernel's constexpr argument PDL: which of the two instructions it executes, and when
NO_PDL = tl.constexpr(0)
"""Neither: the kernel is launched when the one before it has finished."""
WAIT_AT_START = tl.constexpr(1)
"""It waits at its start, and signals where it calls `pdl_launch_dependents`, if it does."""
SIGNAL_AT_START = tl.constexpr(2)
"""It signals at its start, and then waits."""

MOST_AT_ONCE = 2000  # programs that signal at their start: 1,576 of them gained time, 12,608 lost it


@triton.jit
def pdl_wait(PDL: tl.constexpr):
    """To be called before the first load or store of a kernel launched with `pdl_options`, in each of its tasks."""
    if PDL == SIGNAL_AT_START:
        cuda.gdc_launch_dependents()
    if PDL != NO_PDL:
        cuda.gdc_wait()


@triton.jit
def pdl_launch_dependents(PDL: tl.constexpr):
    """To be called after the last load of such a kernel: the next kernel may be launched from here on."""
    if PDL != NO_PDL:
        cuda.gdc_launch_dependents()


def pdl_options(programs: int | None = None, most: int = MOST_AT_ONCE) -> dict:
    """The arguments that launch a kernel by PDL, where the GPU has it.

    With a number of `programs`, of at most `most`, the kernel signals at its start.
    """
    if runtime.capability() < (9, 0) or runtime.INTERPRET:
        return {"PDL": NO_PDL.value}
    at_start = programs is not None and programs <= most
    return {"PDL": (SIGNAL_AT_START if at_start else WAIT_AT_START).value, "launch_pdl": True}
