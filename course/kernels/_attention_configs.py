"""Which blocks scaled_dot_product_attention is offered: the first is a guess, the others are worth a measurement."""
import functools

import torch
import triton

from course import runtime
from course.kernels._sizes import cdiv, next_power_of_2
from course.runtime import INTERPRET

SPECIALISED = triton.Config({"GROUPS": 2}, num_warps=4, num_stages=4)
"""`_attention_specialised`'s, whose blocks have one size."""


def config(block_m: int, block_n: int, num_warps: int, num_stages: int, **more) -> triton.Config:
    return triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n, **more}, num_warps=num_warps, num_stages=num_stages)


@functools.lru_cache(maxsize=4096)
def attention_configs(
    heads: int, L: int, S: int, block_e: int, dtype: torch.dtype, is_causal: bool, specialised: bool
) -> list[triton.Config]:
    """Configurations for `heads` heads of L queries and S keys, of padded sizes up to `block_e`.

    With `specialised` one of them is `_attention_specialised`'s.
    """
    if INTERPRET:
        block_m, block_n = (min(max(16, next_power_of_2(n)), 1024) for n in (L, S))
        keys = max(block_m, block_n) if is_causal else block_n  # those on the diagonal are one block
        _, wide, wider = sorted((block_m, keys, block_e))
        at_once = max(1, 2**20 // (wide * wider))  # a tile has at most 2**20 elements
        return [config(block_m, block_n, 4, 1, HEADS=min(at_once, next_power_of_2(heads)))]

    if dtype == torch.float32:  # without tensor cores a thread holds whole rows of both factors
        return [config(min(64, 4096 // block_e), min(32, 4096 // block_e), 8, 2)]
    if block_e > 128:
        return [config(64, 32, 8, 2)]
    if block_e > 64:
        configs = [config(128, 32, 8, 2), config(64, 64, 4, 2), config(128, 64, 8, 2), config(128, 128, 8, 2)]
    else:
        configs = [config(128, 64, 8, 3), config(64, 64, 4, 3), config(128, 128, 8, 2), config(64, 128, 4, 2)]
        if heads * cdiv(L, 128) < runtime.num_sms():  # too few programs to keep every multiprocessor busy
            configs = [configs[1], config(32, 64, 4, 3), configs[3], configs[0]]
        if S < 256 and not is_causal:  # all keys at once: one maximum, nothing to multiply again
            configs = [config(64, 256, 4, 1), config(128, 256, 8, 1), *configs]
        if specialised:  # its programs are large: a guess where there are many keys, and work for most multiprocessors
            many = min(L, S) >= 512 and heads * cdiv(L, 128) >= runtime.num_sms() * 2 // 3
            configs.insert(0 if many else len(configs), SPECIALISED)
    return configs if heads * L * S * block_e >= 2**23 else configs[:1]
