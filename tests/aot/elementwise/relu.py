import torch

from course.kernels import relu


def cases(dtype):
    x = torch.randn(64, 128, dtype=dtype)
    yield "flat", lambda: relu(x)
    yield "strided", lambda: relu(x[:, :127])
