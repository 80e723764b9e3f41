"""How float32 operands are multiplied: PyTorch's settings, read by the kernels and set for a comparison."""
import contextlib

import torch


def matmul_precision(dtype: torch.dtype) -> str:
    """"tf32" or "ieee", where torch.matmul would be used: `torch.backends.cuda.matmul.allow_tf32` decides."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def conv_precision(dtype: torch.dtype) -> str:
    """The same for convolutions, whose setting is cuDNN's (TF32 unless switched off)."""
    return "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


@contextlib.contextmanager
def full_precision():
    """Float32 products in float32, in PyTorch's layers and in ours, whatever the program allows outside."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
