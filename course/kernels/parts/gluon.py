"""What the kernels in Gluon share: the language below Triton, in which the author chooses layouts and copies too."""
import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

# Triton 3.6 has both under an older name
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
async_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.constexpr_function
def accumulator_layout(n):
    """The layout of a float32 accumulator (64, n) of Hopper's tensor cores, in the registers of one warp group.

    Each of its four warps has 16 rows. Four threads of a warp share a row, and each of them has pairs of columns.
    """
    return gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, n, 16])


@gluon.jit
def phase(use):
    """What `mbarrier.wait` takes to wait for completion number `use` of a barrier, counted from 0: the number's parity.

    A buffer has a barrier `full`, which completes when TMA has filled it, and a barrier `empty`, which completes when
    its contents have been used. In its use number `use`, the reader waits for phase(use) of `full`, and the writer
    before that for phase(use - 1) of `empty`: for phase(-1) a wait returns at once, as nothing has to be emptied.
    """
    return use & 1
