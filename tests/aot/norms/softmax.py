import torch

from course.kernels import softmax


def cases(dtype):
    def case(*shape, dim=-1, order=None):
        x = torch.empty(shape, dtype=dtype)
        x = x if order is None else x.permute(order)
        return lambda: softmax(x, dim)

    yield "10 columns", case(100_000, 10)
    yield "197 columns", case(20_000, 197)
    yield "1000 columns", case(20_000, 1000)
    yield "a few rows", case(8, 1000)
    yield "longest block", case(4, (1 << 17) // dtype.itemsize)
    yield "longer", case(4, 70_000)
    yield "channels", case(16, 64, 56, 56, dim=1)
    yield "many channels", case(4, 3000, 7, 7, dim=1)
    yield "channels last", case(16, 56, 56, 64, dim=1, order=(0, 3, 1, 2))
    yield "columns of a matrix", case(2048, 1000, order=(1, 0))
    yield "long columns of a matrix", case(5000, 1000, order=(1, 0))
