"""How float32 operands are multiplied: PyTorch's settings, read by the kernels and set for a comparison.

PyTorch has two ways to say it, `torch.backends.cuda.matmul.allow_tf32` and `torch.backends.cuda.matmul.fp32_precision`
(for convolutions `torch.backends.cudnn.allow_tf32` and `torch.backends.cudnn.conv.fp32_precision`). The older one sets
the newer one as well, and raises RuntimeError where it is read after the newer one was set: so the newer one is read.
"""
import contextlib

import torch

from course import runtime


def matmul_precision(dtype: torch.dtype) -> str:
    """"tf32" or "ieee", as PyTorch's setting for matrix products allows: "ieee" unless switched on.

    "ieee" on a GPU without TF32, as in PyTorch.
    """
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed and runtime.has_tensor_cores() else "ieee"


def conv_precision(dtype: torch.dtype) -> str:
    """The same for convolutions, whose setting is cuDNN's: "tf32" unless switched off."""
    allowed = dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return "tf32" if allowed and runtime.has_tensor_cores() else "ieee"


@contextlib.contextmanager
def full_precision():
    """Float32 products in float32, in PyTorch's layers and in ours, whatever the program allows outside."""
    older = torch.backends.cuda.matmul, torch.backends.cudnn
    newer = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [setting.fp32_precision for setting in newer]
    for setting in older:
        setting.allow_tf32 = False
    try:
        yield
    finally:
        for old, new, precision in zip(older, newer, before):
            old.allow_tf32 = precision == "tf32"
            new.fp32_precision = precision
