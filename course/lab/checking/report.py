"""What `check` answers: a few lines of text, or the same with colours in a notebook."""
import dataclasses
import html
import math
from typing import NamedTuple

import torch

from course.lab.checking.diagnose import Evidence
from course.lab.checking.usage import Used
from course.lab.pictures.palette import RIGHT, WRONG

class State(NamedTuple):
    """What may have become of an element, as it is shown."""

    glyph: str
    colour: str
    words: str


STATES = {
    "right": State("·", RIGHT, "right"),
    "unwritten": State("o", "#a9a9b2", "never written"),
    "wrong": State("x", WRONG, "wrong"),
    "guard": State(" ", "none", "not the output's"),
    "guard written": State("!", "#8f2bb3", "written, but not the output's"),
}
"""From the best to the worst: a cell that stands for several elements shows the worst of them."""

PASSED = "#2a9d6f"  # darker than a cell that is right: a word has to be legible
TO_DO = "#d08a1d"
ACROSS, DOWN = 64, 16  # cells of a map
AROUND = 24  # elements shown at most of the memory before and behind the output, where that was written


@dataclasses.dataclass
class ErrorMap:
    """Rows of states, and in words how many elements a cell stands for."""

    rows: list[list[str]]
    each: str

    @property
    def key(self) -> list[State]:
        """The states to explain: those that are shown, without the guard elements that were left alone."""
        shown = {state for row in self.rows for state in row} - {"guard"}
        return [STATES[state] for state in sorted(shown, key=[*STATES].index)]

    def __repr__(self):
        key = ", ".join(f"'{state.glyph}' {state.words}" for state in self.key)
        lines = ["  |" + "".join(STATES[state].glyph for state in row) + "|" for row in self.rows]
        return "\n".join([*lines, f"  {key}; {self.each}"])

    def _repr_html_(self):
        size = 11
        cells = "".join(
            f'<rect x="{size * x + 1}" y="{size * y + 1}" width="{size - 2}" height="{size - 2}" '
            f'fill="{STATES[state].colour}"'
            + (' stroke="#88888f" stroke-dasharray="2"' if state == "guard" else "") + "/>"
            for y, row in enumerate(self.rows) for x, state in enumerate(row)
        )
        width, height = size * max(len(row) for row in self.rows), size * len(self.rows)
        key = " &nbsp; ".join(f'<span style="color:{s.colour}">&#9632;</span> {s.words}' for s in self.key)
        return (
            f'<svg width="{width}" height="{height}" role="img" aria-label="where the errors lie">{cells}</svg>'
            f'<div style="font-size:85%">{key} &nbsp; ({self.each})</div>'
        )


@dataclasses.dataclass
class CaseResult:
    """The result of one case. `problem` is empty where it passed; `fatal` where the cases after it need not be run;
    `memory_fault` where memory outside of the tensors was accessed, or two programs raced; `incomplete` where elements
    of the output were not written. `used` is what the interpreter saw, if it came to an end."""

    name: str
    problem: str = ""
    errors: ErrorMap | None = None
    means: list[str] = dataclasses.field(default_factory=list)
    fatal: bool = False
    memory_fault: bool = False
    incomplete: bool = False
    used: Used | None = None

    @property
    def passed(self) -> bool:
        return not self.problem

    @property
    def whole(self) -> bool:
        """Whether all programs were interpreted, for tensors of more than one element."""
        kernels = self.used and self.used.kernels
        return bool(kernels and kernels.complete and max(g.tensor.numel() for g in [*kernels.inputs, kernels.out]) > 1)


@dataclasses.dataclass
class Report:
    """The answer to `check`. `status` is "passed", "failed", "unsolved", or "almost": right, but not as it was asked.
    `notes` are lines below the cases; `speed` says whether the kernel was timed."""

    exercise: str
    status: str
    headline: str
    cases: list[CaseResult] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    speed: bool = False

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def first_failure(self) -> CaseResult | None:
        return next((case for case in self.cases if not case.passed), None)

    def __repr__(self):
        mark = {"passed": "PASSED", "failed": "FAILED", "unsolved": "TO DO", "almost": "ALMOST"}[self.status]
        lines = [f"{mark}  {self.exercise}: {self.headline}"]
        lines += [f"  {'ok  ' if case.passed else 'FAIL'}  {case.name}" for case in self.cases]
        failure = self.first_failure
        if failure:
            lines += ["", f"{failure.name}: {failure.problem}"]
            lines += [repr(failure.errors)] if failure.errors else []
            lines += [f"Usually: {text}" for text in failure.means]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self):
        colour = {"passed": PASSED, "failed": WRONG, "unsolved": TO_DO, "almost": TO_DO}[self.status]
        mark = {"passed": "&#10003;", "failed": "&#10007;", "unsolved": "&#9998;", "almost": "&#8776;"}[self.status]
        parts = [f'<b style="color:{colour}">{mark} {code(self.exercise)}</b> &nbsp; {code(self.headline)}']
        if self.cases:
            marks = {
                True: f'<span style="color:{PASSED}">&#10003;</span>',
                False: f'<span style="color:{WRONG}">&#10007;</span>',
            }
            parts.append(" &nbsp; ".join(f"{marks[case.passed]} {html.escape(case.name)}" for case in self.cases))
        failure = self.first_failure
        if failure:
            problem = f'<span style="white-space:pre-wrap">{html.escape(failure.problem)}</span>'
            parts.append(f"<b>{html.escape(failure.name)}:</b> {problem}")
            parts += [failure.errors._repr_html_()] if failure.errors else []
            parts += [f"<b>Usually:</b> {html.escape(text)}" for text in failure.means]
        parts += [html.escape(line) for line in self.notes]
        body = "".join(f'<div style="margin:.35em 0">{part}</div>' for part in parts)
        return f'<div style="border-left:4px solid {colour};padding:.1em 0 .1em 1em">{body}</div>'


def code(text: str) -> str:
    """Escaped, with `code` between backquotes."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def error_map(e: Evidence) -> ErrorMap:
    """Where the errors lie, the memory around the output included where it was written."""
    right, unwritten, wrong, guard, guard_written = range(len(STATES))
    states = torch.full(e.wrong.shape, right)
    states[e.wrong], states[e.unwritten] = wrong, unwritten
    if states.ndim < 2 or e.guard_writes:
        n = states.numel()
        before = max([-i for i in e.guard_writes if i < 0], default=0)
        behind = max([i - n + 1 for i in e.guard_writes if i >= n], default=0)
        room = tuple(min(extent + 4, AROUND) if extent else 0 for extent in (before, behind))
        line = torch.full((room[0] + n + room[1],), guard)
        line[room[0] : room[0] + n] = states.flatten()
        shown = [i for i in e.guard_writes if -room[0] <= i < 0 or n <= i < n + room[1]]
        line[[i + room[0] for i in shown]] = guard_written
        each = math.ceil(line.numel() / (ACROSS * DOWN))
        cells = [int(part.max()) for part in line.split(each)]
        rows = [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)]
        note = f"{each} elements a cell" if each > 1 else "an element a cell"
    else:
        states = states.reshape(-1, states.shape[-1])
        tall, wide = math.ceil(states.shape[0] / DOWN), math.ceil(states.shape[1] / ACROSS)
        rows = [[int(part.max()) for part in band.split(wide, dim=1)] for band in states.split(tall)]
        note = f"{tall} × {wide} elements a cell" if tall * wide > 1 else "an element a cell"
    by_number = [*STATES]
    return ErrorMap([[by_number[state] for state in row] for row in rows], note)
