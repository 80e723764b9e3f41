"""Kernels compiled ahead. That needs Triton itself and not its interpreter, so most of it is in another process."""
import subprocess
import sys

import pytest

from course import compiling
from course.compiling import Collecting, compile_ahead, is_collecting
from course.results import ROOT

PROGRAM = """
import os
os.environ["TRITON_INTERPRET"] = "0"
import threading

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from course.compiling import Collecting, compile_ahead, is_collecting
from tests.aot.compile import AbsentGPU

triton.runtime.driver.set_active(AbsentGPU(GPUTarget("cuda", 90, 32)))


@triton.jit
def fill_kernel(out_ptr, VALUE: tl.constexpr, BLOCK: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, BLOCK), VALUE)


@triton.jit
def wrong_kernel(out_ptr, BLOCK: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, BLOCK), undefined)


out = torch.zeros(64)
compiled = lambda kernel: [found for found in kernel.device_caches[0][0].values() if found is not None]


def launch_all():
    for value in 1, 2, 3, 3:
        fill_kernel[(1,)](out, VALUE=value, BLOCK=64)
    wrong_kernel[(1,)](out, BLOCK=64)


assert not is_collecting()
with Collecting() as collected:
    assert is_collecting()
    launch_all()
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(is_collecting()))
    thread.start(), thread.join()
assert not is_collecting() and elsewhere == [False]
assert len(collected.kernels) == 4 and not compiled(fill_kernel) and out.sum() == 0

advances = []
collected.compile(lambda: advances.append(threading.current_thread()))
assert advances == 4 * [threading.main_thread()] and not collected.kernels
kernels = compiled(fill_kernel)
assert len(kernels) == 3 and all(type(kernel) is CompiledKernel for kernel in kernels)
assert not compiled(wrong_kernel)

try:  # what could not be compiled says why when it is launched
    wrong_kernel[(1,)](out, BLOCK=64)
except triton.CompilationError as error:
    assert "undefined" in str(error)
else:
    raise AssertionError("compiled")

compile_ahead(lambda: fill_kernel[(1,)](out, VALUE=4, BLOCK=64))
assert len(compiled(fill_kernel)) == 4
print("fine")
"""


def test_what_is_collected_is_compiled(tmp_path):
    """In threads, for a GPU that is not there; and what cannot be compiled hinders nothing."""
    program = tmp_path / "program.py"  # Triton reads a kernel's source
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program], cwd=ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path / "cache"), "PATH": "", "HOME": str(tmp_path)},
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_triton_without_a_place_for_it(monkeypatch):
    """Every kernel is compiled at its first launch then."""
    monkeypatch.setattr(compiling, "active_mode", None)
    monkeypatch.setattr(compiling, "INTERPRET", False)
    calls = []
    compile_ahead(lambda: calls.append("made"))
    with Collecting() as collected:
        assert not is_collecting()
    collected.compile()
    assert not calls and not collected.kernels


@pytest.mark.parametrize("cores, threads", [(1, 1), (4, 4), (64, compiling.MOST_THREADS)])
def test_as_many_threads_as_cores(cores, threads, monkeypatch):
    monkeypatch.setattr(compiling.os, "sched_getaffinity", lambda process: range(cores))
    assert compiling.threads() == threads
