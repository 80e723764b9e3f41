"""Which blocks scaled_dot_product_attention is offered: the first is a guess, the others are worth a measurement."""
import functools

import torch
import triton

from course import runtime
from course.runtime import INTERPRET


def config(block_m, block_n, num_warps, num_stages, **more):
    return triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n, **more}, num_warps=num_warps, num_stages=num_stages)


@functools.lru_cache(maxsize=4096)
def attention_configs(heads: int, L: int, S: int, block_e: int, dtype: torch.dtype) -> list[triton.Config]:
    """Configurations for `heads` heads of L queries and S keys, whose sizes are padded to `block_e` at most."""
    if INTERPRET:
        block_m, block_n = (min(max(16, triton.next_power_of_2(n)), 1024) for n in (L, S))
        _, wide, wider = sorted((block_m, block_n, block_e))
        at_once = max(1, 2**20 // (wide * wider))  # a tile has at most 2**20 elements
        return [config(block_m, block_n, 4, 1, HEADS=min(at_once, triton.next_power_of_2(heads)))]

    row_bytes = block_e * dtype.itemsize
    if row_bytes > 512:
        return [config(16, 16, 4, 1)]
    if row_bytes > 256:
        return [config(64, 32, 8, 1 if torch.version.hip else 2)]
    if dtype == torch.float32:
        return [config(64, 32, 8, 2)]
    if row_bytes > 128:
        configs = [config(128, 32, 8, 2), config(64, 64, 4, 2), config(128, 64, 8, 2), config(128, 128, 8, 2)]
    else:
        configs = [
            config(128, 64, 8, 3), config(64, 64, 4, 3), config(128, 64, 8, 2), config(64, 64, 4, 2),
            config(128, 64, 4, 2), config(128, 128, 8, 2), config(64, 128, 4, 2), config(32, 64, 4, 3),
        ]  # fmt: skip
        if heads * triton.cdiv(L, 128) < runtime.num_sms():  # too few programs to keep every multiprocessor busy
            configs.insert(0, configs.pop(1))
    return configs if heads * L * S * block_e >= 2**23 else configs[:1]
