"""One run of a benchmark: when it must end, what it has measured, where that is stored."""
import gc
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from course import results

Job = TypeVar("Job")


class Session:
    """Rows come in by `add`, are stored at once under `folder` beside what earlier runs left there, and are kept.

    Without a folder nothing is stored. `over()` once `budget_s` seconds have passed.
    """

    def __init__(self, what: str, run: dict, folder: Path | None, budget_s: float):
        self.run, self.folder, self.ends = run, folder, time.perf_counter() + budget_s
        stored = results.read(what, folder.name, folder.parent) if folder else results.Results(what)
        self.results = stored
        self.measured = results.Results(what)
        self.errors: dict[tuple, str] = {}

    def left_s(self) -> float:
        return self.ends - time.perf_counter()

    def over(self) -> bool:
        return self.left_s() <= 0

    def in_turn(self, jobs: Sequence[tuple[tuple, Job]]) -> Iterator[tuple[tuple, Job]]:
        """Each of `jobs`, (cell, what to do), until time is up. Frees what one leaves before the next begins."""
        for i, (cell, job) in enumerate(jobs):
            if self.over():
                self.note(f"out of time: {len(jobs) - i} of {len(jobs)} not measured")
                return
            print(f"{OVERWRITE}{i + 1}/{len(jobs)} {in_a_line(cell)}", end="", file=sys.stderr, flush=True)
            yield cell, job
            gc.collect()
            torch.cuda.empty_cache()
        print(OVERWRITE, end="", file=sys.stderr)

    def add(self, rows: list[dict], errors: dict[tuple, str]) -> None:
        """`errors` says by a row's key why it could not be measured; an older figure goes, too."""
        for key, error in errors.items():
            self.note(f"{in_a_line(key)}: {error}")
        self.errors |= errors
        self.measured.add(rows, self.run)
        self.results.add(rows, self.run, failed=errors)
        if self.folder:
            self.results.save(self.folder)

    def note(self, line: str) -> None:
        """A line on stderr, in place of the progress."""
        print(f"{OVERWRITE}{line}", file=sys.stderr, flush=True)


OVERWRITE = "\r\033[K"
"""Takes a terminal back to the start of the line, and clears it."""


def in_a_line(key: tuple) -> str:
    """A cell, or a row's key, in a line."""
    return " ".join(map(str, key))


def said(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def choose(available: Sequence[str], providers: Collection[str], stored: Sequence[dict]) -> list[str]:
    """Those of `available` that `providers` asks for: by name, "all", the "peers", or "best", which is this course and
    the fastest peer among the `stored` rows of the same cell, or all if none is stored."""
    best = results.fastest(stored, lambda name: results.is_peer(name) and name in available)
    wanted = set(providers)
    if "best" in wanted:
        wanted |= {"course", best["provider"]} if best else {"all"}
    if "peers" in wanted:
        wanted |= set(filter(results.is_peer, available))
    return [name for name in available if name in wanted or "all" in wanted]
