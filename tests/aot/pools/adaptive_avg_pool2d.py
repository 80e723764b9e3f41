import torch

from course.kernels import adaptive_avg_pool2d


def cases(dtype):
    x = torch.randn(2, 64, 56, 56, dtype=dtype)
    last = x.to(memory_format=torch.channels_last)
    yield "global, in parts", lambda: adaptive_avg_pool2d(x, 1)
    yield "global, in parts, channels_last", lambda: adaptive_avg_pool2d(last, 1)
    yield "global", lambda: adaptive_avg_pool2d(x[:, :, :7, :7].contiguous(), 1)
    yield "global, channels_last", lambda: adaptive_avg_pool2d(last[:, :, :7, :7].clone(), 1)

    def many(n, h, w):
        images = torch.empty(n, 256, h, w, dtype=dtype, memory_format=torch.channels_last)
        return lambda: adaptive_avg_pool2d(images, 1)

    yield "global, many images, channels_last", many(2000, 7, 7)
    yield "global, many larger images, channels_last", many(600, 9, 8)
    yield "global, odd channels, channels_last", lambda: adaptive_avg_pool2d(last[:, :63, :7, :7].clone(), 1)
    yield "global, sliced", lambda: adaptive_avg_pool2d(x[:, :, 1:, :13], 1)
    yield "uneven", lambda: adaptive_avg_pool2d(x, (9, 5))
    yield "uneven, channels_last", lambda: adaptive_avg_pool2d(last, (9, 5))
    yield "even", lambda: adaptive_avg_pool2d(x, 28)
