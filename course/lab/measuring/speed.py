"""The speed of an exercise's kernel on a GPU, beside the hardware's limits. Nothing here runs in the interpreter."""
import functools
from collections.abc import Callable

import torch

from course.precision import matmul_precision
from course.runtime import DEVICE
from course.timing import copy_gbps, footprint, matmul_tflops, time_in_turn


@functools.cache
def copy_bandwidth() -> float:
    """GB/s, read and written, of a large copy on this GPU: the most that a kernel that only moves bytes can reach."""
    return copy_gbps()


def matmul_rate(dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product on this GPU: the most that a kernel that only multiplies can reach.

    Of float32 with or without TF32, as PyTorch's setting for matrix products says.
    """
    return _matmul_rate(dtype, matmul_precision(dtype))


@functools.cache
def _matmul_rate(dtype, precision):
    return matmul_tflops(dtype)


def is_half(a) -> bool:
    return torch.is_tensor(a) and a.dtype in (torch.float16, torch.bfloat16)


def assert_near(out: torch.Tensor, exact: torch.Tensor) -> None:
    """Right but for the roundings of a few operations in a row: of millions of elements, some collect several."""
    unit = 2e-2 if out.dtype == torch.bfloat16 else 2e-3
    mean = exact.float().abs().mean().item()
    torch.testing.assert_close(out, exact, rtol=unit, atol=4 * unit * mean, check_dtype=False)


def speed(exercise, function: Callable) -> list[str]:
    """The lines that `check` adds on a GPU: the speed on the heavy input, beside the hardware's limit and PyTorch."""

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, dtype=dtype, device=DEVICE)

    args = exercise.heavy(randn)
    wanted = exercise.reference(*args)
    out = torch.full_like(wanted, float("nan") if wanted.is_floating_point() else -1)
    function(*args, out)
    assert_near(out, exercise.reference(*(a.float() if is_half(a) else a for a in args)))
    both = {"ours": lambda: function(*args, out), "theirs": lambda: exercise.reference(*args)}
    ours, theirs = (timing.median for timing in time_in_turn(both, cold=True).values())
    tensors = [a for a in args if torch.is_tensor(a)]
    if exercise.operations:
        work, unit, work_unit = exercise.operations(*args) / 1e9, "TFLOP/s", "GFLOP"
        limit, of = matmul_rate(tensors[0].dtype), "what a large matrix product reaches here"
    else:
        work, unit, work_unit = footprint(*tensors, out) / 1e6, "GB/s", "MB"
        limit, of = copy_bandwidth(), "this GPU's copy bandwidth"
    rate = work / ours
    return [
        f"{work:,.0f} {work_unit} in {ours:.3f} ms: {rate:,.0f} {unit}, {100 * rate / limit:.0f} % of {of} "
        f"({limit:,.0f} {unit}). PyTorch takes {theirs:.3f} ms."
    ]
