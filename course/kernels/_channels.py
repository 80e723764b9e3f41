"""A tensor (N, C, ...) as channels by positions, wherever in memory they lie, and the tiles that cover it.

The positions, which are all dimensions but the channels, are a few nested loops: a single one in channels_last, two
(image, pixel) in PyTorch's default format, more in a sliced tensor. A tile is BLOCK_L positions of the innermost
loop by BLOCK_C channels, and the threads run along whichever of the two is contiguous.
"""
import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._pointwise import INTERPRETER_BLOCK, walk
from course.kernels._sizes import cdiv, next_power_of_2

THREADS = 128
RUN = 64  # channels side by side in channels_last: a cache line of them in float16


@triton.jit
def tile_positions(tile, sizes, BLOCK_L: tl.constexpr):
    """The number of the tile's row, which is one turn of the innermost loop, and its positions there."""
    length = sizes[len(sizes) - 1]
    tiles = tl.cdiv(length, BLOCK_L)
    return tile // tiles, (tile % tiles).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)


@triton.jit
def tile_offsets(row, positions, channels, sizes, strides, stride_c, ALIGN_L: tl.constexpr, ALIGN_C: tl.constexpr):
    """Where the tile's elements lie: (BLOCK_L, BLOCK_C). What is said of the alignment makes loads whole vectors."""
    LAST: tl.constexpr = len(sizes) - 1
    offset = positions * strides[LAST]
    for d in tl.static_range(LAST):  # one index per outer loop: these divisions are the tile's, not its elements'
        offset += (row % sizes[LAST - 1 - d]).to(tl.int64) * strides[LAST - 1 - d]
        row = row // sizes[LAST - 1 - d]
    return tl.multiple_of(offset[:, None] + channels.to(tl.int64)[None, :] * stride_c, (ALIGN_L, ALIGN_C))


@triton.jit
def within(index, size, ALIGN: tl.constexpr):
    """Which of `index` there are. A vector is inside or outside as a whole, and the compiler must see it."""
    return index < size // ALIGN * ALIGN


class Tiles(NamedTuple):
    sizes: tuple[int, ...]
    """of the loops over positions, the innermost last"""
    strides: list[tuple[int, ...]]
    """of each tensor, along these loops"""
    n_positions: int
    """tiles that cover the positions"""
    n_channels: int
    """tiles that cover the channels"""
    blocks: dict[str, int]
    """BLOCK_L, BLOCK_C, ALIGN_L, ALIGN_C, num_warps"""


def find_tiles(*tensors: torch.Tensor, per_thread: int) -> Tiles:
    """The tiles of `tensors`, of one shape (N, C, ...) and not empty; the first decides which way the loops run.

    `per_thread` is how many elements each thread has, where there are enough.
    """
    shape, strides = tuple(tensors[0].shape), tuple(t.stride() for t in tensors)
    return _plan(shape, strides, tensors[0].element_size(), per_thread, runtime.num_sms())


@functools.lru_cache(maxsize=4096)
def _plan(shape, strides, itemsize, per_thread, num_sms) -> Tiles:
    channels = shape[1]
    sizes, *steps = walk(*((*dims[:1], *dims[2:]) for dims in (shape, *strides)))
    length = sizes[-1]

    def align(size, runs, others):
        """Elements, at most 16 bytes of them, of which all runs of neighbours are a multiple."""
        return math.gcd(16 // itemsize, size, *others) if all(step == 1 for step in runs) else 1

    # small tensors are cut finer, so that every multiprocessor gets some
    tile = min(max(next_power_of_2(math.prod(shape) // (4 * num_sms)), 32 * per_thread), THREADS * per_thread)
    tile = INTERPRETER_BLOCK if runtime.INTERPRET else tile
    if strides[0][1] < steps[0][-1]:  # channels innermost
        block_c = min(next_power_of_2(channels), tile if runtime.INTERPRET else RUN)
        block_l = min(next_power_of_2(length), tile // block_c)
    else:
        block_l = min(next_power_of_2(length), tile)
        block_c = min(next_power_of_2(channels), tile // block_l)
    return Tiles(
        sizes=sizes,
        strides=steps,
        n_positions=math.prod(sizes[:-1]) * cdiv(length, block_l),
        n_channels=cdiv(channels, block_c),
        blocks=dict(
            BLOCK_L=block_l,
            BLOCK_C=block_c,
            ALIGN_L=align(length, [s[-1] for s in steps], [s[1] for s in strides] + [o for s in steps for o in s[:-1]]),
            ALIGN_C=align(channels, [s[1] for s in strides], [o for s in steps for o in s]),
            num_warps=min(max(block_l * block_c // (32 * per_thread), 1), THREADS // 32),
        ),
    )
