"""Triton's interpreter, quicker and tidier, does what it did before."""
import inspect
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import triton
import triton.language as tl

from course import interpreter, lab
from course.results import ROOT
from course.runtime import DEVICE, INTERPRET


@triton.jit
def squared(x):
    return x * x + tl.zeros_like(x)


@triton.jit
def fourth_powers_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    tl.store(out_ptr + tl.cdiv(n, n) - 1, tl.sum(squared(squared(x)), 0))


@pytest.mark.parametrize("owner", interpreter.BUILTINS, ids=lambda owner: owner.__name__)
def test_after_a_launch_all_is_as_it_was(owner):
    before, members = dict(vars(owner)), inspect.getmembers(owner)
    for _ in range(2):  # the second one knows what there is to replace
        x, out = torch.arange(5.0, device=DEVICE), torch.zeros(1, device=DEVICE)
        with lab.interpreted():
            fourth_powers_kernel[(1,)](x, out, 5, BLOCK=8)
        assert out.item() == 1 + 16 + 81 + 256
        assert [name for name in before if vars(owner)[name] is not before[name]] == []
    builtins = [(n, m) for n, m in members if tl.core.is_builtin(m)]
    assert interpreter.BUILTINS[owner][: len(builtins)] == builtins != []  # behind them, the methods of tl.tensor


@triton.jit
def count_up_kernel(out_ptr, n):
    total = 0
    for i in range(n):
        total += i
    tl.store(out_ptr, total)


@pytest.mark.skipif(not INTERPRET, reason="a launch that is interpreted")
def test_an_argument_is_the_end_of_a_loop():
    out = torch.zeros(1, dtype=torch.int32)
    count_up_kernel[(1,)](out, 5)
    assert out.item() == 0 + 1 + 2 + 3 + 4


def test_nothing_is_said_of_infinities_and_nan():
    program = ("import torch; from course.kernels import add, softmax; inf = torch.tensor([float('inf')]); "
               "print(softmax(add(inf, -inf)))")
    done = subprocess.run([sys.executable, "-W", "default::RuntimeWarning", "-c", program], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("tensor([nan])\n", "")


@triton.jit
def number_kernel(out_ptr, value):
    tl.store(out_ptr + tl.program_id(0), squared(tl.program_id(0) + value))


@pytest.mark.skipif(not INTERPRET, reason="of the interpreter")
def test_threads_take_turns():
    def launch(value):
        got = []
        for _ in range(10):
            out = torch.zeros(20, dtype=torch.int32)
            number_kernel[(20,)](out, value)
            got.append(out)
        return got

    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as threads:
            results = list(threads.map(launch, range(6)))
    finally:
        sys.setswitchinterval(switch_interval)
    for value, outs in enumerate(results):
        want = (torch.arange(20, dtype=torch.int32) + value) ** 2
        assert all(torch.equal(out, want) for out in outs)


@pytest.mark.skipif(not INTERPRET, reason="of the interpreter")
def test_a_launch_within_a_launch_does_not_wait_for_itself():
    def grid(args):
        inner = torch.zeros(1, dtype=torch.int32)
        count_up_kernel[(1,)](inner, 3)
        return (inner.item(),)

    out = torch.zeros(3, dtype=torch.int32)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(number_kernel[grid], out, 1).result(timeout=60)
    assert out.tolist() == [1, 4, 9]
