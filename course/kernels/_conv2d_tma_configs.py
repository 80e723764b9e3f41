"""Which tiles and boxes the convolution by TMA may be computed in, the most promising first."""
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton

from course import runtime
from course.kernels._matmul_configs import shared_memory
from course.kernels._sizes import cdiv, next_power_of_2

TILES = [  # filters, pixels, warps, programs on a multiprocessor: of two, one multiplies while the other ends its tile
    (128, 256, 8, 1), (256, 128, 8, 1), (128, 128, 8, 1), (128, 128, 4, 2), (64, 256, 4, 2), (64, 256, 4, 1),
    (64, 128, 4, 2), (64, 128, 4, 3), (128, 64, 4, 3), (64, 64, 4, 4), (128, 32, 4, 4), (64, 32, 4, 4), (64, 16, 4, 4),
]  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_STAGES = 6
OFFERED = 12
SMALL = 2**24  # multiply-adds: below, measuring would take longer than it can save


class Layer(NamedTuple):
    """A convolution's sizes."""

    N: int
    C: int
    H: int
    W: int
    K: int
    P: int
    Q: int
    R: int
    S: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    dtype: torch.dtype


@functools.lru_cache(maxsize=1024)
def conv2d_tma_configs(layer: Layer) -> list[triton.Config]:
    """Configurations for `layer`, by their predicted time."""
    found = {str(config): config for _, config in sorted(_predicted(layer), key=lambda entry: entry[0])}
    multiply_adds = layer.N * layer.P * layer.Q * layer.K * layer.R * layer.S * layer.C
    return list(found.values())[: 1 if multiply_adds < SMALL else OFFERED]


def step_channels(layer: Layer) -> int:
    """Channels of a step: a row of shared memory, 128 bytes, if there are as many."""
    return min(layer.C & -layer.C, 128 // layer.dtype.itemsize)


def _predicted(layer: Layer) -> Iterator[tuple[float, triton.Config]]:
    sms, itemsize = runtime.num_sms(), layer.dtype.itemsize
    boxes = {pixels: _best_box(layer, pixels) for pixels in {tile[1] for tile in TILES}}
    row = step_channels(layer)
    for filters, pixels, warps, per_sm in TILES:
        taps, n_boxes, box = boxes[pixels]
        tiles = cdiv(layer.K, filters) * n_boxes
        for block_k, split in itertools.product((row, 2 * row), SPLITS):
            steps = taps / n_boxes * layer.C / block_k / split
            programs = tiles * split
            if layer.C % block_k or filters > 64 and filters > next_power_of_2(layer.K):
                continue
            # large steps for small tiles; and sums are split only where tiles alone leave multiprocessors idle
            if block_k > row and filters * pixels > 2**13 or split > 1 and (programs > 2 * sms or steps < 2):
                continue
            if split > 1 and filters * pixels > 2048 * warps:
                continue  # more to add up than registers hold
            resident = min(per_sm, cdiv(programs, sms))
            # finished in slices, so that a residual fits the registers, and both what the steps leave of the memory
            stage, memory = (filters + pixels) * block_k * itemsize, shared_memory() // resident - 1024
            stages = min(MOST_STAGES, (memory - 2**15 // resident) // stage)
            fewest = cdiv(filters * pixels * itemsize, memory - stages * stage)
            slices = max(next_power_of_2(fewest), filters * pixels // (2048 * warps))
            if stages >= 2:
                blocks = {"IMAGES": box[0], "ROWS": box[1], "COLS": box[2], "BLOCK_N": filters, "BLOCK_K": block_k,
                          "SPLIT_K": split, "SLICES": slices, "PER_SM": resident}  # fmt: skip
                cycles = _cycles(filters, pixels, block_k * itemsize, resident, stages, programs, steps, split)
                yield cycles, triton.Config(blocks, num_warps=warps, num_stages=stages)


def _cycles(filters, pixels, step_bytes, resident, stages, programs, steps, split) -> float:
    """Predicted time; the constants are fitted to measurements on an H200."""
    products = 1.25 * filters * pixels * step_bytes / 4096
    # what arrives in shared memory, and what the tensor cores read from there for 64 filters at a time
    shared = (filters + pixels + filters / 64 * (64 + pixels)) * step_bytes / 128
    step = 20 + max(products, shared)
    end = 700 + filters * pixels / 5
    if split > 1:
        end += 3000 + (split + 1) * filters * pixels / 7
    busy = cdiv(programs, runtime.num_sms()) * (steps * step + end / 2)
    rounds = cdiv(programs, runtime.num_sms() * resident)
    return max(busy, rounds * (steps * max(step, 1750 / (stages - 1)) + end))


def _best_box(layer: Layer, pixels: int) -> tuple[int, int, tuple[int, int, int]]:
    """The box of so many pixels with the fewest taps to multiply: taps in all boxes, boxes, (images, rows, columns).

    Of equal ones, that with the most images: measured, not understood.
    """
    found = []
    for rows in _powers_of_2(min(pixels, next_power_of_2(layer.P))):
        for cols in _powers_of_2(min(pixels // rows, next_power_of_2(layer.Q))):
            images = pixels // (rows * cols)
            # a box of several rows sees x as stride times fewer rows: they have to come out even
            if images > 256 or max(rows, cols) > 256:
                continue
            if rows > 1 and layer.H % layer.stride[0] or cols > 1 and layer.W % layer.stride[1]:
                continue
            blocks = cdiv(layer.N, images)
            taps = blocks * _taps(layer, 0, rows) * _taps(layer, 1, cols)
            n_boxes = blocks * cdiv(layer.P, rows) * cdiv(layer.Q, cols)
            found.append((taps, n_boxes, -images, (images, rows, cols)))
    taps, n_boxes, _, box = min(found)
    return taps, n_boxes, box


@functools.lru_cache(maxsize=4096)
def _taps_of(size_in, size_out, box, stride, padding, dilation, taps):
    if taps == 1:
        return cdiv(size_out, box)
    total = 0
    for start in range(0, size_out, box):
        first = start * stride - padding
        begin = max(0, cdiv(-first - (box - 1) * stride, dilation))
        total += max(1, min(taps, cdiv(size_in - first, dilation)) - begin)
    return total


def _taps(layer, dim, box):
    """Filter rows (dim 0) or columns (dim 1) that meet the image, summed over all boxes."""
    size_in, size_out, taps = ((layer.H, layer.P, layer.R), (layer.W, layer.Q, layer.S))[dim]
    return _taps_of(size_in, size_out, box, layer.stride[dim], layer.padding[dim], layer.dilation[dim], taps)


def _powers_of_2(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length())]
