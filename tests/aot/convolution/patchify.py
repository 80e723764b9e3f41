import torch

from course.kernels import patchify


def cases(dtype):
    yield "16x16", lambda: patchify(torch.randn(2, 3, 64, 64, dtype=dtype), 16)
    yield "odd channels_last", lambda: patchify(
        torch.randn(2, 3, 15, 22, dtype=dtype).to(memory_format=torch.channels_last), (5, 7)
    )
