"""Compiles what kernels would launch, for a GPU that is not there.

    python -m tests.aot.compile sm_90 [--all | --brief [float16 ...]]

Each module in the folders beside this one yields the calls that reach its kernel's variants. A driver that names the
target and launches nothing stands in for the GPU, so that Triton specialises the arguments, compiles them to machine
code and reports the shared memory, as on the day itself. Prints a line of JSON a case.

Every launch is compiled, in the first of its configurations that fits. With --all it is compiled in each of them; with
--brief, of all dtypes or of those named, each module's kernels are compiled once a dtype, in a third of the time.
"""
import importlib
import json
import os
import pkgutil
import re
import sys

os.environ["TRITON_INTERPRET"] = "0"
os.environ["COURSE_TUNE"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from course import runtime, tuning
from course.kernels.parts.pdl import SIGNAL_AT_START

TARGETS = {  # the target, and the bytes of shared memory one program can have there
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}


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
    target, shared_limit = TARGETS[name]
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
        if kwargs.get("PDL"):
            check_order(kernel.asm["ptx"], tasks_of_warps(kernel.asm["ttgir"]), kwargs["PDL"] == SIGNAL_AT_START.value)
        compiled.of_case.add(name)
        if compiled.names is not None:
            compiled.names.add(name)
        return kernel

    JITFunction.run = compile_only

    def one_that_fits(problem, configs, launch, most):
        fits = []
        for config in configs[:most] if every_configuration else configs:
            try:
                launch(config)
                fits.append(config)
            except OutOfResources:
                continue
            if not every_configuration:
                break
        if not fits:
            raise RuntimeError(f"{problem}: none of {len(configs)} configurations fits {shared_limit} bytes")
        return fits[0]

    tuning.measure = one_that_fits
    if every_configuration:
        tuning.FEW = tuning.MANY
    tuning.remember = lambda *choice, first: None
    runtime.gpu_name = lambda: name
    runtime.capability = lambda: (target.arch // 10, target.arch % 10) if target.backend == "cuda" else (0, 0)
    runtime.num_sms = lambda: 132
    torch.cuda.is_current_stream_capturing = lambda: False
    importlib.import_module("course.kernels.parts.checks").INTERPRET = True  # tensors on the CPU will do


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
    name, *flags = sys.argv[1:]
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    brief = [flag for flag in flags if flag in dtypes] or dtypes if "--brief" in flags else ()
    compiled = Compiled()
    pretend(name, "--all" in flags, compiled)
    for module in modules():
        for dtype_name, dtype in dtypes.items():
            compiled.names = set() if dtype_name in brief else None
            for label, call in importlib.import_module(f"tests.aot.{module}").cases(dtype):
                error, compiled.of_case = None, set()
                try:
                    with torch.no_grad():
                        call()
                except Exception as e:  # reported by the test, the other cases go on
                    error = f"{type(e).__name__}: {str(e)[:500]}"
                case = {"case": f"{module} {label} {dtype_name}", "kernels": sorted(compiled.of_case), "error": error}
                print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
