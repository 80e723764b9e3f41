"""Thorough measurements for one model, ahead of its use: `course.tune`.

A first call measures the few configurations of each kernel that are predicted to be the fastest. Here each kernel is
measured in many, once, for a model and a shape of input. All of them are compiled first, as many at a time as there are
cores, and then measured one after the other; the fastest is stored on this machine, and used from then on by every
process. For a problem that the maintainers have measured on this GPU nothing is measured.
"""
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from tqdm import tqdm

from course.compiling import Collecting
from course.fast.optimize import PLANS, Fast, optimize
from course.runtime import INTERPRET
from course.tuning import Session


class Tuned(NamedTuple):
    """What was measured, and what that took."""

    problems: int
    configurations: int
    kernels: int
    """that were compiled"""
    seconds: float
    cpu_seconds: float
    """of this process and of the assemblers that it started"""


def tune(
    model: Callable[[torch.Tensor], object], example: torch.Tensor, dtype: torch.dtype | None = None
) -> Tuned:
    """Measures what `model` launches for inputs like `example`, and stores the fastest configurations.

    A ViT or ResNet of this course is measured as `optimize` runs it, in `dtype` (by default the model's). Anything
    else, such as a model after `replace_layers`, is called as it is, twice, without gradients; and what `optimize` made
    is measured as it runs, and captures its graphs anew. A bar on stderr shows how far it is. Raises ValueError where
    there is no GPU, and on a `dtype` for a model that is called as it is.
    """
    if INTERPRET:
        raise ValueError("tune: expected a GPU, got the interpreter, in which nothing is worth a measurement")
    begin, cpu = time.perf_counter(), cpu_seconds()
    if type(model) in PLANS:
        model = optimize(model, dtype)
    elif dtype is not None:
        raise ValueError(f"tune: expected dtype with a ViT or ResNet of this course, got {type(model).__name__}")
    call = model.without_graph if isinstance(model, Fast) else model
    with Session() as session, torch.no_grad():
        with Collecting() as collected:
            call(example)
        kernels, configurations = len(collected.kernels), sum(session.planned.values())
        with tqdm(total=kernels + configurations, desc="tuning", unit="", leave=False, disable=None) as bar:
            session.advance = bar.update
            collected.compile(bar.update)
            call(example)
        torch.cuda.synchronize()
    if isinstance(model, Fast):
        model.graphs.clear()
    return Tuned(len(session.measured), configurations, kernels, time.perf_counter() - begin, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    return sum(os.times()[:4])
