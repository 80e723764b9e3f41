"""What torch.compile made of the peers, kept for other processes: max-autotune takes minutes a model and batch size.

A file holds what PyTorch's own `torch.compiler.save_cache_artifacts` gives for one peer: the compiled graphs and the
configurations that were chosen, without the kernels' binaries, which are larger and soon compiled again, each in one
configuration. PyTorch looks them up by the graph, by its own and Triton's sources, by the GPU's name and by its
settings, and compiles anew where one of these is another.
"""
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from course.files import whole
from course.timing import turn


def is_compiled(provider: str) -> bool:
    return provider.endswith("-compile")


def file_of(folder: Path, cell: tuple[str, str, int], provider: str) -> Path:
    return folder / f"{'-'.join(map(str, cell))}-{provider}.bin"


def without_binaries() -> None:
    """For what is compiled from now on. The setting counts when PyTorch looks something up."""
    import torch._inductor.config as settings  # half a second

    settings.bundle_triton_into_fx_graph_cache = False


def measured_in_turn() -> None:
    """torch.compile measures kernels only while no other process of ours measures on the same GPU."""
    from torch._inductor.runtime.benchmarking import benchmarker

    benchmarker.benchmark_gpu = in_turn(benchmarker.benchmark_gpu)


def in_turn(measure: Callable) -> Callable:
    @functools.wraps(measure)
    def alone(*args, **kwargs):
        with turn():
            return measure(*args, **kwargs)

    return alone


def save(file: Path) -> None:
    """Writes to `file` all that this process has compiled. Raises RuntimeError if that is nothing."""
    found = torch.compiler.save_cache_artifacts()
    if found is None:
        raise RuntimeError(f"{file.name}: expected something compiled, got nothing")
    with whole(file) as partial:
        partial.write_bytes(found[0])


def load(file: Path) -> None:
    """Lets torch.compile find what is in `file`."""
    without_binaries()
    torch.compiler.load_cache_artifacts(file.read_bytes())
