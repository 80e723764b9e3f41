"""How long a product takes in tiles of some size: the engines order their configurations by it."""
from course.kernels.parts import predicted_time
from course.kernels.parts.predicted_time import LoopTimes, loop_cycles, tensor_core_cycles
from course.kernels.parts.sizes import cdiv
from course.kernels.products.problem import Product

STAGES = 4
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Programs that may share a tile, each with a part of the sum."""

FEWEST_STEPS = 3
"""Of a program that has a part of the sum."""


def step_size(problem: Product) -> int:
    """BLOCK_K: on tensor cores the elements of a row of shared memory, of 128 bytes."""
    return 128 // problem.dtype.itemsize if problem.on_tensor_cores else 16


def predicted_cycles(
    problem: Product, times: LoopTimes, rows: int, cols: int, block_k: int, split: int, stages: int, resident: int,
    slowdown: float = 1.0,
) -> float:
    """The predicted cycles in tiles of `rows` x `cols`, of which `resident` are on a multiprocessor at once.

    slowdown: of the tensor cores, for tiles that they do not take as they like
    """
    p, itemsize = problem, problem.dtype.itemsize
    if p.on_tensor_cores:
        products = slowdown * tensor_core_cycles(rows, cols, block_k, itemsize)
    else:
        products = rows * cols * block_k / 128  # one for each lane of four warps
    tiles = p.batch * cdiv(p.M, rows) * cdiv(p.N, cols)
    stored = rows * cols * (4 if split > 1 else itemsize * (1 if p.residual_strides is None else 2))
    loads = (rows + cols) * block_k * itemsize
    cycles = loop_cycles(times, products, loads, cdiv(p.K, block_k * split), stages, stored, tiles * split, resident)
    return cycles + predicted_time.sum_parts_cycles(split, p.M * p.N)
