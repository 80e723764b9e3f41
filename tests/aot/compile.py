"""Compiles what kernels would launch, for a GPU that is not there: python -m tests.aot.compile sm_90 [--brief | --all]

Each module beside this one yields the calls that reach its kernel's variants. A driver that names the target
and launches nothing stands in for the GPU, so that Triton specialises the arguments, compiles them to machine
code and reports the shared memory, as on the day itself. Prints a line of JSON a case.

Every launch is compiled, in the first of its configurations that fits. With --all it is compiled in each of them; with
--brief once a module and dtype for each kernel, which takes a third of the time.
"""
import importlib
import json
import os
import pkgutil
import sys

os.environ["TRITON_INTERPRET"] = "0"
os.environ["COURSE_TUNE"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from course import runtime

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


def pretend(name: str, every_configuration: bool, compiled: set[str] | None = None) -> None:
    """From here on kernels are compiled for `name`, and not launched; not if their names are in `compiled`."""
    target, shared_limit = TARGETS[name]
    triton.runtime.driver.set_active(AbsentGPU(target))
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        if compiled is not None and self.__name__ in compiled:
            return None
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.metadata.shared > shared_limit:
            raise OutOfResources(kernel.metadata.shared, shared_limit, "shared memory")
        if compiled is not None:
            compiled.add(self.__name__)
        return kernel

    JITFunction.run = compile_only

    def one_that_fits(kernel, configs, launch):
        fits = []
        for config in configs:
            try:
                launch(config)
                fits.append(config)
            except OutOfResources:
                continue
            if not every_configuration:
                break
        if not fits:
            raise RuntimeError(f"{kernel}: none of {len(configs)} configurations fits {shared_limit} bytes")
        return fits[0]

    runtime._measure = one_that_fits
    runtime.gpu_name = lambda: name
    runtime.capability = lambda: (target.arch // 10, target.arch % 10) if target.backend == "cuda" else (0, 0)
    runtime.num_sms = lambda: 132
    torch.cuda.is_current_stream_capturing = lambda: False
    importlib.import_module("course.kernels._checks").INTERPRET = True  # tensors on the CPU will do


def main() -> None:
    name, *flags = sys.argv[1:]
    compiled = set() if "--brief" in flags else None
    pretend(name, "--all" in flags, compiled)
    for module in sorted(m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]) if m.name != "compile"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            if compiled:
                compiled.clear()
            for label, call in importlib.import_module(f"tests.aot.{module}").cases(dtype):
                error = None
                try:
                    with torch.no_grad():
                        call()
                except Exception as e:  # reported by the test, the other cases go on
                    error = f"{type(e).__name__}: {str(e)[:500]}"
                case = f"{module} {label} {str(dtype).removeprefix('torch.')}"
                print(json.dumps({"case": case, "error": error}), flush=True)


if __name__ == "__main__":
    main()
