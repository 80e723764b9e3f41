"""Seconds to a model's first logits where nothing is stored: python -m benchmarks startup

Each provider starts in a process of its own with empty caches, of this course's choices, of Triton and of Inductor, and
without the choices that come with the repository. The clock runs from a loaded model on the GPU until its first logits
are there: kernels are compiled and chosen meanwhile. Then the same call is timed as a CUDA graph.

    course           the first call of `course.optimize`'s callable, or of a model whose layers were replaced
    course-next      after it, the first call with another batch size
    course-tuned     after both, `course.tune`; the graphs before and after it are timed in turn
    torch            the library's model, called as it is
    torch-compile, torch-max-autotune    and through torch.compile
"""
import functools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

import course
from benchmarks.contenders import DTYPES, FAMILIES, capture, fast_graph
from benchmarks.session import Session, choose
from course import nn, tuning
from course.graphs import Captured
from course.results import ROOT
from course.runtime import DEVICE
from course.timing import Timing, time_in_turn

STEPS = {
    "course": ("course", "course-next", "course-tuned"), "torch": ("torch",), "torch-compile": ("torch-compile",),
    "torch-max-autotune": ("torch-max-autotune",),
}
"""Who starts in a new process, and the rows that come of it, in this order."""

MODES = {"torch-compile": "default", "torch-max-autotune": "max-autotune-no-cudagraphs"}

TITLES = {
    "resnet18": "ResNet-18", "vit-b16": "ViT-B/16", "resnet50": "ResNet-50 of torchvision, layers replaced",
}

IMAGE = (3, 224, 224)

NEXT = {1: 8, 16: 32, 32: 64}
"""The batch size that comes second."""


class Cell(NamedTuple):
    """One model and its first batch size."""

    model: str
    dtype: str
    batch: int

    @property
    def images(self) -> torch.Tensor:
        return torch.randn(self.batch, *IMAGE, device=DEVICE, dtype=DTYPES[self.dtype])


CELLS = [
    Cell("resnet18", "fp16", 1), Cell("resnet18", "fp16", 32), Cell("vit-b16", "bf16", 1), Cell("resnet50", "fp16", 16),
]


class Subject(NamedTuple):
    """A model on the GPU that was never called."""

    model: torch.nn.Module
    prepare: Callable[[torch.nn.Module], Callable[[torch.Tensor], torch.Tensor]]
    """What a user makes of it, and calls."""
    graph: Callable[[Callable, torch.Tensor], Captured]
    """Such a call, not the first, as a bare CUDA graph."""


class Clock(NamedTuple):
    """What something took."""

    seconds: float
    cpu_s: float
    """Of this process, and of compilers that it started and that have ended."""


def run(session: Session, cells: Iterable[Cell], providers: Collection[str]) -> None:
    """Measures what the session's time allows; results are stored process by process."""
    jobs = [(cell, name) for cell in cells for name in choose(list(STEPS), providers, [])]
    for cell, name in session.in_turn(jobs):
        session.add(*in_a_new_process(cell, name, session.left_s()))


def in_a_new_process(cell: Cell, provider: str, limit_s: float) -> tuple[list[dict], dict[tuple, str]]:
    """(the rows that `main` prints where every cache is empty, why the next one is missing by its key)."""
    command = [sys.executable, "-m", "benchmarks.startup", *map(str, cell), provider]
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: f"{folder}/{name}" for name in ("COURSE_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
        limit = limit_s if math.isfinite(limit_s) else None
        try:
            done = subprocess.run(command, env=os.environ | caches, cwd=ROOT, capture_output=True, timeout=limit)
            out, said = done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            out, said = late.stdout or b"", b"out of time"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    missing = [step for step in STEPS[provider] if step not in {row["provider"] for row in rows}]
    text = said.decode(errors="replace").strip()
    why = re.findall(r"^[\w.]+Error\b.*", text, re.MULTILINE) or text.splitlines() or ["no word of it"]
    return rows, {(*after(cell, step), step): why[-1] for step in missing[:1]}


def after(cell: Cell, step: str) -> Cell:
    """The cell that a step is measured in."""
    return cell._replace(batch=NEXT[cell.batch]) if step == "course-next" else cell


def main(model: str, dtype: str, batch: str, provider: str) -> None:
    """Prints a provider's rows, one JSON object a line. A step that is timed again is printed again."""
    tuning.TUNED = Path(os.environ["COURSE_CACHE"]) / "none"  # as for a GPU of which the repository stores nothing
    with torch.no_grad():
        for row in rows(Cell(model, dtype, int(batch)), provider):
            print(json.dumps(row), flush=True)


def rows(cell: Cell, provider: str) -> Iterator[dict]:
    subject, images = loaded(cell, provider), cell.images
    call, first = clocked(lambda: called(subject, images))
    graph = subject.graph(call, images)
    if provider in MODES:
        first = first._replace(cpu_s=math.nan)  # Inductor's compilers live on, and are counted when they end
    yield row(cell, provider, first, timed(graph)[0])
    if provider != "course":
        return

    other = after(cell, "course-next")
    more = other.images
    _, clock = clocked(lambda: call(more))
    yield row(other, "course-next", clock, timed(subject.graph(call, more))[0])

    _, clock = clocked(lambda: course.tune(subject.model, images))
    untuned, tuned = timed(graph, subject.graph(called(subject, images), images))
    yield row(cell, "course", first, untuned)
    yield row(cell, "course-tuned", clock, tuned)


def loaded(cell: Cell, provider: str) -> Subject:
    if provider == "course" and cell.model in FAMILIES:
        model, prepare, graph = FAMILIES[cell.model]().course_model(nn), course.optimize, fast_graph
    else:
        model, prepare, graph = library_model(cell.model), as_it_is, capture
        if provider == "course":
            nn.replace_layers(model)
        else:
            model = model.to(memory_format=torch.channels_last)
        if provider in MODES:
            prepare = functools.partial(torch.compile, mode=MODES[provider])
    return Subject(model.to(device=DEVICE, dtype=DTYPES[cell.dtype]), prepare, graph)


def library_model(name: str) -> torch.nn.Module:
    """timm's ViT, torchvision's ResNets."""
    if name in FAMILIES:
        return list(FAMILIES[name]().peers.values())[-1]()
    import torchvision

    return getattr(torchvision.models, name)().eval()


def as_it_is(model: torch.nn.Module) -> torch.nn.Module:
    return model


def called(subject: Subject, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    call = subject.prepare(subject.model)
    call(images)
    return call


def clocked(work: Callable[[], object]) -> tuple[object, Clock]:
    """(what work() returns, what it took until the GPU was done)."""
    synchronize()
    begin, before = time.perf_counter(), os.times()
    result = work()
    synchronize()
    return result, Clock(time.perf_counter() - begin, sum(os.times()[:4]) - sum(before[:4]))


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(*graphs: Captured) -> list[Timing]:
    return list(time_in_turn({str(i): graph.replay for i, graph in enumerate(graphs)}, rounds=100).values())


def row(cell: Cell, provider: str, clock: Clock, ms: Timing) -> dict:
    times = {"median_ms": ms.median, "q20_ms": ms.q20, "q80_ms": ms.q80}
    return {**cell._asdict(), "provider": provider, **clock._asdict(), **times}


if __name__ == "__main__":
    main(*sys.argv[1:])
