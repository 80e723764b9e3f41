"""What windows over (H, W) share: pairs of integers, how many windows fit, and which outputs a program computes."""
import math

import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels._memory_format import suggest_memory_format
from course.kernels._sizes import cdiv, next_power_of_2

THREADS = 256
SMALL_TILE = 512
VECTOR_BYTES = 16  # what each of them loads at once, and all that it has to load: more only takes registers
INTERPRETER_TILE = 1 << 16  # the interpreter's time goes with the number of programs


def pair(op: str, name: str, value: int | tuple[int, int], minimum: int = 0) -> tuple[int, int]:
    """`value` for the height and for the width, as PyTorch takes it: one integer for both, or a pair of them."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if not all(isinstance(v, int) for v in both):
        raise TypeError(f"{op}: expected {name} to be an integer or a pair of integers, got {value!r}")
    if len(both) != 2:
        raise ValueError(f"{op}: expected {name} to be an integer or a pair of integers, got {len(both)} of them")
    if min(both) < minimum:
        raise ValueError(f"{op}: expected {name} of at least {minimum}, got {value}")
    return both


def pooled_size(n: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit along a dimension of `n` elements; less than 1 where not even one does.

    `ceil_mode` adds the window that hangs over the end, unless it would start in the padding there.
    """
    room = n + 2 * padding - dilation * (kernel - 1) - 1  # how far the first element of a window may move
    if not ceil_mode:
        return room // stride + 1
    windows = -(-room // stride) + 1
    return windows - 1 if (windows - 1) * stride >= n + padding else windows


def check_pool(op: str, x: torch.Tensor, kernel, stride, padding, dilation=(1, 1), ceil_mode=False) -> None:
    """PyTorch's rules for a pooling window."""
    check_images(op, x)
    if x.shape[-3] == 0:
        raise ValueError(f"{op}: expected x with at least one channel, got {tuple(x.shape)}")
    if any(p > k // 2 for p, k in zip(padding, kernel)):
        raise ValueError(f"{op}: expected padding of at most half the kernel {kernel}, got {padding}")
    size = [pooled_size(*dim, ceil_mode) for dim in zip(x.shape[-2:], kernel, stride, padding, dilation)]
    if min(size) < 1:
        raise ValueError(
            f"{op}: expected x to hold at least one window, got x of shape {tuple(x.shape)} "
            f"for kernel {kernel}, padding {padding} and dilation {dilation}"
        )


def check_images(op: str, x: torch.Tensor) -> None:
    """`x` is a batch of images, or one, of at least one pixel each."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{op}: expected x of shape (N, C, H, W) or (C, H, W), got {tuple(x.shape)}")
    if 0 in x.shape[-2:]:
        raise ValueError(f"{op}: expected x with at least one row and column, got {tuple(x.shape)}")


def empty_images(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What a window over `x` is to be written to: other rows and columns, x's dtype and memory format."""
    shape = (*x.shape[:-2], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=suggest_memory_format(x))


@triton.jit
def tile_index(h_tiles, w_tiles, c_tiles):
    """This program's image, in int64, and its tile of rows, columns and channels there: all of its divisions."""
    tile = tl.program_id(0)
    c = tile % c_tiles
    w = tile // c_tiles % w_tiles
    h = tile // c_tiles // w_tiles % h_tiles
    n = tile // c_tiles // w_tiles // h_tiles
    return n.to(tl.int64), h, w, c


@triton.jit
def output_tile(n_channels, out_height, out_width, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's image, the row and the column of each of its BLOCK_H * BLOCK_W pixels, and its channels.

    Whoever calls this has the sizes as constexpr: a division by a constant is a multiplication, and the three of
    `tile_index` are a third of a short window's instructions. The price is that the kernel is compiled for every size
    of image, which takes about half a second.
    """
    n, h, w, c = tile_index(tl.cdiv(out_height, BLOCK_H), tl.cdiv(out_width, BLOCK_W), tl.cdiv(n_channels, BLOCK_C))
    pixel = tl.arange(0, BLOCK_H * BLOCK_W)  # BLOCK_W is a power of two: no division
    return n, h * BLOCK_H + pixel // BLOCK_W, w * BLOCK_W + pixel % BLOCK_W, c * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def tile_pointers(ptr, strides, n, h, w, c):
    """Where element [n, c, h, w] lies, for every pixel and channel: (pixels, channels). Tensors pass 2**31 elements."""
    pixel = n * strides[0] + h.to(tl.int64) * strides[2] + w.to(tl.int64) * strides[3]
    return ptr + pixel[:, None] + c.to(tl.int64)[None, :] * strides[1]


def output_blocks(y: torch.Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid and the block sizes that cut `y` (N, C, H, W) into the tiles of `output_tile`.

    Whatever lies innermost in memory fills cache lines. The pixels form a square rather than a row: windows overlap
    downwards too, and what they share stays in the L1 cache.
    """
    n, c, h, w = y.shape
    if channels_innermost(y):
        # small outputs are cut finer, so that every multiprocessor gets some
        vector = VECTOR_BYTES // y.element_size()
        share = max(next_power_of_2(y.numel() // (4 * runtime.num_sms())), SMALL_TILE)
        tile = min(share, THREADS * vector)
        run = min(next_power_of_2(c), cache_line(y))
        side = next_power_of_2(math.isqrt(tile // run) + 1) // 2  # rounded down
        blocks = block_sizes(tile, vector, BLOCK_C=run, BLOCK_H=min(h, side), BLOCK_W=w)
    else:
        blocks = block_sizes(SMALL_TILE, 4, BLOCK_W=min(w, 64), BLOCK_H=h, BLOCK_C=c)
    h_tiles, w_tiles = cdiv(h, blocks["BLOCK_H"]), cdiv(w, blocks["BLOCK_W"])
    return (n * h_tiles * w_tiles * cdiv(c, blocks["BLOCK_C"]),), blocks


def block_sizes(tile: int, per_thread: int, **sizes: int) -> dict[str, int]:
    """Powers of two whose product is at most `tile`: one after the other takes what its size can use. And the warps,
    such that each thread has `per_thread` elements."""
    blocks, rest = {}, INTERPRETER_TILE if runtime.INTERPRET else tile
    for name, size in sizes.items():
        blocks[name] = min(next_power_of_2(size), rest)
        rest //= blocks[name]
    return {**blocks, "num_warps": min(max(math.prod(blocks.values()) // (32 * per_thread), 1), 8)}


def channels_innermost(images: torch.Tensor) -> bool:
    return images.stride(1) < images.stride(3)


def cache_line(t: torch.Tensor) -> int:
    """Elements of 128 bytes; the interpreter has no cache, and wants whatever a program can take."""
    return 512 if runtime.INTERPRET else 128 // t.element_size()
