import torch

from course.kernels import conv2d


def cases(dtype):
    def image(*shape):
        return torch.randn(shape, dtype=dtype)

    last = torch.channels_last
    x, w = image(8, 128, 28, 28).to(memory_format=last), image(128, 128, 3, 3).to(memory_format=last)
    yield "channels_last", lambda: conv2d(x, w, padding=1)
    yield "fused", lambda: conv2d(x, w, w[:, 0, 0, 0], padding=1, activation="relu", residual=x)
    yield "contiguous", lambda: conv2d(x.contiguous(), w, padding=1)
    yield "1x1", lambda: conv2d(x, w[:, :, :1, :1], stride=2)
    few = image(1, 512, 7, 7)
    yield "split", lambda: conv2d(few.to(memory_format=last), image(512, 512, 3, 3), image(512), padding=1)
    yield "split contiguous", lambda: conv2d(few, image(512, 512, 3, 3), padding=1, activation="gelu", residual=few)
    stem = image(8, 3, 112, 112)
    yield "stem", lambda: conv2d(stem.to(memory_format=last), image(64, 3, 7, 7), stride=2, padding=3)
    yield "stem contiguous", lambda: conv2d(stem, image(64, 3, 7, 7), stride=2, padding=3)
    yield "patches", lambda: conv2d(stem, image(768, 3, 16, 16), image(768), stride=16)
    yield "odd", lambda: conv2d(image(1, 5, 9, 9), image(7, 5, 2, 3), padding="same", dilation=2)
    yield "groups", lambda: conv2d(x, w[:, :32], padding=1, groups=4)
    yield "depthwise", lambda: conv2d(x, w[:, :1], padding=1, groups=128)
    yield "depthwise contiguous", lambda: conv2d(x.contiguous(), w[:, :1], image(128), padding=1, groups=128)
    # taps so far apart that offsets within a window pass 2**31
    far = dict(padding=2**29, dilation=2**29)
    yield "far taps", lambda: conv2d(image(1, 16, 4, 4), image(16, 16, 3, 3), **far)
    yield "far taps, depthwise", lambda: conv2d(image(1, 16, 4, 4), image(16, 1, 3, 3), groups=16, **far)
