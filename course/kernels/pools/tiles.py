"""Tiles of an image, pixels by channels: which outputs a program of a pool computes, and where they lie."""
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.sizes import INTERPRETER_BLOCK, cdiv, next_power_of_2
from course.kernels.parts.vectors import VECTOR_BYTES

THREADS = 256  # at most, of a program: each has one vector of outputs, as more would only take registers
SMALL_TILE = 512


@triton.jit
def tile_index(h_tiles, w_tiles, c_tiles):
    """This program's image, in int64, and the numbers of its tile of rows, of columns and of channels."""
    tile = tl.program_id(0)
    c = tile % c_tiles
    w = tile // c_tiles % w_tiles
    h = tile // c_tiles // w_tiles % h_tiles
    n = tile // c_tiles // w_tiles // h_tiles
    return n.to(tl.int64), h, w, c


@triton.jit
def output_tile(n_channels, out_height, out_width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's image, the row and the column of each of its BLOCK_H * BLOCK_W pixels, and its channels.

    The caller has the three sizes as constexpr: dividing by a constant is a multiplication, and the divisions of
    `tile_index` are a third of a short window's instructions. So the kernel is compiled for every size of image,
    which takes about half a second.
    """
    n, h, w, c = tile_index(tl.cdiv(out_height, BLOCK_H), tl.cdiv(out_width, BLOCK_W), tl.cdiv(n_channels, BLOCK_C))
    pixel = tl.arange(0, BLOCK_H * BLOCK_W)  # BLOCK_W is a power of two: no division
    return n, h * BLOCK_H + pixel // BLOCK_W, w * BLOCK_W + pixel % BLOCK_W, c * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def pixel_pointers(ptr, strides, n, h, w, c):
    """Pointers to [n, c, h, w] for every pixel and channel: (pixels, channels). int64: tensors pass 2**31 elements."""
    pixel = n * strides[0] + h.to(tl.int64) * strides[2] + w.to(tl.int64) * strides[3]
    return ptr + pixel[:, None] + c.to(tl.int64)[None, :] * strides[1]


def output_blocks(shape, strides, dtype: torch.dtype) -> tuple[dict[str, int], int]:
    """BLOCK_H, BLOCK_W and BLOCK_C of the tiles of a result (N, C, H, W), and the number of warps.

    What lies innermost in memory fills cache lines. The pixels form a square rather than a row: windows overlap
    downwards too, and what they share stays in the L1 cache.
    """
    _, c, h, w = shape
    if channels_innermost(strides):
        # small outputs are cut finer, so that every multiprocessor gets some
        vector = VECTOR_BYTES // dtype.itemsize
        share = max(next_power_of_2(math.prod(shape) // (4 * runtime.num_sms())), SMALL_TILE)
        tile = min(share, THREADS * vector)
        run = min(next_power_of_2(c), cache_line(dtype))
        side = next_power_of_2(math.isqrt(tile // run) + 1) // 2  # rounded down
        return block_sizes(tile, vector, BLOCK_C=run, BLOCK_H=min(h, side), BLOCK_W=w)
    return block_sizes(SMALL_TILE, 4, BLOCK_W=min(w, 64), BLOCK_H=h, BLOCK_C=c)


def output_grid(shape, blocks: dict[str, int]) -> tuple[int]:
    """As many programs as there are tiles of `output_blocks`."""
    n, c, h, w = shape
    return (n * cdiv(h, blocks["BLOCK_H"]) * cdiv(w, blocks["BLOCK_W"]) * cdiv(c, blocks["BLOCK_C"]),)


def block_sizes(tile: int, per_thread: int, **sizes: int) -> tuple[dict[str, int], int]:
    """Powers of two whose product is at most `tile`, of which each in turn is as large as its size can use.

    And the number of warps with which a thread has `per_thread` elements.
    """
    blocks, rest = {}, INTERPRETER_BLOCK if runtime.INTERPRET else tile
    for name, size in sizes.items():
        blocks[name] = min(next_power_of_2(size), rest)
        rest //= blocks[name]
    return blocks, min(max(math.prod(blocks.values()) // (32 * per_thread), 1), 8)


def channels_innermost(strides) -> bool:
    """Whether images of these strides have channels, rather than columns, as neighbours in memory."""
    return strides[1] < strides[3]


def cache_line(dtype: torch.dtype) -> int:
    """Elements of 128 bytes. The interpreter has no cache: there, many, as its time is that of its programs."""
    return 512 if runtime.INTERPRET else 128 // dtype.itemsize
