import torch

from course.kernels import linear
from tests.aot.products.matmul import with_tf32


def cases(dtype):
    x, weight = torch.empty(2048, 1024, dtype=dtype), torch.empty(2048, 1024, dtype=dtype)
    bias, residual = torch.empty(2048, dtype=dtype), torch.empty(2048, 2048, dtype=dtype)
    for activation in (None, "relu", "gelu"):
        yield f"{activation}", lambda activation=activation: linear(x, weight, bias, activation=activation)
    yield "residual", lambda: linear(x, weight, bias, activation="gelu_tanh", residual=residual)
    yield "odd", lambda: linear(x[:500, 1:], weight[:500, 1:], bias[:500], residual=residual[:500, :500].T)
    yield "prefetch", lambda: linear(x, weight, bias, prefetch=weight)
    yield "prefetch, through pointers", lambda: linear(x[:, :1023], weight[:, :1023], prefetch=weight)
    few = x.view(128, -1), weight.view(128, -1), bias[:128]
    yield "few rows, long sums", lambda: linear(*few, activation="gelu", residual=residual[:128, :128])
    many = torch.empty(12608, 128, dtype=dtype), weight[:768, :128], bias[:768]
    yield "many rows", lambda: linear(*many, residual=torch.empty(12608, 768, dtype=dtype), prefetch=weight)
    if dtype == torch.float32:
        yield "tf32", lambda: with_tf32(lambda: linear(x, weight, bias, activation="gelu", residual=residual))
