"""A tensor (N, C, ...) as channels by positions, wherever in memory they lie, and the tiles that cover it.

The positions are all dimensions but the channels, and are visited by a few nested loops: a single one in channels_last,
two (image, pixel) in PyTorch's default format, more in a sliced tensor. A tile is BLOCK_L positions of the innermost
loop by BLOCK_C channels, and the threads run along the one of the two that is contiguous.
"""
import functools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.loops import walk
from course.kernels.parts.sizes import INTERPRETER_BLOCK, cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES

THREADS = 128
CACHE_LINE = 64  # channels of channels_last in a tile: a cache line of 128 bytes in float16


@triton.jit
def tile_positions(tile, sizes, BLOCK_L: tl.constexpr):
    """The number of the tile's row, which is one pass through the innermost loop, and the tile's positions there."""
    length = sizes[len(sizes) - 1]
    tiles = tl.cdiv(length, BLOCK_L)
    return tile // tiles, (tile % tiles).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)


@triton.jit
def position_offsets(row, positions, channels, sizes, strides, stride_c, ALIGN_L: tl.constexpr, ALIGN_C: tl.constexpr):
    """Where the elements at these positions of a row and these channels lie: (BLOCK_L, BLOCK_C).

    sizes, strides: of the loops over positions; stride_c: of the channels
    ALIGN_L, ALIGN_C: runs of neighbours begin at a multiple of so many elements: told so, the compiler loads vectors
    """
    LAST: tl.constexpr = len(sizes) - 1
    offset = positions * strides[LAST]
    for d in tl.static_range(LAST):  # one index per outer loop: divided once a tile, and not once an element
        offset += (row % sizes[LAST - 1 - d]).to(tl.int64) * strides[LAST - 1 - d]
        row = row // sizes[LAST - 1 - d]
    return tl.multiple_of(offset[:, None] + channels.to(tl.int64)[None, :] * stride_c, (ALIGN_L, ALIGN_C))


class Tiles(NamedTuple):
    """The loops over the positions of some tensors, and the tiles that cover positions and channels."""

    sizes: tuple[int, ...]
    """of the loops, the innermost last"""
    strides: list[tuple[int, ...]]
    """for each tensor, along these loops"""
    n_positions: int
    """tiles that cover the positions"""
    n_channels: int
    """tiles that cover the channels"""
    blocks: dict[str, int]
    """BLOCK_L, BLOCK_C, ALIGN_L, ALIGN_C, num_warps"""


def find_tiles(*tensors: torch.Tensor, per_thread: int) -> Tiles:
    """The tiles of `tensors`, of one shape (N, C, ...) and not empty; the first decides the order of the loops.

    `per_thread` is how many elements each thread has, where there are enough.
    """
    shape, strides = tuple(tensors[0].shape), tuple(t.stride() for t in tensors)
    return plan_tiles(shape, strides, tensors[0].element_size(), per_thread, runtime.num_sms())


@functools.lru_cache(maxsize=4096)
def plan_tiles(shape, strides, itemsize, per_thread, num_sms) -> Tiles:
    channels = shape[1]
    sizes, *steps = walk(*((*dims[:1], *dims[2:]) for dims in (shape, *strides)))
    length = sizes[-1]

    def align(size, runs, others):
        """How many elements, at most a vector's, divide the start and the length of every run of neighbours."""
        return math.gcd(VECTOR_BYTES // itemsize, size, *others) if all(step == 1 for step in runs) else 1

    # small tensors are cut finer, so that every multiprocessor gets some
    tile = min(max(next_power_of_2(math.prod(shape) // (4 * num_sms)), 32 * per_thread), THREADS * per_thread)
    tile = INTERPRETER_BLOCK if runtime.INTERPRET else tile
    if strides[0][1] < steps[0][-1]:  # channels innermost
        block_c = min(next_power_of_2(channels), tile if runtime.INTERPRET else CACHE_LINE)
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
