"""Programmatic dependent launch: a kernel takes its place on the GPU while the one before it is still ending.

Between two kernels of a stream the GPU idles for about a microsecond: the second is launched when the first has
finished. On Hopper and later, one launched with `launch_pdl` is launched as the programs of the first end, and
has its registers, shared memory and arguments ready; before it touches memory it calls `gdc_wait`, which returns when
the first's results are visible (CUDA C++ Programming Guide, Programmatic Dependent Launch). The guide's earlier
signal, `gdc_launch_dependents`, is left out: programs that wait would hold places that working ones need.
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


def early_start() -> dict:
    """What such a kernel is launched with beside its own arguments."""
    able = runtime.capability() >= (9, 0) and not runtime.INTERPRET
    return {"EARLY": True, "launch_pdl": True} if able else {"EARLY": False}
