"""The speed that `check` reports on a GPU."""
import dataclasses

import pytest
import torch

from course import lab
from course.exercises.vector_add import my_add
from course.lab.checking.exercise import find
from course.lab.measuring import speed as module
from course.timing import Timing

ADD = find("vector_add.fill_in")


@pytest.mark.gpu
def test_speed_beside_a_copy_and_pytorch():
    report = lab.check(ADD, my_add)
    assert report.passed and report.speed, report
    line = report.notes[-1]
    assert "% of this GPU's copy bandwidth" in line and "PyTorch takes" in line


@pytest.mark.parametrize("counted, words", [
    ({}, "13 MB in 0.010 ms: 1,258 GB/s, 31 % of this GPU's copy bandwidth (4,000 GB/s). PyTorch takes 0.005 ms."),
    ({"operations": lambda x, y: 2000 * x.numel()},
     "2 GFLOP in 0.010 ms: 210 TFLOP/s, 26 % of what a large matrix product reaches here (800 TFLOP/s)"),
], ids=["bytes", "operations"])
def test_judged_by_bytes_or_by_operations(monkeypatch, counted, words):
    monkeypatch.setattr(module, "copy_bandwidth", lambda: 4000.0)
    monkeypatch.setattr(module, "matmul_rate", lambda dtype: 800.0)
    took = {"ours": Timing(0.01, 0.0, 0.0), "theirs": Timing(0.005, 0.0, 0.0)}
    monkeypatch.setattr(module, "time_in_turn", lambda calls, cold: took)
    exercise = dataclasses.replace(ADD, heavy=lambda randn: randn(2, 2**20).unbind(), **counted)
    (line,) = module.speed(exercise, lambda x, y, out: torch.add(x, y, out=out))
    assert words in line


def test_a_wrong_large_result_is_not_timed():
    small = dataclasses.replace(ADD, heavy=lambda randn: (1e-4 * randn(99), 1e-4 * randn(99)))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        module.speed(small, lambda x, y, out: torch.sub(x, y, out=out))
