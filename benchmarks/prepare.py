"""Compiles the peers of the models' benchmark ahead of the races, several at once.

    python -m benchmarks prepare FOLDER --budget 540      # what is not in FOLDER yet
    python -m benchmarks models --compiled FOLDER         # on this machine or another of its kind
"""
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import compiled, models
from benchmarks.contenders import FAMILIES
from benchmarks.models import COMPILING_S, Cell
from benchmarks.session import choose, in_a_line
from course.results import ROOT

AT_ONCE = 4
"""Processes a GPU: compiling is the CPU's work, and one after the other they measure what they compiled."""

Job = tuple[Cell, str]
"""A cell, and which of its providers to compile."""


def jobs(cells: Iterable[Cell], providers: Collection[str], folder: Path) -> list[Job]:
    """What is to be compiled, and is not in `folder` yet."""
    families = {name: family() for name, family in FAMILIES.items()}
    wanted = [(cell, name) for cell in cells for name in choose(families[cell.model].providers, providers, [])]
    return [job for job in wanted if compiled.is_compiled(job[1]) and not compiled.file_of(folder, *job).exists()]


def run(jobs: Sequence[Job], folder: Path, at_once: int | None = None, budget_s: float = float("inf")) -> int:
    """Does `jobs`, each in a process of its own, and prints a line for each; 1 if one failed or was not begun.

    `at_once` processes run together, by default AT_ONCE a GPU, and share the GPUs and the cores. Those still at it when
    the budget is spent are ended.
    """
    ends = time.perf_counter() + budget_s
    gpus = visible_gpus()
    at_once = at_once or AT_ONCE * len(gpus)
    waiting, running, failed = list(jobs), {}, False
    while True:
        while waiting and len(running) < at_once and ends - time.perf_counter() > COMPILING_S:
            busy = [gpu for gpu, _, _ in running.values()]
            gpu = min(gpus, key=busy.count)
            job = waiting.pop(0)
            running[job] = gpu, time.perf_counter(), start(job, folder, gpu, at_once)
        if not running:
            break
        for job in ended({job: process for job, (*_, process) in running.items()}, ends):
            _, began, process = running.pop(job)
            said = f"failed with {process.returncode}" if process.returncode else "compiled"
            print(f"{in_a_line((*job[0], job[1]))}: {said}, {time.perf_counter() - began:.0f} s", flush=True)
            failed |= bool(process.returncode)
    for cell, provider in waiting:
        print(f"{in_a_line((*cell, provider))}: no time, not begun", flush=True)
    return 1 if failed or waiting else 0


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def start(job: Job, folder: Path, gpu: str, at_once: int) -> subprocess.Popen:
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    environment = {"CUDA_VISIBLE_DEVICES": gpu, "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.prepare", *map(str, job[0]), job[1], str(folder.absolute())]
    return subprocess.Popen(command, env=os.environ | environment, cwd=ROOT)


def ended(processes: dict[Job, subprocess.Popen], ends: float) -> Iterator[Job]:
    """Those that have ended, once one has; all of them, once it is later than `ends`."""
    while all(process.poll() is None for process in processes.values()):
        if time.perf_counter() > ends:
            for process in processes.values():
                process.terminate()
                process.wait()
        time.sleep(0.1)
    return (job for job, process in processes.items() if process.returncode is not None)


def main(model: str, dtype: str, batch: str, provider: str, folder: str) -> int:
    """One job, in this process, which has compiled nothing before. What it compiles is checked and timed as in a race,
    so that a race asks torch.compile for the same."""
    cell = Cell(model, dtype, int(batch))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:  # of two in one folder each loses choices
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = caches
        compiled.without_binaries()
        compiled.measured_in_turn()
        models.set_up()
        rows, errors = models.race(FAMILIES[model](), cell, [provider])
        for row in rows:
            print(in_a_line((*cell, provider, row["mode"])), f"{row['median_ms']:.4g} ms", flush=True)
        for key, error in errors.items():
            print(f"{in_a_line(key)}: {error}", flush=True)
        if not errors:
            compiled.save(compiled.file_of(Path(folder), cell, provider))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
