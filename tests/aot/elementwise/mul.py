import torch

from course.kernels import mul


def cases(dtype):
    x = torch.randn(64, 128, dtype=dtype)
    yield "flat", lambda: mul(x, x)
    yield "broadcast", lambda: mul(x, x[:, :1])
