"""Where kernels run: compiled on a GPU, or anywhere through Triton's interpreter.

Triton reads TRITON_INTERPRET while it is imported, so this module decides before it imports Triton:
a value that the user set stands; otherwise a machine on which PyTorch sees no GPU interprets.
"""
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

if "TRITON_INTERPRET" not in os.environ and not torch.cuda.is_available():
    if "triton.language" in sys.modules:
        raise RuntimeError(
            "course: no GPU found, and triton was imported before course, so it can no longer switch to its "
            "interpreter: import course first, or set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"

import triton

INTERPRET: bool = triton.knobs.runtime.interpret
"""True where kernels are interpreted on the CPU rather than compiled."""

DEVICE = torch.device("cpu" if INTERPRET else "cuda")
"""The device on which examples and tests create their tensors."""

TUNED = Path(__file__).parent / "tuned"
"""Configurations measured by the maintainers, one file a GPU."""

CACHE = Path(os.environ.get("COURSE_CACHE", Path.home() / ".cache" / "triton-course"))
"""Configurations measured on this machine."""

LIBRARY = torch.library.Library("course", "FRAGMENT")
"""The operators, `torch.ops.course`."""


def custom_op(name: str, mutates_args: Sequence[str] = ()):
    """The operator `torch.ops.course.<name>`, from a function with annotations, run on its first argument's device.

    As `torch.library.custom_op` makes it, but an operator that changes nothing is called without that function's layers
    of Python, which take the CPU 10 to 30 us. They also check every time that the result is a new tensor: here the
    tests do, with `torch.library.opcheck`. `torch.library.register_fake` takes the operator, as does the rest there.
    A name can be given once in a process, and an operator without `register_autograd` has no gradient and does not say
    so: that is for the public functions to refuse.

    PyTorch does not switch the current device for a custom operator, and Triton launches on
    the current one: without the switch a tensor on cuda:1 would be read by a kernel on cuda:0.
    """

    def decorate(fn):
        @functools.wraps(fn)
        def on_its_device(first, *args, **kwargs):
            if first.is_cuda and first.get_device() != torch.cuda.current_device():
                with torch.cuda.device(first.device):
                    return fn(first, *args, **kwargs)
            return fn(first, *args, **kwargs)

        if mutates_args:  # of which autograd is told at every call
            return torch.library.custom_op(f"course::{name}", on_its_device, mutates_args=mutates_args)
        schema = name + torch.library.infer_schema(fn, mutates_args=())
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        # what it does is nothing to trace, not even where torch.compile gives up on the function that calls it
        LIBRARY.impl(name, torch._disable_dynamo(on_its_device), "CompositeExplicitAutograd")
        return getattr(torch.ops.course, name).default

    return decorate


@functools.cache
def gpu_name() -> str:
    """The current GPU's name as a file name, such as `nvidia-h200`."""
    return torch.cuda.get_device_name().lower().replace(" ", "-").replace("/", "-")


@functools.cache
def capability() -> tuple[int, int]:
    """The current NVIDIA GPU's compute capability, (9, 0) for Hopper; (0, 0) in the interpreter and on AMD."""
    return torch.cuda.get_device_capability() if not INTERPRET and torch.version.hip is None else (0, 0)


@functools.cache
def num_sms() -> int:
    """Multiprocessors of the current GPU: how many programs run at once, at least. 1 in the interpreter."""
    return 1 if INTERPRET else torch.cuda.get_device_properties().multi_processor_count


def best_config(
    kernel: str, key: tuple, configs: Sequence[triton.Config], launch: Callable[[triton.Config], object]
) -> triton.Config:
    """The fastest of `configs` for one kernel and one problem, measured once and remembered.

    `key` holds what the choice depends on (sizes, dtype); `launch(config)` runs the kernel and may be
    called many times. `configs[0]` is the kernel's own guess, and is returned unmeasured in the
    interpreter, when nothing else is offered, during CUDA graph capture, and under COURSE_TUNE=0.
    Looked up first in the repository's `course/tuned/<gpu>.json`, then in `~/.cache/triton-course`;
    a problem found in neither is measured, with a line on stderr, and written to the latter.
    """
    if INTERPRET or len(configs) == 1:
        return configs[0]
    name = _problem(kernel, key)
    found = _known_configs(gpu_name()).get(name)
    if found is not None:
        return found
    if os.environ.get("COURSE_TUNE") == "0" or torch.cuda.is_current_stream_capturing():
        return configs[0]
    found = _measure(name, configs, launch)
    _known_configs(gpu_name())[name] = found
    return found


@functools.lru_cache(maxsize=4096)
def _problem(kernel: str, key: tuple) -> str:
    """The name of a problem in the files."""
    return f"{kernel} " + ",".join(str(part).removeprefix("torch.") for part in key)


def _measure(name, configs, launch):
    best, best_ms = configs[0], float("inf")
    for i, config in enumerate(configs, start=1):
        print(f"\rtuning {name}: {i}/{len(configs)}", end="", file=sys.stderr, flush=True)
        try:
            ms = _milliseconds(functools.partial(launch, config))
        except triton.runtime.errors.OutOfResources:
            continue  # this one does not fit this GPU's shared memory or registers
        if ms < best_ms:
            best, best_ms = config, ms
    print(f"\rtuning {name}: {best_ms:.4f} ms with {best}", file=sys.stderr, flush=True)
    _remember(CACHE / f"{gpu_name()}.json", name, best)
    return best


def _milliseconds(launch) -> float:
    """What one of many launches in a row takes on the GPU.

    In a row, because alone a small kernel takes less time than launching it. They are queued behind one that keeps the
    GPU busy until the last of them is there, as in a CUDA graph.
    """
    launch()  # compiles
    torch.cuda.synchronize()
    begin = time.perf_counter()
    launch()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    launches = max(2, min(20, int(0.004 / seconds)))
    found = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(2e9 * seconds * launches))  # cycles: longer than the CPU needs
        start.record()
        for _ in range(launches):
            launch()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / launches)
    return statistics.median(found)


def _remember(file: Path, name: str, config: triton.Config) -> None:
    """Adds one entry to `file`; the rename makes it whole or not there at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = json.loads(file.read_text()) if file.exists() else {}
    table[name] = {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    partial.replace(file)


@functools.cache
def _known_configs(gpu: str) -> dict[str, triton.Config]:
    known = {}
    for file in (CACHE / f"{gpu}.json", TUNED / f"{gpu}.json"):  # the repository's entries win
        if file.exists():
            for name, entry in json.loads(file.read_text()).items():
                warps, stages = entry.pop("num_warps"), entry.pop("num_stages")
                known[name] = triton.Config(entry, num_warps=warps, num_stages=stages)
    return known
