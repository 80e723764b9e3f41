"""Which tiles conv2d may be computed in, the most promising first."""
import functools

import torch
import triton

from course import runtime
from course.kernels._matmul_configs import shared_memory
from course.kernels._sizes import cdiv, next_power_of_2

TILES = [  # BLOCK_M, BLOCK_N, warps, stages
    (256, 128, 8, 3), (128, 256, 8, 3), (128, 128, 8, 3), (256, 64, 8, 3), (128, 64, 8, 3),
    (128, 64, 4, 4), (64, 128, 4, 4), (64, 64, 4, 4), (128, 32, 4, 4), (64, 32, 4, 4), (64, 16, 4, 4),
]  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
OFFERED = 10
SMALL = 2**24  # multiply-adds: below, measuring would take longer than it can save


@functools.lru_cache(maxsize=4096)
def conv2d_configs(
    n_pixels: int, n_filters: int, C: int, terms: int, groups: int, dtype: torch.dtype, precision: str, coalesced: bool
) -> list[triton.Config]:
    """Configurations for `n_pixels` by `n_filters` sums of `terms` products in each group, by their predicted time.

    `coalesced` says that x and the result are read and written in whole rows of channels.
    """
    widest = max(next_power_of_2(n_filters), 16)
    # a step stays within one tap where that can be
    longest = C & -C if C % 16 == 0 else max(next_power_of_2(terms), 16)
    if runtime.INTERPRET:  # its time goes with the programs and their steps; a tile has 2**20 elements at most
        if longest < C:
            longest = next_power_of_2(terms)
        block_k, block_n = min(longest, 256), min(widest, 512)
        block_m = max(16, min(next_power_of_2(n_pixels), 2**20 // max(block_n, block_k)))
        return [_config(block_m, block_n, block_k, 1, 4, 1)]

    # what else a thread keeps in registers, addresses above all, limits its part of the accumulator
    if dtype == torch.float32 and precision == "ieee":  # no tensor cores, so the operands are there as well
        accumulators, block_k = 32, min(longest, 16)
    elif coalesced:  # rows of 128 bytes fill a row of shared memory
        accumulators, block_k = 256 // dtype.itemsize, min(longest, 128 // dtype.itemsize)
    else:
        accumulators, block_k = 32, min(longest, 32)
    found = []
    n_steps = cdiv(terms, block_k)
    for block_m, block_n, warps, stages in TILES:
        stages = min(stages, shared_memory() // ((block_m + block_n) * block_k * dtype.itemsize))
        if stages < 2 or block_n > widest or block_m * block_n > accumulators * 32 * warps:
            continue
        tiles = cdiv(n_pixels, block_m) * cdiv(n_filters, block_n) * groups
        for split in SPLITS:
            # split the sums only where the tiles alone leave multiprocessors idle, and into parts worth a program
            if split > 1 and (tiles * split > 2 * runtime.num_sms() or n_steps < 4 * split):
                break
            # a step costs its products and, in the same unit, its loads; start and end cost some steps more
            steps = cdiv(n_steps, split) + (4 if split == 1 else 8)
            step_cost = block_m * block_n + 64 * (block_m + block_n)
            waves = cdiv(tiles * split, runtime.num_sms())
            found.append((waves * steps * step_cost, _config(block_m, block_n, block_k, split, warps, stages)))
    found = [config for _, config in sorted(found, key=lambda entry: entry[0])]
    return found[:1] if n_pixels * n_filters * terms * groups < SMALL else found[:OFFERED]


def _config(block_m, block_n, block_k, split, warps, stages):
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "SPLIT_K": split}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)
