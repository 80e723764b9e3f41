import torch

from course.kernels import adaptive_avg_pool2d


def cases(dtype):
    x = torch.randn(2, 64, 56, 56, dtype=dtype)
    last = x.to(memory_format=torch.channels_last)
    yield "global, in parts", lambda: adaptive_avg_pool2d(x, 1)
    yield "global, in parts, channels_last", lambda: adaptive_avg_pool2d(last, 1)
    yield "global", lambda: adaptive_avg_pool2d(x[:, :, :7, :7].contiguous(), 1)
    yield "global, channels_last", lambda: adaptive_avg_pool2d(last[:, :, :7, :7].clone(), 1)
    many = torch.randn(300, 256, 7, 7, dtype=dtype).to(memory_format=torch.channels_last)
    yield "global, many images, channels_last", lambda: adaptive_avg_pool2d(many, 1)
    yield "global, sliced", lambda: adaptive_avg_pool2d(x[:, :, 1:, :13], 1)
    yield "uneven", lambda: adaptive_avg_pool2d(x, (9, 5))
    yield "uneven, channels_last", lambda: adaptive_avg_pool2d(last, (9, 5))
    yield "even", lambda: adaptive_avg_pool2d(x, 28)
