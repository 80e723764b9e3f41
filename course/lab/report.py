"""What `check` answers: a few lines of text, or the same with colours in a notebook."""
import dataclasses
import html
import math

import torch

from course.lab.diagnose import Evidence
from course.lab.display import RIGHT, WRONG

GLYPHS = {"right": "·", "wrong": "x", "unwritten": "o", "guard": " ", "trespassed": "!"}
COLOURS = {"right": RIGHT, "wrong": WRONG, "unwritten": "#a9a9b2", "guard": "none", "trespassed": "#8f2bb3"}
WORDS = {
    "right": "right", "wrong": "wrong", "unwritten": "never written",
    "guard": "not the output's", "trespassed": "written, but not the output's",
}  # fmt: skip
PASSED = "#2a9d6f"  # darker than a cell that is right: a word has to be legible
ACROSS, DOWN = 64, 16  # cells of a picture
AROUND = 24  # elements shown at most of the memory before and behind the output, where that was written


@dataclasses.dataclass
class Map:
    """Rows of states, and how many elements a cell stands for: it shows the worst of them."""

    rows: list[list[str]]
    each: str

    @property
    def states(self) -> list[str]:
        return [state for state in GLYPHS if any(state in row for row in self.rows)]

    def __repr__(self):
        key = ", ".join(f"'{GLYPHS[state]}' {WORDS[state]}" for state in self.states if state != "guard")
        return "\n".join("  |" + "".join(GLYPHS[s] for s in row) + "|" for row in self.rows) + f"\n  {key}; {self.each}"

    def _repr_html_(self):
        size = 11
        cells = "".join(
            f'<rect x="{size * x + 1}" y="{size * y + 1}" width="{size - 2}" height="{size - 2}" '
            f'fill="{COLOURS[state]}"'
            + (' stroke="#88888f" stroke-dasharray="2"' if state == "guard" else "") + "/>"
            for y, row in enumerate(self.rows) for x, state in enumerate(row)
        )  # fmt: skip
        width, height = size * max(len(row) for row in self.rows), size * len(self.rows)
        key = " &nbsp; ".join(
            f'<span style="color:{COLOURS[s]}">&#9632;</span> {WORDS[s]}' for s in self.states if s != "guard"
        )
        return (
            f'<svg width="{width}" height="{height}" role="img" aria-label="where the errors lie">{cells}</svg>'
            f'<div style="font-size:85%">{key} &nbsp; ({self.each})</div>'
        )


@dataclasses.dataclass
class CaseResult:
    """How one case went; `problem` is empty where it passed, `fatal` where the others would tell nothing new,
    `astray` where memory was touched that is not the case's own."""

    name: str
    problem: str = ""
    picture: Map | None = None
    means: list[str] = dataclasses.field(default_factory=list)
    fatal: bool = False
    astray: bool = False

    @property
    def passed(self) -> bool:
        return not self.problem


@dataclasses.dataclass
class Report:
    """The answer to `check`. `status` is "passed", "failed" or "unsolved"."""

    exercise: str
    status: str
    headline: str
    cases: list[CaseResult] = dataclasses.field(default_factory=list)
    speed: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def first_failure(self) -> CaseResult | None:
        return next((case for case in self.cases if not case.passed), None)

    def __repr__(self):
        mark = {"passed": "PASSED", "failed": "FAILED", "unsolved": "TO DO"}[self.status]
        lines = [f"{mark}  {self.exercise}: {self.headline}"]
        lines += [f"  {'ok  ' if case.passed else 'FAIL'}  {case.name}" for case in self.cases]
        failure = self.first_failure
        if failure:
            lines += ["", f"{failure.name}: {failure.problem}"]
            lines += [repr(failure.picture)] if failure.picture else []
            lines += [f"Usually: {text}" for text in failure.means]
        return "\n".join([*lines, *self.speed])

    def _repr_html_(self):
        colour = {"passed": PASSED, "failed": WRONG, "unsolved": "#d08a1d"}[self.status]
        mark = {"passed": "&#10003;", "failed": "&#10007;", "unsolved": "&#9998;"}[self.status]
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
            parts += [failure.picture._repr_html_()] if failure.picture else []
            parts += [f"<b>Usually:</b> {html.escape(text)}" for text in failure.means]
        parts += [html.escape(line) for line in self.speed]
        body = "".join(f'<div style="margin:.35em 0">{part}</div>' for part in parts)
        return f'<div style="border-left:4px solid {colour};padding:.1em 0 .1em 1em">{body}</div>'


def code(text: str) -> str:
    """Escaped, with `code` between backquotes."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def picture(e: Evidence) -> Map:
    """Where the errors lie, the memory around the output included where it was written."""
    states = torch.zeros(e.wrong.shape, dtype=torch.int64)  # by how bad: right, unwritten, wrong
    states[e.wrong], states[e.unwritten] = 2, 1
    order = ["right", "unwritten", "wrong", "guard", "trespassed"]
    if states.ndim < 2 or e.trespassed:
        n = states.numel()
        before = max([-i for i in e.trespassed if i < 0], default=0)
        behind = max([i - n + 1 for i in e.trespassed if i >= n], default=0)
        room = tuple(min(extent + 4, AROUND) if extent else 0 for extent in (before, behind))
        line = torch.full((room[0] + n + room[1],), 3)
        line[room[0] : room[0] + n] = states.flatten()
        line[[i + room[0] for i in e.trespassed if -room[0] <= i < 0 or n <= i < n + room[1]]] = 4
        each = math.ceil(line.numel() / (ACROSS * DOWN))
        cells = [int(part.max()) for part in line.split(each)]
        rows = [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)]
        note = f"{each} elements a cell" if each > 1 else "an element a cell"
    else:
        states = states.reshape(-1, states.shape[-1])
        tall, wide = math.ceil(states.shape[0] / DOWN), math.ceil(states.shape[1] / ACROSS)
        rows = [[int(part.max()) for part in band.split(wide, dim=1)] for band in states.split(tall)]
        note = f"{tall} × {wide} elements a cell" if tall * wide > 1 else "an element a cell"
    return Map([[order[state] for state in row] for row in rows], note)
