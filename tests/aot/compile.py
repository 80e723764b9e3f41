"""Compiles what kernels would launch, for a GPU that is not there.

    python -m tests.aot.compile sm_90 [--all | --brief [float16 ...]] [--dtypes float16 ...] [--layers [4]]

Each module in the folders beside this one yields the calls that reach its kernel's variants. A driver that names the
target and launches nothing stands in for the GPU, so that Triton specialises the arguments, compiles them to machine
code and reports the shared memory, as on the day itself. Prints a line of JSON a case.

Every launch is compiled in the first of its configurations, which is used unmeasured while a graph is captured and
under COURSE_TUNE=0, and so has to fit. With --all it is compiled in each of them; with --brief, of all dtypes or of
those named, each module's kernels are compiled once a dtype, in a third of the time. --dtypes leaves out the others;
--layers compiles the layers of known models in place of the modules' calls, or every fourth of them.
"""
import argparse
import contextlib
import importlib
import itertools
import json
import os
import pkgutil
import re
import subprocess
import tempfile
from typing import NamedTuple

os.environ["TRITON_INTERPRET"] = "0"
os.environ["COURSE_TUNE"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from course import runtime, tuning
from course.kernels.parts.pdl import SIGNAL_AT_START



class Target(NamedTuple):
    """A GPU to compile for."""

    gpu: GPUTarget
    shared_kib: int
    """shared memory that one program can have, in the CUDA C++ Programming Guide's table of compute capabilities"""
    multiprocessors: int
    """of the GPU named beside it, where the ranking of configurations depends on them"""


TARGETS = {
    "sm_75": Target(GPUTarget("cuda", 75, 32), 64, 40),  # T4
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163, 108),  # A100
    "sm_86": Target(GPUTarget("cuda", 86, 32), 99, 28),  # RTX 3060
    "sm_89": Target(GPUTarget("cuda", 89, 32), 99, 128),  # RTX 4090
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227, 132),  # H200
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227, 148),  # B200
    "sm_120": Target(GPUTarget("cuda", 120, 32), 99, 170),  # RTX 5090
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64, 304),  # MI300X
}

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

MOST_SPILLED = 1024
"""Bytes of memory that a thread may use in place of registers. A tile too large for its warps takes thousands."""


class AbsentGPU:
    """As much of a Triton driver as compiling needs."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:
    """Kernels of a case, as `module.kernel`, and those that need not be compiled again; None where each launch is."""

    of_case: set[str] = set()
    names: set[str] | None = None


def pretend(name: str, every_configuration: bool, compiled: Compiled) -> None:
    """From here on kernels are compiled for `name`, and not launched."""
    target, shared_kib, multiprocessors = TARGETS[name]
    shared_limit = shared_kib * 1024
    triton.runtime.driver.set_active(AbsentGPU(target))
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        name = f"{self.fn.__module__}.{self.__name__}".removeprefix("course.kernels.")
        if name in (compiled.names or ()):
            return None
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.metadata.shared > shared_limit:
            raise OutOfResources(kernel.metadata.shared, shared_limit, "shared memory")
        if kwargs.get("PRECISION") == "tf32" and target.backend == "cuda" and "cvt.rna.tf32" not in kernel.asm["ptx"]:
            raise AssertionError("multiplies TF32 operands that were not rounded")
        if target.backend == "cuda" and spilled(kernel) > MOST_SPILLED and not every_configuration:
            raise AssertionError(f"a thread of {name} spills {spilled(kernel)} bytes: {kwargs}")
        if kwargs.get("PDL"):
            check_order(kernel.asm["ptx"], tasks_of_warps(kernel.asm["ttgir"]), kwargs["PDL"] == SIGNAL_AT_START.value)
        compiled.of_case.add(name)
        if compiled.names is not None:
            compiled.names.add(name)
        return kernel

    JITFunction.run = compile_only

    def first_one(problem, configs, launch, most):
        first, *others = configs[:most]
        launch(first)
        for config in others if every_configuration else ():
            with contextlib.suppress(OutOfResources):
                launch(config)
        return first

    tuning.measure = first_one
    if every_configuration:
        tuning.FEW = tuning.MANY
    tuning.remember = lambda *choice, first: None
    runtime.gpu_name = lambda: name
    runtime.capability = lambda: (target.arch // 10, target.arch % 10) if target.backend == "cuda" else (0, 0)
    runtime.num_sms = lambda: multiprocessors
    torch.cuda.is_current_stream_capturing = lambda: False
    importlib.import_module("course.kernels.parts.checks").INTERPRET = True  # tensors on the CPU will do


def spilled(kernel) -> int:
    """Bytes of memory that each thread of a compiled kernel uses in place of registers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])


def tasks_of_warps(ttgir: str) -> int:
    """How many tasks a kernel's warps are divided among: the first warps', and one for each partition of the others."""
    return 1 + len(re.findall(r"^ *partition\d+\(", ttgir, re.MULTILINE))


def check_order(ptx: str, tasks: int, at_once: bool) -> None:
    """A kernel that starts early waits before it touches memory, and so does each task that some of its warps have; it
    lets the next one start first of all, or last."""
    waits, lets = (ptx.find(f"griddepcontrol.{word}") for word in ("wait", "launch_dependents"))
    touches = [found.start() for found in re.finditer(r"\b(ld\.global|st\.global|cp\.async|atom\.|red\.)", ptx)]
    loads = [found.start() for found in re.finditer(r"\bld\.global", ptx)]
    if waits < 0 or waits > min(touches):
        raise AssertionError("launched early, but does not wait before it touches memory")
    if ptx.count("griddepcontrol.wait") < tasks:
        raise AssertionError(f"launched early, but not all of its {tasks} tasks wait")
    if at_once and not 0 <= lets < waits:
        raise AssertionError("does not let the next kernel start before it waits itself")
    if not at_once and 0 <= lets < max(loads):
        raise AssertionError("lets the next kernel start before its last load")


def modules() -> list[str]:
    """Such as "elementwise.add": a family and an operation."""
    folders = [family.name for family in pkgutil.iter_modules([os.path.dirname(__file__)]) if family.ispkg]
    return [
        f"{folder}.{module.name}"
        for folder in folders for module in pkgutil.iter_modules([os.path.join(os.path.dirname(__file__), folder)])
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--brief", nargs="*", choices=DTYPES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--layers", nargs="?", type=int, const=1, metavar="EVERY")
    asked = parser.parse_args()
    brief = () if asked.brief is None else asked.brief or DTYPES
    compiled = Compiled()
    pretend(asked.target, asked.all, compiled)
    for module in ["layers"] if asked.layers else modules():
        for dtype in asked.dtypes:
            compiled.names = set() if dtype in brief else None
            cases = importlib.import_module(f"tests.aot.{module}").cases(DTYPES[dtype])
            for label, call in itertools.islice(cases, 0, None, asked.layers):
                error, compiled.of_case = None, set()
                try:
                    with torch.no_grad():
                        call()
                except Exception as e:  # reported by the test, the other cases go on
                    error = f"{type(e).__name__}: {str(e)[:500]}"
                case = {"case": f"{module} {label} {dtype}", "kernels": sorted(compiled.of_case), "error": error}
                print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
