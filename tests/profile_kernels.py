"""What a GPU was asked to do during a call: the kernels by name, and the most memory allocated."""
import importlib
import pkgutil
from collections import Counter

import torch
import triton

import course.kernels

COPIES = ("memcpy", "memset", "copy")
"""Parts of the names of what only moves memory: Memcpy DtoD, direct_copy_kernel_cuda, CatArrayBatchedCopy."""


def triton_kernels() -> set[str]:
    """The names of all kernels in course.kernels."""
    names = [module.name for module in pkgutil.walk_packages(course.kernels.__path__, "course.kernels.")]
    return {
        value.__name__ for name in names for value in vars(importlib.import_module(name)).values()
        if isinstance(value, triton.runtime.jit.JITFunction)
    }


def launched(run) -> Counter[str]:
    """Everything that the GPU does during run(), by name; run() is called once before, to compile and to tune."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = False  # the tests' NaN would be launched as kernels
    torch.use_deterministic_algorithms(False)
    try:
        run()
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            run()
            torch.cuda.synchronize()
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill
    on_gpu = torch.autograd.DeviceType.CUDA
    return Counter(event.name for event in profile.events() if event.device_type == on_gpu)


def foreign(names: Counter[str]) -> list[str]:
    """Those of `names` that are neither kernels of course.kernels nor copies of memory."""
    ours = triton_kernels()
    return [name for name in names if name not in ours and not any(copy in name.lower() for copy in COPIES)]


def assert_triton_only(run) -> None:
    """run() launches kernels of course.kernels, and nothing beside them but copies of memory."""
    names = launched(run)
    assert set(names) & triton_kernels(), f"no Triton kernel seen among {list(names)}"
    assert not foreign(names), "not Triton: " + "; ".join(foreign(names))


def peak_memory(run) -> int:
    """Bytes that run() allocates at most beside what was allocated before it, the libraries' workspaces included."""
    run()  # compiles and tunes
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()  # kept from call to call, so that only the first would count them
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
