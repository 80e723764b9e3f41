import torch

from course.kernels import group_norm


def cases(dtype):
    def case(shape, num_groups, memory_format=torch.contiguous_format, weight=True, bias=True):
        x = torch.empty(shape, dtype=dtype).to(memory_format=memory_format)
        affine = [torch.empty(shape[1], dtype=dtype) if wanted else None for wanted in (weight, bias)]
        return lambda: group_norm(x, num_groups, *affine)

    yield "contiguous", case((8, 256, 56, 56), 32)
    yield "channels_last", case((8, 256, 56, 56), 32, torch.channels_last)
    yield "7 by 7", case((8, 2048, 7, 7), 32)
    yield "10 channels, channels_last", case((64, 320, 14, 14), 32, torch.channels_last)
    yield "rows", case((5000, 512), 32)
    yield "long", case((2, 320, 64, 64), 32)
    yield "long, channels_last", case((2, 320, 64, 64), 32, torch.channels_last)
    yield "one channel a group", case((2, 64, 300, 300), 64, torch.channels_last)
    yield "one group", case((2, 300, 33, 33), 1, torch.channels_last, bias=False)
    yield "bare", case((2, 64, 28, 28), 32, weight=False, bias=False)
    turned = torch.empty(4, 1600, 256, dtype=dtype).mT
    yield "turned", lambda: group_norm(turned, 32)
    yield "turned, long", lambda: group_norm(turned, 2)
    yield "positions that are no neighbours", lambda: group_norm(torch.empty(2, 64, 28, 30, dtype=dtype)[..., :28], 32)
