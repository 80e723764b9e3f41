"""How long a product takes in tiles of some size: the engines order their configurations by it."""
from course import runtime
from course.kernels.parts.sizes import cdiv
from course.kernels.products.problem import Product

STAGES = 4
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Programs that may share a tile, each with a part of the sum."""


def step_size(problem: Product) -> int:
    """BLOCK_K: on tensor cores the elements of a row of shared memory, of 128 bytes."""
    return 128 // problem.dtype.itemsize if problem.on_tensor_cores else 16


def predicted_cycles(
    problem: Product, block_m: int, block_n: int, programs: int, steps: int, barrier: int = 100
) -> float:
    """Very roughly, the cycles of `programs`, each of which computes a tile of block_m x block_n in `steps`.

    They are a multiprocessor's share of the work, or the time in which one program alone waits for memory. `barrier` is
    what a step takes besides, where all warps wait for each other.
    """
    block_k, itemsize = step_size(problem), problem.dtype.itemsize
    products = 4096 // itemsize if problem.on_tensor_cores else 128  # of a multiprocessor in a cycle
    loads = (block_m + block_n) * block_k * itemsize
    step = barrier + max(block_m * block_n * block_k / products, loads / 48)
    return max(cdiv(programs, runtime.num_sms()) * (steps * step + block_m * block_n / 16), steps * 250)


def sum_parts_cycles(problem: Product, split: int) -> float:
    """The cycles of the kernel that adds the parts of `split` programs: a launch, and parts written and read again."""
    return 0 if split == 1 else 4000 + 8 * split * problem.M * problem.N / (48 * runtime.num_sms())
