"""`interpreted`: kernels as Python."""
import pytest
import torch
import triton
import triton.language as tl

from course import lab
from course.runtime import DEVICE
from tests.lab.kernels import vector


@triton.jit
def offset_kernel(out_ptr, row, stride, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    tl.device_assert(row >= 0, "no such row")
    tl.store(out_ptr + cols, row * stride + cols)


def test_a_kernel_is_python(capsys):
    @triton.jit
    def talkative(x_ptr, BLOCK: tl.constexpr):
        print("program", tl.program_id(0), tl.load(x_ptr + tl.arange(0, BLOCK)))

    with lab.interpreted():
        talkative[(2,)](vector(2), BLOCK=2)
    assert capsys.readouterr().out == "program [0] [0. 1.]\nprogram [1] [0. 1.]\n"


@pytest.mark.parametrize("row, stride, block", [(70_000, 40_000, 4), (2**31 - 2, 1, 4), (-(2**20), 2**12, 1)])
def test_an_overflow_is_an_error(row, stride, block):
    out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    with lab.interpreted():
        offset_kernel[(1,)](out, 53_687, 40_000 - 1, BLOCK=4)  # just below 2**31
        assert out.tolist()[0] == 53_687 * 39_999
        with pytest.raises(Exception, match="overflow detected|no such row"):
            offset_kernel[(1,)](out, row, stride, BLOCK=block)


def test_assertions_hold():
    out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    with lab.interpreted(), pytest.raises(Exception, match="no such row"):
        offset_kernel[(1,)](out, -1, 1, BLOCK=4)


def test_random_numbers_may_wrap():
    @triton.jit
    def noise(out_ptr, BLOCK: tl.constexpr):
        offs = tl.arange(0, BLOCK)
        tl.store(out_ptr + offs, tl.rand(2**31 - 1, offs))

    out = vector(16)
    with lab.interpreted():
        noise[(1,)](out, BLOCK=16)
    assert 0 <= out.min() and out.max() < 1
