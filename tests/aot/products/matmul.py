import torch

from course.kernels import matmul


def cases(dtype):
    a, b = torch.empty(2048, 1024, dtype=dtype), torch.empty(1024, 2048, dtype=dtype)
    yield "rows", lambda: matmul(a, b)
    yield "columns", lambda: matmul(b.T, a.T)
    yield "odd", lambda: matmul(a[:500, 1:], b[1:, :500])
    yield "batch", lambda: matmul(a.view(2, 1, 1024, 1024), b.view(2, 1024, 1024))
    yield "few rows, long sums", lambda: matmul(a.view(128, -1), b.view(-1, 128))
    yield "one row", lambda: matmul(a[0], b)
    if dtype == torch.float32:
        yield "tf32", lambda: with_tf32(lambda: matmul(a, b))
        yield "tf32, k innermost", lambda: with_tf32(lambda: matmul(a, b.view(2048, 1024).T))


def with_tf32(call):
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        call()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
