"""How long tiles of products take: what the engines order their configurations by, before any is measured.

A program walks through `steps`; at each it multiplies two blocks while the next ones are loaded. A step takes as long
as the tensor cores, or as the loads, whichever is longer; where few blocks are under way at a time, it waits for
memory. Programs that share a multiprocessor share its tensor cores and its bandwidth, but wait at the same time:

    busy     programs of a multiprocessor * (steps * step + end / 2)
    alone    rounds of programs * (steps * max(step, latency / (stages - 1)) + end)

and the prediction is the larger one. The constants are fitted to the times of 5,900 configurations of 326 problems,
layers of ViT and ResNet above all, on an H200: the first in this order is within 15 % of the fastest for 93 of 100
problems, and the better one of the first two within 8 % for 97. In cycles a smaller GPU differs in its number of
multiprocessors, its tensor cores and its shared memory, all of which are asked for.
"""
from typing import NamedTuple

from course import runtime
from course.kernels.parts.sizes import cdiv

LAUNCH = 1500
"""Cycles until the first program of a kernel runs, and after its last one has ended."""

PRODUCTS = 1.1
"""How many times the cycles in which tensor cores could multiply, at best."""

DATA_CENTRE = ((8, 0), (9, 0), (10, 0), (10, 3))
"""Compute capabilities of GPUs whose L2 cache gives each multiprocessor 40 bytes a cycle or so. A GeForce's gives it
about 16: RTX 3090 and 4090 read some 2 and 5 TB/s in all."""

REGISTERS = 2**16
"""Of a multiprocessor."""


class LoopTimes(NamedTuple):
    """What one kind of kernel takes, in cycles of a multiprocessor."""

    step: float
    """beside a step's loads: barriers and addresses"""
    bandwidth: float
    """bytes that are loaded in a cycle"""
    latency: float
    """from asking for a block until it is there"""
    end: float
    """to start and to finish a tile"""
    byte: float
    """for each byte that a tile writes, and reads while it is finished"""


def loop_cycles(
    times: LoopTimes, products: float, loads: float, steps: float, stages: int, stored: float, programs: int,
    resident: int,
) -> float:
    """The cycles of a kernel of `programs`, of which `resident` fit a multiprocessor at once.

    products, loads: a step's cycles of tensor cores, and its bytes
    stages: steps whose blocks shared memory has room for
    stored: bytes that a program writes, and reads while it finishes its tile
    """
    of_one = cdiv(programs, runtime.num_sms())
    rounds = cdiv(programs, runtime.num_sms() * min(resident, of_one))
    bandwidth = times.bandwidth * (1 if runtime.capability() in DATA_CENTRE else 0.4)
    step = max(products, times.step + loads / bandwidth)
    end = times.end + times.byte * stored
    alone = rounds * (steps * max(step, times.latency / max(stages - 1, 1)) + end)
    return LAUNCH + max(of_one * (steps * step + end / 2), alone)


def tensor_core_cycles(rows: int, cols: int, depth: int, itemsize: int) -> float:
    """The cycles in which a multiprocessor's tensor cores multiply rows x depth by depth x cols."""
    return PRODUCTS * rows * cols * depth * itemsize / (2 * runtime.tensor_core_products())


def sum_parts_cycles(split: int, sums: int) -> float:
    """The cycles of a second kernel that adds the parts of so many `sums`: a launch, parts written and read again."""
    return 0.0 if split == 1 else 2000 + 0.12 * (split + 1) * sums / runtime.num_sms()


def programs_at_once(memory: int, sums: int, warps: int) -> int:
    """How many programs a multiprocessor has room for, that take so many bytes of its shared memory each, and registers
    for so many float32 sums and for about as many addresses as a thread has."""
    registers = sums / (32 * warps) + 64
    room = (runtime.shared_memory() // (memory + 1024), int(REGISTERS / (registers * 32 * warps)))
    return max(1, min(8, *room))
