import torch

from course.kernels import conv2d


def cases(dtype):
    def image(*shape):
        return torch.empty(shape, dtype=dtype)

    def in_full_precision():
        with torch.backends.cudnn.flags(allow_tf32=False):
            conv2d(x, w, padding=1)

    last = torch.channels_last
    x, w = image(8, 128, 28, 28).to(memory_format=last), image(128, 128, 3, 3).to(memory_format=last)
    yield "channels_last, fused", lambda: conv2d(x, w, w[:, 0, 0, 0], padding=1, activation="relu", residual=x)
    yield "contiguous", lambda: conv2d(x.contiguous(), w, padding=1)
    yield "1x1", lambda: conv2d(x, w[:, :, :1, :1], stride=2)
    if dtype == torch.float32:
        yield "ieee", in_full_precision
        yield "TF32 operands", lambda: conv2d(x, w, padding=1, tf32_operands=True)
    yield "1x1, no stride", lambda: conv2d(x, w[:, :, :1, :1], w[:, 0, 0, 0], activation="gelu_tanh")
    many = image(128, 64, 14, 14).to(memory_format=last)
    yield "many images", lambda: conv2d(many, image(72, 64, 3, 3), stride=2, padding=1)
    few = image(1, 512, 7, 7).to(memory_format=last)
    yield "split", lambda: conv2d(few, image(512, 512, 3, 3), image(512), padding=1, residual=few)
    odd = image(1, 510, 7, 7).to(memory_format=last)
    yield "split by pointers", lambda: conv2d(odd, image(512, 510, 3, 3), image(512), padding=1)
    yield "split contiguous", lambda: conv2d(few.contiguous(), image(512, 512, 3, 3), image(512), padding=1)
    stem = image(8, 3, 112, 112)
    yield "stem", lambda: conv2d(stem.to(memory_format=last), image(64, 3, 7, 7), stride=2, padding=3)
    yield "patches", lambda: conv2d(stem, image(768, 3, 16, 16), image(768), stride=16)
    yield "odd", lambda: conv2d(image(1, 5, 9, 9), image(7, 5, 2, 3), padding="same", dilation=2)
    yield "NCHW", lambda: conv2d(x.contiguous(), w.contiguous(), w[:, 0, 0, 0], padding=1, residual=x)
    yield "groups of few channels", lambda: conv2d(x, w[:, :4], padding=1, groups=32)
    yield "groups of many channels", lambda: conv2d(x, w[:, :64], padding=1, stride=2, groups=2)
    yield "depthwise", lambda: conv2d(x, w[:, :1], padding=1, groups=128)
    yield "depthwise 7x7", lambda: conv2d(x, image(128, 1, 7, 7), padding=3, groups=128, activation="silu", residual=x)
    yield "a filter for two channels", lambda: conv2d(x, image(64, 2, 3, 3), groups=64)
    yield "depthwise contiguous", lambda: conv2d(x.contiguous(), image(128, 1, 3, 3), image(128), padding=1, groups=128)
    # taps so far apart that offsets within a window pass 2**31
    far = dict(padding=2**29, dilation=2**29)
    yield "far taps", lambda: conv2d(image(1, 16, 4, 4), image(16, 16, 3, 3), **far)
    yield "far taps, depthwise", lambda: conv2d(image(1, 16, 4, 4), image(16, 1, 3, 3), groups=16, **far)
