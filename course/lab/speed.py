"""How long work takes on a GPU, and how long it has to. Nothing here runs in the interpreter."""
import functools
import json
from collections.abc import Callable

import torch

from course.results import RESULTS
from course.timing import copy_gbps, footprint, time_in_turn


def hardware(gpu: str = "nvidia-h200") -> dict:
    """What the maintainers measured of a GPU: `multiprocessors`, `copy_gbps`, `matmul_bf16_tflops`."""
    return json.loads((RESULTS / gpu / "hardware.json").read_text())


@functools.cache
def copy_bandwidth() -> float:
    """GB/s, read and written, of a large copy on this GPU: what a kernel that only moves bytes can hope for."""
    return copy_gbps()


def speed(exercise, function: Callable) -> list[str]:
    """The lines that `check` adds on a GPU: the heavy input's bandwidth, beside a copy's and PyTorch's."""

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, dtype=dtype, device="cuda")

    args = exercise.heavy(randn)
    wanted = exercise.reference(*args)
    out = torch.full_like(wanted, float("nan"))
    function(*args, out)
    torch.testing.assert_close(out, wanted, rtol=2e-3, atol=2e-3)
    both = {"ours": lambda: function(*args, out), "theirs": lambda: exercise.reference(*args)}
    ours, theirs = (timing.median for timing in time_in_turn(both, cold=True).values())
    moved = footprint(*(a for a in args if torch.is_tensor(a)), out)
    rate, limit = moved / ours / 1e6, copy_bandwidth()
    return [
        f"{moved / 1e6:,.0f} MB in {ours:.3f} ms: {rate:,.0f} GB/s, {100 * rate / limit:.0f} % of this GPU's copy "
        f"bandwidth ({limit:,.0f} GB/s). PyTorch takes {theirs:.3f} ms."
    ]
