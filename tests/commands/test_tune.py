import pytest
import torch

from course import __main__ as command_line
from course.commands import tune as command
from course.fast.tune import Tuned


def test_each_batch_has_a_line(monkeypatch, capsys):
    calls = []

    def measured(model, example):
        calls.append((type(model).__name__, tuple(example.shape), example.dtype, next(model.parameters()).dtype))
        return Tuned(problems=7, configurations=84, kernels=139, seconds=20.44, cpu_seconds=70.0)

    monkeypatch.setattr(command, "tune_model", measured)
    assert command_line.main(["tune", "resnet18", "--batch", "1", "8", "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == (
        "1 image: 7 problems in 84 configurations, 139 kernels compiled; 20.4 s, 70.0 s of CPU\n"
        "8 images: 7 problems in 84 configurations, 139 kernels compiled; 20.4 s, 70.0 s of CPU\n"
    )
    half = torch.float16
    assert [(name, shape[0], *dtypes) for name, shape, *dtypes in calls] == [
        ("ResNet", 1, half, half), ("ResNet", 8, half, half)
    ]
    assert len({shape[1:] for _, shape, *_ in calls}) == 1 and len(calls[0][1]) == 4


@pytest.mark.parametrize("arguments, says", [
    (["tune", "resnet18"], "course: tune: expected a GPU, got the interpreter"),
    (["tune", "resnet18", "--batch", "0"], "expected a whole number of at least 1, got 0"),
    (["tune", "resnet19"], "expected a model, got resnet19"),
])
def test_what_cannot_be_tuned(arguments, says, capsys, monkeypatch):
    monkeypatch.setattr("course.fast.tune.INTERPRET", True)
    assert command_line.main(arguments) == 2
    assert says in capsys.readouterr().err
