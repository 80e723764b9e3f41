"""What makes Triton's interpreter quicker does not change what it does."""
import inspect

import pytest
import torch
import triton
import triton.language as tl

from course import _interpreter, lab
from course.runtime import DEVICE


@triton.jit
def squared(x):
    return x * x + tl.zeros_like(x)


@triton.jit
def fourth_powers_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    tl.store(out_ptr + tl.cdiv(n, n) - 1, tl.sum(squared(squared(x)), 0))


@pytest.mark.parametrize("owner", _interpreter.BUILTINS, ids=lambda owner: owner.__name__)
def test_after_a_launch_all_is_as_it_was(owner):
    before, members = dict(vars(owner)), inspect.getmembers(owner)
    for _ in range(2):  # the second one knows what there is to replace
        x, out = torch.arange(5.0, device=DEVICE), torch.zeros(1, device=DEVICE)
        with lab.interpreted():
            fourth_powers_kernel[(1,)](x, out, 5, BLOCK=8)
        assert out.item() == 1 + 16 + 81 + 256
        assert [name for name in before if vars(owner)[name] is not before[name]] == []
    assert _interpreter.BUILTINS[owner] == [(n, m) for n, m in members if tl.core.is_builtin(m)] != []
