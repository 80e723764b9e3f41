"""What the kernels in Gluon share: the language below Triton, in which layouts and copies are the author's as well."""
import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# two names that Triton 3.6 does not know yet
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
async_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.constexpr_function
def columns_of_sums(n):
    """The layout in which Hopper's tensor cores leave `n` columns of sums of 64 rows to four warps.

    A warp has 16 rows, four of its threads share a row, and each has pairs of columns.
    """
    return gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, n, 16])


def describe(t: torch.Tensor, sizes, strides, block) -> TensorDescriptor:
    """`t` for the copy engine, in blocks that lie in shared memory as the tensor cores read them."""
    layout = gl.NVMMASharedLayout.get_default_for(block, DTYPES[t.dtype])
    return TensorDescriptor(t, list(sizes), list(strides), block, layout)
