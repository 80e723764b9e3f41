import torch

from course.kernels import layer_norm


def cases(dtype):
    def case(rows, cols, weight=True, bias=True, turned=False):
        x = torch.empty(cols, rows, dtype=dtype).T if turned else torch.empty(rows, cols, dtype=dtype)
        affine = [torch.empty(cols, dtype=dtype) if wanted else None for wanted in (weight, bias)]
        return lambda: layer_norm(x, (cols,), *affine)

    yield "1 column", case(100_000, 1)
    yield "10 columns", case(100_000, 10)
    yield "192 columns", case(100_000, 192)
    yield "768 columns", case(20_000, 768)
    yield "197 rows", case(197, 768)
    yield "no weight", case(197, 768, weight=False)
    yield "no bias", case(197, 768, bias=False)
    yield "late weight", case(4, 20_000)
    yield "longest block", case(4, 1 << 15)
    yield "longer", case(4, 50_000)
    yield "longer, bare", case(4, 50_000, weight=False, bias=False)
    yield "columns of a matrix", case(1000, 768, turned=True)
    yield "long columns of a matrix", case(1000, 5000, turned=True)
