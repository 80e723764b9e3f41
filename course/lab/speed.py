"""How long work takes on a GPU, and how long it has to. Nothing here runs in the interpreter."""
import datetime
import functools
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import triton
from triton.testing import do_bench

from course import runtime

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def hardware(gpu: str = "nvidia-h200") -> dict:
    """What the maintainers measured of a GPU: `multiprocessors`, `copy_gbps`, `matmul_bf16_tflops`."""
    return json.loads((RESULTS / gpu / "hardware.json").read_text())


@functools.cache
def copy_bandwidth() -> float:
    """GB/s, read and written, of copying 1 GiB on this GPU: what a kernel that only moves bytes can hope for."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    median, *_ = in_turn({"copy": lambda: target.copy_(source)})["copy"]
    return 2 * source.numel() / median / 1e6


def in_turn(functions: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of a call on the GPU with cold caches: the median, and what 20 % and 80 % of the calls stay under.

    Three rounds, so that a slow moment of the machine falls on every one of `functions`.
    """
    samples = {name: [] for name in functions}
    for _ in range(3):
        for name, function in functions.items():
            samples[name] += do_bench(function, warmup=15, rep=50, return_mode="all")
    return {name: tuple(np.quantile(times, [0.5, 0.2, 0.8]).tolist()) for name, times in samples.items()}


def footprint(*tensors: torch.Tensor) -> int:
    """Bytes that these tensors occupy: what an operation has to move at least. An expanded dimension counts once."""
    total = 0
    for t in tensors:
        elements = 1 if t.numel() else 0
        for size, stride in zip(t.shape, t.stride()):
            elements *= size if stride else 1
        total += elements * t.element_size()
    return total


def speed(exercise, function: Callable) -> list[str]:
    """The lines that `check` adds on a GPU: the heavy input's bandwidth, beside a copy's and PyTorch's."""

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, dtype=dtype, device="cuda")

    args = exercise.heavy(randn)
    wanted = exercise.reference(*args)
    out = torch.full_like(wanted, float("nan"))
    function(*args, out)
    torch.testing.assert_close(out, wanted, rtol=2e-3, atol=2e-3)
    times = in_turn({"ours": lambda: function(*args, out), "theirs": lambda: exercise.reference(*args)})
    ours, theirs = times["ours"][0], times["theirs"][0]
    moved = footprint(*(a for a in args if torch.is_tensor(a)), out)
    rate, limit = moved / ours / 1e6, copy_bandwidth()
    return [
        f"{moved / 1e6:,.0f} MB in {ours:.3f} ms: {rate:,.0f} GB/s, {100 * rate / limit:.0f} % of this GPU's copy "
        f"bandwidth ({limit:,.0f} GB/s). PyTorch takes {theirs:.3f} ms."
    ]


def provenance() -> dict:
    """Where and when something was measured, and with what."""

    def said(*command):
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_file": runtime.gpu_name(),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0],
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": said("git", "rev-parse", "--short", "HEAD"),
        "date": datetime.date.today().isoformat(),
    }
