import torch

from course.kernels import gelu


def cases(dtype):
    x = torch.randn(64, 128, dtype=dtype)
    yield "flat", lambda: gelu(x)
    yield "tanh", lambda: gelu(x, approximate="tanh")
    yield "strided", lambda: gelu(x[:, :127])
