"""What this machine can run, and what to do about what it cannot."""
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton

from course import runtime
from course.commands import extras
from course.kernels import add

PACKAGES = ("torch", "triton", "torchvision", "transformers", "jupyterlab", "matplotlib", "nbval", "scikit-learn")

OLDEST = 7, 5
"""Compute capability of the oldest GPUs that the tests compile the kernels for: Turing's."""


class Finding(NamedTuple):
    """One line of the report; `remedy` is empty where nothing is wrong."""

    topic: str
    fact: str
    remedy: str = ""
    lacking: bool = False
    """whether it is what this machine does without, rightly if slowly, and nothing to repair"""

    @property
    def mark(self) -> str:
        return "!" if self.remedy else "-" if self.lacking else "✓"


def findings() -> Iterator[Finding]:
    """Looks at the machine, the packages and a first kernel, in the order in which one would repair them."""
    yield Finding("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
                             f"Python {platform.python_version()}")
    yield from _packages()
    yield from _gpu()
    yield _first_kernel()


def _packages():
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", ", ".join(found))
    if missing:
        yield Finding("missing", ", ".join(missing), extras.install(missing))


def _gpu():
    if not torch.cuda.is_available():
        if runtime.INTERPRET:
            yield Finding("GPU", "none that PyTorch sees: kernels run on the CPU in Triton's interpreter, "
                                 "slowly but to the same results; timings are shown from stored runs")
        else:
            yield Finding("GPU", f"none that PyTorch sees, and TRITON_INTERPRET={os.environ['TRITON_INTERPRET']} is "
                                 "set: kernels run nowhere", "unset TRITON_INTERPRET to interpret them on the CPU")
        if shutil.which("nvidia-smi"):
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
            yield Finding("driver", f"nvidia-smi is here, but this PyTorch was built for {built}",
                          "update the driver, or install a PyTorch built for yours: pytorch.org")
        return

    gpu = torch.cuda.get_device_properties()
    yield Finding("GPU", f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory / 2**30:.0f} "
                         f"GiB, {torch.cuda.device_count()} in this machine")
    if runtime.INTERPRET:
        yield Finding("mode", "TRITON_INTERPRET=1 is set: kernels are interpreted on the CPU although a GPU is here",
                      "unset TRITON_INTERPRET to use the GPU")
        return
    if torch.version.hip is None:
        major, minor = runtime.capability()
        too_old = (major, minor) < OLDEST
        kib = runtime.shared_memory() // 1024
        yield Finding("mode", f"compiled for compute capability {major}.{minor}, with {kib} KiB of shared memory for a "
                              "program",
                      "set TRITON_INTERPRET=1: kernels are tested from {}.{} on".format(*OLDEST) if too_old else "")
        yield from (Finding("without", lack, lacking=True) for lack in lacks())
    if not any(shutil.which(cc) for cc in (os.environ.get("CC", "cc"), "gcc", "clang")):
        yield Finding("compiler", "no C compiler; Triton builds each kernel's launcher with one",
                      "apt-get install gcc, or set CC")


def lacks() -> Iterator[str]:
    """What the current NVIDIA GPU lacks of what others have, and what that means for the kernels."""
    capability = runtime.capability()
    if capability < (8, 0):
        yield "bfloat16, since 8.0: its numbers are converted to float32 and back, right and slow"
        yield "TF32, since 8.0: float32 products stay float32, also where PyTorch's settings allow TF32"
        yield "products on tensor cores, in Triton since 8.0: right, and slow"
    if capability < (8, 9):
        yield "FP8, since 8.9: no kernel needs it"
    if capability < (9, 0):
        yield "TMA, since 9.0: engines through pointers take its place"
    elif not runtime.tma_feeds_tensor_cores():
        yield "tensor cores that TMA feeds, in 9.0 and 10.0 only: engines through pointers take their place"
    if capability != (9, 0):
        yield "wgmma, in 9.0 only: engines called hopper do not run"


def _first_kernel():
    try:
        x, y = (torch.rand(1000, device=runtime.DEVICE) for _ in range(2))
        right = torch.equal(add(x, y), x + y)
    except Exception as error:  # whatever is broken here is what the doctor is for
        reason = str(error).partition("\n")[0]
        return Finding("kernel", f"a first kernel failed: {type(error).__name__}{reason and ': '}{reason}",
                       "see posts/troubleshooting.md")
    how = "in the interpreter" if runtime.INTERPRET else "on the GPU"
    if not right:
        return Finding("kernel", f"add ran {how} and gave a wrong sum", "reinstall PyTorch and Triton together")
    return Finding("kernel", f"add of 1000 numbers ran {how} and is right (Triton {triton.__version__})")


def doctor() -> int:
    """Prints the findings; 1 when something is to be repaired."""
    code = 0
    for finding in findings():
        print(f"{finding.mark} {finding.topic:9} {finding.fact}")
        if finding.remedy:
            code = 1
            print(f"  {'':9} → {finding.remedy}")
    return code
