import torch

from course.kernels import row_statistics


def cases(dtype):
    yield "every other column", lambda: row_statistics(torch.zeros(8192, 1024, dtype=dtype)[:, ::2])
