"""Products on tensor cores, the same in every kernel that has one."""
import torch
import triton
import triton.language as tl

from course.runtime import INTERPRET

INTERPRETED = tl.constexpr(INTERPRET)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, accumulated in float32.

    The interpreter would multiply the raw bits of bfloat16 numbers, so there they become float32 first,
    which is exact and is what the tensor cores do with them.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


def matmul_precision(dtype: torch.dtype) -> str:
    """How float32 operands are multiplied where torch.matmul would be used: PyTorch's own setting decides."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def conv_precision(dtype: torch.dtype) -> str:
    """The same for convolutions, whose setting is cuDNN's (TF32 unless switched off)."""
    return "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"
