"""Which tiles a matrix product may be computed in, the most promising first."""
import functools

import torch
import triton

from course import runtime
from course.kernels._matmul_specialised import COLS, REGISTERS, rows_of_a_tile
from course.kernels._row_statistics import PART
from course.kernels._sizes import cdiv, next_power_of_2

POINTER_TILES = [  # BLOCK_M, BLOCK_N, warps
    (256, 128, 8), (128, 256, 8), (128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (64, 32, 4), (32, 64, 4),
    (16, 128, 4), (16, 64, 4), (16, 32, 4),
]  # fmt: skip
FLOAT32_TILES = [(128, 64, 8), (64, 64, 4), (32, 64, 4), (16, 64, 4), (16, 32, 4)]  # multiplied without tensor cores
TMA_TILES = [  # the same, and programs on a multiprocessor: of two, one multiplies while the other finishes its tile
    (128, 256, 8, 1), (256, 128, 8, 1), (128, 128, 8, 1), (128, 128, 4, 2), (128, 128, 8, 2), (64, 256, 4, 1),
    (128, 64, 4, 2), (64, 128, 4, 2),
]  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
STAGES = 4
OFFERED = 12
SMALL = 2**24  # multiply-adds: below, measuring would take longer than it can save


@functools.lru_cache(maxsize=4096)  # asked for at every call, and a millisecond's work
def matmul_configs(
    M: int, N: int, K: int, batch: int, dtype: torch.dtype, precision: str, tma: bool, specialised: bool, residual: bool
) -> list[triton.Config]:
    """Configurations for `batch` products of M x K by K x N, by their predicted time.

    Where `tma` says that the copy engine can read the operands, those with SLICES are for the kernel that uses it, and
    where `specialised` says so, those with GROUPS for the one whose warps have tasks of their own; the others read
    through pointers.
    """
    if runtime.INTERPRET:  # its time goes with the number of programs
        block_m, block_n, block_k = (
            min(max(next_power_of_2(size), least), most)
            for size, least, most in ((M, 16, 256), (N, PART.value, 512), (K, 16, 512))
        )
        return [_pointers(block_m, block_n, block_k, 1, 4, 1)]

    ieee = dtype == torch.float32 and precision == "ieee"
    block_k = 16 if ieee else 128 // dtype.itemsize  # on tensor cores a row of shared memory: 128 bytes
    memory, sms = shared_memory(), runtime.num_sms()
    products = 128 if ieee else 4096 // dtype.itemsize  # a cycle and multiprocessor
    steps = cdiv(K, block_k)
    found = []

    def cycles(block_m, block_n, programs, steps, barriers=100):
        # very roughly: a multiprocessor's share of the work, or the wait for memory of one program alone
        loads = (block_m + block_n) * block_k * dtype.itemsize
        step = barriers + max(block_m * block_n * block_k / products, loads / 48)
        return max(cdiv(programs, sms) * (steps * step + block_m * block_n / 16), steps * 250)

    def parts_cost(split):
        return 0 if split == 1 else 4000 + 8 * split * M * N / (48 * sms)  # another launch, written and read again

    for block_m, block_n, warps in FLOAT32_TILES if ieee else POINTER_TILES:
        tiles = batch * cdiv(M, block_m) * cdiv(N, block_n)
        stages = min(STAGES, memory // ((block_m + block_n) * block_k * dtype.itemsize))
        splits = []
        for split in SPLITS:
            # split the sums only where the tiles alone leave multiprocessors idle, and into parts worth a program
            if stages < 2 or split > 1 and (batch > 1 or tiles * split > 2 * sms or steps < 4 * split):
                continue
            cost = 2000 + parts_cost(split) + cycles(block_m, block_n, tiles * split, cdiv(steps, split))
            splits.append((cost, _pointers(block_m, block_n, block_k, split, warps, stages)))
        found += sorted(splits, key=lambda entry: entry[0])[:2]

    for block_m, block_n, warps, per_sm in TMA_TILES if tma else []:
        tiles = cdiv(M, block_m) * cdiv(N, block_n)
        # 32 KB for finished tiles and residuals, slice by slice; the rest of the memory for a and b
        finished = block_m * block_n * dtype.itemsize * (2 if residual else 1)
        slices = min(next_power_of_2(cdiv(finished * per_sm, 2**15)), block_n // PART.value)
        stage = (block_m + block_n) * block_k * dtype.itemsize * per_sm
        stages = min(STAGES, (memory - 2**15 - 1024 * per_sm) // stage)
        blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "SLICES": slices}
        # where a program has one tile, nothing else is under way while it waits for what the end of the tile takes
        options = {**blocks, "PER_SM": per_sm, "AT_ONCE": tiles <= sms * per_sm}
        config = triton.Config(options, num_warps=warps, num_stages=stages)
        found.append((cycles(block_m, block_n, tiles, steps), config))
        split = max(s for s in SPLITS if s == 1 or tiles * s <= sms and steps >= 4 * s)
        if split > 1:
            finished = block_m * block_n * 4  # parts are float32
            slices = min(next_power_of_2(cdiv(finished * per_sm, 2**15)), block_n // PART.value)
            options = {**options, "SLICES": slices, "SPLIT_K": split}
            config = triton.Config(options, num_warps=warps, num_stages=stages)
            cost = parts_cost(split) + cycles(block_m, block_n, tiles * split, cdiv(steps, split))
            found.append((cost, config))

    for groups in REGISTERS if specialised else []:
        rows, cols = sum(rows_of_a_tile(M, N, K, groups, sms)), groups * COLS.value
        config = triton.Config({"GROUPS": groups}, num_warps=4, num_stages=1)  # the kernel has stages of its own
        tiles = cdiv(M, rows) * cdiv(N, cols)
        found.append((cycles(rows, cols, tiles, steps, barriers=0), config))  # at which nobody meets

    found = [config for _, config in sorted(found, key=lambda entry: entry[0])]
    return found[:1] if batch * M * N * K < SMALL else found[:OFFERED]


def shared_memory() -> int:
    """Bytes of shared memory that one program can have, by the compute capability; AMD's is the least."""
    kib = {(0, 0): 64, (7, 5): 64, (8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
    return kib.get(runtime.capability(), 99) * 1024


def _pointers(block_m, block_n, block_k, split, warps, stages):
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "SPLIT_K": split}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)
