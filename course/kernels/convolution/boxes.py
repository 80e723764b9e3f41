"""Which tiles and boxes of pixels the convolution by TMA may be computed in, and their predicted time."""
import functools
import itertools
from collections.abc import Iterator

from course import runtime
from course.kernels.convolution.problem import Convolution
from course.kernels.parts.predicted_time import LoopTimes, loop_cycles, tensor_core_cycles
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.tuning import Config

TILES = [  # filters, pixels, warps, programs on a multiprocessor: of two, one multiplies while the other ends its tile
    (128, 256, 8, 1), (256, 128, 8, 1), (128, 128, 8, 1), (128, 128, 4, 2), (64, 256, 4, 2), (64, 256, 4, 1),
    (64, 128, 4, 2), (64, 128, 4, 3), (128, 64, 4, 3), (64, 64, 4, 4), (128, 32, 4, 4), (64, 32, 4, 4), (64, 16, 4, 4),
]
LEAST_FILTERS = min(tile[0] for tile in TILES)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_STAGES = 6
TIMES = LoopTimes(step=150, bandwidth=130, latency=1900, end=700, byte=0.1)


def box_configs(problem: Convolution) -> Iterator[Config]:
    """Every configuration that fits the problem and the GPU's memory, some of them twice."""
    p, sms, itemsize = problem, runtime.num_sms(), problem.dtype.itemsize
    boxes = {pixels: best_box(p, pixels) for pixels in {tile[1] for tile in TILES}}
    row = min(p.C & -p.C, 128 // itemsize)  # channels of a row of shared memory, 128 bytes, if there are as many
    for filters, pixels, warps, per_sm in TILES:
        taps, n_boxes, (images, rows, cols) = boxes[pixels]
        tiles = cdiv(p.K, filters) * n_boxes
        for block_k, split in itertools.product((row, 2 * row), SPLITS):
            steps = taps / n_boxes * p.C / block_k / split
            programs = tiles * split
            if p.C % block_k or p.groups > 1 and p.group_filters % filters:
                continue
            if filters > 64 and filters > next_power_of_2(p.K):
                continue
            # large steps for small tiles; and sums are split only where tiles alone leave multiprocessors idle
            if block_k > row and filters * pixels > 2**13 or split > 1 and (programs > 2 * sms or steps < 2):
                continue
            if split > 1 and filters * pixels > 2048 * warps:
                continue  # more to add up than registers hold
            resident = min(per_sm, cdiv(programs, sms))
            # finished in slices, so that a residual fits the registers, and both what the steps leave of the memory
            stage, memory = (filters + pixels) * block_k * itemsize, runtime.shared_memory() // resident - 1024
            stages = min(MOST_STAGES, (memory - 2**15 // resident) // stage)
            fewest = cdiv(filters * pixels * itemsize, memory - stages * stage)
            slices = max(next_power_of_2(fewest), filters * pixels // (2048 * warps))
            if stages >= 2:
                blocks = {"IMAGES": images, "ROWS": rows, "COLS": cols, "BLOCK_N": filters, "BLOCK_K": block_k,
                          "SPLIT_K": split, "SLICES": slices, "PER_SM": resident}
                cost = predicted_cycles(p, filters, pixels, block_k, resident, stages, programs, steps, split)
                yield Config("tma", blocks, warps, stages, cost)


def predicted_cycles(
    problem: Convolution, filters: int, pixels: int, block_k: int, resident: int, stages: int, programs: int,
    steps: float, split: int,
) -> float:
    """The predicted cycles of `programs` with tiles of filters by pixels, `resident` of them on a multiprocessor, each
    with so many `steps` of so many channels."""
    itemsize = problem.dtype.itemsize
    products = tensor_core_cycles(max(filters, 64), pixels, block_k, itemsize)
    loads = (filters + pixels) * block_k * itemsize
    sums = filters * pixels
    added = 0.0 if split == 1 else 2200 + 0.22 * (split + 1) * sums  # to the parts of other programs
    stored = sums * (4 if split > 1 else itemsize * (1 if problem.residual_strides is None else 2))
    return loop_cycles(TIMES, products, loads, steps, stages, stored, programs, resident) + added


def best_box(problem: Convolution, pixels: int) -> tuple[int, int, tuple[int, int, int]]:
    """The box of so many pixels with the fewest taps to multiply: taps in all boxes, boxes, (images, rows, columns).

    Of equal ones, that with the most images: measured, not understood.
    """
    p = problem
    found = []
    for rows in powers_of_2(min(pixels, next_power_of_2(p.P))):
        for cols in powers_of_2(min(pixels // rows, next_power_of_2(p.Q))):
            images = pixels // (rows * cols)
            # a box of several rows sees x as stride times fewer rows: they have to come out even
            if images > 256 or max(rows, cols) > 256:
                continue
            if rows > 1 and p.H % p.stride[0] or cols > 1 and p.W % p.stride[1]:
                continue
            blocks = cdiv(p.N, images)
            taps_down = taps_of_boxes(p.H, p.P, rows, p.stride[0], p.padding[0], p.dilation[0], p.R)
            taps_across = taps_of_boxes(p.W, p.Q, cols, p.stride[1], p.padding[2], p.dilation[1], p.S)
            n_boxes = blocks * cdiv(p.P, rows) * cdiv(p.Q, cols)
            found.append((blocks * taps_down * taps_across, n_boxes, -images, (images, rows, cols)))
    taps, n_boxes, _, box = min(found)
    return taps, n_boxes, box


@functools.lru_cache(maxsize=4096)
def taps_of_boxes(size_in: int, size_out: int, box: int, stride: int, padding: int, dilation: int, taps: int) -> int:
    """Rows (or columns) of the filter that meet the image, summed over all boxes of so many rows of the result."""
    if taps == 1:
        return cdiv(size_out, box)
    total = 0
    for start in range(0, size_out, box):
        first = start * stride - padding
        begin = max(0, cdiv(-first - (box - 1) * stride, dilation))
        total += max(1, min(taps, cdiv(size_in - first, dilation)) - begin)
    return total


def powers_of_2(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length())]
