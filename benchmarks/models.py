"""Times whole models beside the libraries', call by call and as bare CUDA graphs, once their logits are right."""
import functools
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import compiled, memory
from benchmarks.compiled import is_compiled
from benchmarks.contenders import FAMILIES, Contender, Family
from benchmarks.session import Session, choose, in_a_line, said
from course import verify
from course.precision import full_precision
from course.results import Results
from course.timing import time_in_turn

TOLERANCE = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float16}
"""Whose tolerance in course.verify holds: TF32 has as many bits of fraction as float16."""

SECONDS = 2.0
"""For timing one cell."""

COMPILING_S = 120
"""One model, for one batch size: what must be left of a session's time to begin it."""


class Cell(NamedTuple):
    """One row of the table of races."""

    model: str
    dtype: str
    batch: int


CELLS = [
    *(Cell("vit-b16", "bf16", batch) for batch in (1, 256, 64, 8, 16)),
    *(Cell("resnet18", "fp16", batch) for batch in (1, 256, 16, 64, 8)),
    *(Cell("resnet18", "tf32", batch) for batch in (1, 256, 16, 64, 8)),
]
"""What matters most first: a session may end before the last."""

QUICK_CELLS = [Cell("vit-b16", "bf16", 1), Cell("resnet18", "fp16", 1), Cell("resnet18", "fp16", 64)]


def run(
    session: Session, cells: Iterable[Cell], providers: Collection[str], quick: bool = False, made: Path | None = None
) -> None:
    """Measures what the session's time allows; results are stored cell by cell.

    With `quick`, no peer is compiled. `made` is a folder of what `benchmarks.prepare` compiled: who is not in it is
    compiled here, where there is time, and left out where there is not.
    """
    set_up()
    families = {name: FAMILIES[name]() for name in {cell.model for cell in cells}}
    jobs = plan(cells, families, providers, session.results, quick)
    for cell, names in session.in_turn(jobs):
        files = {name: compiled.file_of(made, cell, name) for name in names if made and is_compiled(name)}
        ready = [name for name in names if not is_compiled(name) or name in files and files[name].exists()]
        if session.left_s() < COMPILING_S * (len(names) - len(ready)):
            session.note(f"no time to compile: {in_a_line(cell)} without {', '.join(set(names) - set(ready))}")
            names = ready
        if not names:
            continue
        try:
            for file in filter(Path.exists, files.values()):
                compiled.load(file)
            rows, errors = race(families[cell.model], cell, names)
        except Exception as error:  # the other cells still run
            rows, errors = [], {cell: said(error)}
        session.add(rows, errors)
        torch.compiler.reset()


def set_up() -> None:
    """PyTorch at its best: tensor cores for float32 as well, and the fastest of cuDNN's algorithms."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def plan(
    cells: Iterable[Cell], families: dict[str, Family], providers: Collection[str], stored: Results, quick: bool
) -> list[tuple[Cell, list[str]]]:
    """Who races in each cell. Peers that run without this course need not run side by side: first come those in all
    cells that are not compiled, then the compiled, one by one."""
    jobs, later, rows = [], [], stored.cells()
    for cell in cells:
        available = [name for name in families[cell.model].providers if not (quick and is_compiled(name))]
        names = choose(available, providers, rows.get(cell, []))
        if "course" not in names:
            later += [(cell, [name]) for name in names if is_compiled(name)]
            names = [name for name in names if not is_compiled(name)]
        jobs += [(cell, names)] * bool(names)
    return jobs + later


@torch.inference_mode()
def race(family: Family, cell: Cell, names: Iterable[str]) -> tuple[list[dict], dict[tuple, str]]:
    """(a row for each provider and mode, what went wrong for the others by the row's key)."""
    images = family.images(cell.batch, cell.dtype, "cuda")
    with full_precision():
        exact = family.reference(images)
    runs, errors = {}, {}
    contenders, peaks = enter(family, cell, names, images, errors)
    for name, contender in contenders.items():
        for mode, prepare in (("eager", as_called), ("graph", as_graph)):
            try:
                start, logits = prepare(contender, images)
                wrong = problem(logits, exact, cell.dtype)
            except Exception as error:
                wrong = said(error)
            if wrong:
                errors[*cell, name, mode] = wrong
            else:
                runs[name, mode] = start
    timings = time_in_turn(runs, rounds=100, budget_s=SECONDS)
    rows = [
        {**cell._asdict(), "provider": name, "mode": mode, "median_ms": t.median, "q20_ms": t.q20, "q80_ms": t.q80,
         "peak_mib": peaks[name]} for (name, mode), t in timings.items()
    ]
    return rows, errors


def enter(
    family: Family, cell: Cell, names: Iterable[str], images: torch.Tensor, errors: dict[tuple, str]
) -> tuple[dict[str, Contender], dict[str, float]]:
    """(each provider with its weights on the GPU, the MiB it takes); in `errors`, why the others could not enter."""
    contenders, peaks = {}, {}
    for name in names:
        make = functools.partial(family.contender, name, cell.dtype, images.device)
        try:
            # what is compiled would have to be compiled twice
            peaks[name] = math.nan if is_compiled(name) else memory.taken(make, lambda it: it.call(images))
            contenders[name] = make()
        except Exception as error:  # not installed, out of memory: the others still run
            errors |= {(*cell, name, mode): said(error) for mode in ("eager", "graph")}
    return contenders, peaks


def as_called(contender: Contender, images: torch.Tensor):
    """(what to time, its logits)"""
    return lambda: contender.call(images), contender.call(images)


def as_graph(contender: Contender, images: torch.Tensor):
    captured = contender.capture(images)
    captured.outputs[0].fill_(float("nan"))
    captured.replay()
    return captured.replay, captured.outputs[0]


def problem(logits: torch.Tensor, exact: torch.Tensor, dtype: str) -> str | None:
    error = verify.layer_error("logits", exact, logits)
    if error.within(TOLERANCE[dtype]):
        return None
    return f"wrong result: relative error {error.relative:.2g}, cosine {error.cosine:.6f}"
