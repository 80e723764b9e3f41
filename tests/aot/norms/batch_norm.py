import torch

from course.kernels import batch_norm


def cases(dtype):
    x = torch.randn(4, 64, 28, 28, dtype=dtype)
    stats = torch.zeros(64, dtype=dtype), torch.ones(64, dtype=dtype)
    single = torch.ones(4, 64).unbind()
    yield "contiguous", lambda: batch_norm(x, *stats, *stats)
    yield "channels_last", lambda: batch_norm(x.to(memory_format=torch.channels_last), *stats, *stats)
    large = torch.empty(64, 64, 28, 28, dtype=dtype, memory_format=torch.channels_last)
    yield "channels_last, large", lambda: batch_norm(large, *stats, *stats)
    yield "float32 parameters", lambda: batch_norm(x, *single)
    yield "no parameters", lambda: batch_norm(x, *stats)
    yield "odd", lambda: batch_norm(x[:, :, :7, :7].contiguous(), *stats, *stats)
    yield "sliced", lambda: batch_norm(x.view(4, 64, 7, 28, 4)[:, :63, 1:, ::3, 1:], *(t[:63] for t in stats))
    yield "rows", lambda: batch_norm(x[:, :, 0, 0], *stats, *stats)
    yield "training", lambda: batch_norm(x, *stats, *stats, training=True)
    yield "training, channels_last", lambda: batch_norm(
        x.to(memory_format=torch.channels_last), *single, training=True
    )
    yield "training without statistics", lambda: batch_norm(x[:, :63, 1:, 1:], None, None, training=True)
