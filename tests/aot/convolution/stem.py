import torch

from course.kernels import stem


def cases(dtype):
    def run(*shape, filters=64):
        weight, bias = torch.empty(filters, 7, 8, 4, dtype=dtype), torch.empty(filters, dtype=dtype)
        stem(torch.empty(shape, dtype=dtype), weight, bias)

    def in_full_precision():
        with torch.backends.cudnn.flags(allow_tf32=False):
            run(8, 3, 224, 224)

    yield "one image", lambda: run(1, 3, 224, 224)
    yield "a batch", lambda: run(64, 3, 224, 224)
    yield "small images, few filters", lambda: run(64, 1, 33, 32, filters=24)
    if dtype == torch.float32:
        yield "ieee", in_full_precision
