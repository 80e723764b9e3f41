"""What a call costs: the CPU's time for an operation on small tensors, and a user's time for a model called plainly.

An operation is called a hundred times in a row, and nothing waits for its results. A model is called with one image, on
an idle GPU, and the time ends with its logits. Both without gradients and without a graph.
"""
import functools
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import torch

from benchmarks import kernels, models
from benchmarks.cases import Case, layer_norm, pointwise, pool, softmax
from benchmarks.contenders import FAMILIES
from benchmarks.products import attention, conv2d, linear, matmul
from benchmarks.session import Session, choose, said
from course import nn
from course.precision import full_precision
from course.runtime import DEVICE
from course.timing import Timing, summary, time_in_turn, turn

CALLS = 100
"""In a row. The GPU may be behind by as many, for which there is room."""


class Model(NamedTuple):
    """One of FAMILIES, called with one image."""

    name: str
    dtype: str

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.name, "1 image", self.dtype


class Race(NamedTuple):
    """Who competes, as functions of nothing; `problem` says what is wrong with a result, or None."""

    functions: dict[str, Callable[[], torch.Tensor]]
    problem: Callable[[torch.Tensor], str | None]
    time: Callable[[dict[str, Callable]], dict[str, Timing]]


CASES = [
    pointwise("add", 1024, "fp16"), pointwise("relu", 1024, "fp16"), softmax(16, 1024, "fp16"),
    layer_norm(16, 768, "fp16"), pool("max_pool2d", 1, (64, 14, 14), "fp16"), matmul(256),
    linear(16, 768, 768), linear(197, 768, 768), conv2d(1, (64, 64, 3, 1, 14)), conv2d(1, (64, 64, 3, 1, 56)),
    attention(1, 197), Model("resnet18", "fp16"), Model("vit-b16", "bf16"),
]
"""Operations so small that the CPU takes longer than the GPU, and the models that are made of them."""


def run(session: Session, cases: Iterable[Case | Model], providers: Collection[str]) -> None:
    """Measures what the session's time allows; results are stored case by case."""
    models.set_up()
    for _, case in session.in_turn([(case.cell, case) for case in cases]):
        session.add(*measured(case, providers))


@torch.no_grad()
def measured(case: Case | Model, providers: Collection[str]) -> tuple[list[dict], dict[tuple, str]]:
    """(a row for each competitor, what went wrong for the others by the row's key)."""
    race = of_model(case) if isinstance(case, Model) else of_operation(case)
    functions, errors = {}, {}
    for name in choose(list(race.functions), providers, []):
        try:
            wrong = race.problem(race.functions[name]())
        except Exception as error:  # the others still run
            wrong = said(error)
        if wrong:
            errors[*case.cell, name] = wrong
        else:
            functions[name] = race.functions[name]
    columns = dict(zip(("kernel", "shape", "dtype"), case.cell))
    rows = [{**columns, "provider": name, "median_ms": t.median, "q20_ms": t.q20, "q80_ms": t.q80}
            for name, t in race.time(functions).items()]
    return rows, errors


def of_operation(case: Case) -> Race:
    """Ours and the case's first peer, on the same tensors."""
    args = case.inputs()
    with full_precision():
        exact = case.exact(*args)
    peer = next(iter(case.peers))
    functions = {"course": functools.partial(case.ours, *args), peer: functools.partial(case.peers[peer], *args)}
    return Race(functions, lambda result: kernels.problem(result, exact, kernels.UNIT[case.dtype]), time_of_the_cpu)


def of_model(case: Model) -> Race:
    """The library's model, the same one with its layers replaced, and this course's model."""
    family = FAMILIES[case.name]()
    images = family.images(1, case.dtype, DEVICE)
    with full_precision():
        exact = family.reference(images)
    peer = list(family.peers)[-1]  # timm, torchvision
    theirs, plain = (family.contender(name, case.dtype, DEVICE).call for name in (peer, "course-plain"))
    replaced = family.contender(peer, case.dtype, DEVICE).call
    nn.replace_layers(replaced)
    every = {"course": replaced, "course-plain": plain, peer: theirs}
    functions = {name: functools.partial(call, images) for name, call in every.items()}
    return Race(functions, lambda logits: models.problem(logits, exact, case.dtype),
                functools.partial(time_in_turn, rounds=100))


def time_of_the_cpu(functions: dict[str, Callable], rounds: int = 30) -> dict[str, Timing]:
    """Milliseconds that the CPU takes for a call, of CALLS in a row behind an idle GPU."""
    samples = {name: [] for name in functions}
    with turn():
        for _ in range(rounds):
            for name, function in functions.items():
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for _ in range(CALLS):
                    function()
                samples[name].append(1e3 * (time.perf_counter() - begin) / CALLS)
        torch.cuda.synchronize()
    return {name: summary(ms) for name, ms in samples.items()}
