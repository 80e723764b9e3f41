import torch

from course.kernels import fold_norm, linear_with_statistics, norm_linear
from tests.aot.products.matmul import with_tf32


def cases(dtype):
    x, weight = torch.zeros(8192, 1024, dtype=dtype), torch.zeros(2048, 1024, dtype=dtype)
    folded = fold_norm(weight, None, torch.ones(1024), torch.ones(1024))
    statistics = torch.zeros(8192, 2, 32)
    yield "norm", lambda: norm_linear(x, statistics, *folded, activation="gelu", prefetch=weight)
    yield "residual", lambda: linear_with_statistics(x, weight, residual=torch.zeros(8192, 2048, dtype=dtype))
    few, long = torch.zeros(128, 8192, dtype=dtype), torch.zeros(128, 8192, dtype=dtype)
    yield "few rows, long sums", lambda: linear_with_statistics(few, long, residual=few[:, :128])
    yield "odd", lambda: linear_with_statistics(x[:500, 1:], weight[:499, 1:], prefetch=weight)
    if dtype == torch.float32:
        yield "tf32", lambda: with_tf32(lambda: norm_linear(x, statistics, *folded))
