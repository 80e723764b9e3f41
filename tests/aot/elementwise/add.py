import torch

from course.kernels import add


def cases(dtype):
    x = torch.randn(64, 128, dtype=dtype)
    yield "flat", lambda: add(x, x)
    yield "broadcast", lambda: add(x, x[:, :1])
    yield "odd", lambda: add(x[:, :127], x[0, :127])
