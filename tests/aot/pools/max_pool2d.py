import torch

from course.kernels import max_pool2d


def cases(dtype):
    x = torch.randn(2, 64, 56, 56, dtype=dtype)
    yield "contiguous", lambda: max_pool2d(x, 3, 2, 1)
    yield "channels_last", lambda: max_pool2d(x.to(memory_format=torch.channels_last), 3, 2, 1)
    yield "large kernel", lambda: max_pool2d(x, 13, 1, 6)
    yield "odd", lambda: max_pool2d(x[0, :7, :13, 1:], (2, 3), 1, 1, (1, 2), True)
