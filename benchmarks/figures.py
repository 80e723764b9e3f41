"""Measured figures in prose, each beside where it comes from, in a comment that readers do not see:

    An H200 copies 4,282<!-- = hardware.copy_gbps --> GB/s.

What stands after the = is a Python expression on the stored results. `problems` tells where its value is not the
figure, to the digits that are written; `python -m benchmarks posts` writes the value in.
"""
import json
import re
from statistics import geometric_mean
from types import SimpleNamespace

from course.results import KEY, RESULTS, read

GPU = "nvidia-h200"

FIGURE = re.compile(r"(?P<figure>\d[\d,]*(?:\.\d+)?)(?P<comment><!-- (?P<kind>=|source:) *(?P<source>.*?) -->)")
MEASURED = re.compile(r"\d[\d,.]*(?:\s| )*(?:[GTM]B/s|[GT]FLOP/s|[mµn]s\b|(?:milli|micro|nano)seconds?\b)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]")  # a picture's words are those of the code that draws it


def names() -> dict:
    """What an expression may refer to, besides numbers; each lookup raises LookupError where nothing is stored."""

    def row(what, found, wanted):
        if len(found) != 1:
            raise LookupError(f"{what}: {len(found)} rows are stored for {', '.join(map(str, wanted))}")
        return SimpleNamespace(**found[0])

    def table(what):
        rows, columns = read(what, GPU).rows, KEY[what]
        return lambda *wanted: row(what, [r for r in rows if tuple(r[c] for c in columns) == wanted], wanted)

    def notebook(name, size, provider):
        rows = json.loads((RESULTS / GPU / "notebooks" / f"{name}.json").read_text())["rows"]
        return row(name, [r for r in rows if (r["size"], r["provider"]) == (size, provider)], (size, provider))

    def ratios(what, name, *first):
        """Best peer's time / ours of the cells with this kernel or model whose next columns begin so."""
        races = read(f"{what}s", GPU).races()
        found = [race for cell, race in races.items() if cell[0] == name and begins(cell[1:], first)]
        return [race.ratio for race in found]

    def begins(cell, first):
        pairs = zip(cell, first)
        return all(got.startswith(wanted) if isinstance(got, str) else got == wanted for got, wanted in pairs)

    return {
        "ratios": ratios, "geometric_mean": geometric_mean,
        "hardware": SimpleNamespace(**json.loads((RESULTS / GPU / "hardware.json").read_text())),
        "kernel": table("kernels"), "model": table("models"), "startup": table("startup"), "call": table("calls"),
        "notebook": notebook,
        **{f.__name__: f for f in (min, max, sum, round)},
    }


def value(expression: str) -> float:
    """What `expression` comes to on the stored results. Raises whatever is wrong with it."""
    return eval(expression, {"__builtins__": {}}, names())


def as_written(number: float, figure: str) -> str:
    """`number` with as many decimals as `figure`, its thousands set apart."""
    decimals = len(figure.partition(".")[2])
    return f"{number:,.{decimals}f}"


def problems(text: str) -> list[str]:
    """Figures in markdown that are not what their expression says, and expressions that say nothing."""
    found = []
    for match in FIGURE.finditer(CODE.sub("", text)):
        figure, source = match["figure"], match["source"]
        if match["kind"] == "source:":
            continue
        try:
            now = as_written(value(source), figure)
        except Exception as error:
            found.append(f"{figure}: {source}: {type(error).__name__}: {error}")
            continue
        if now.replace(",", "") != figure.replace(",", ""):
            found.append(f"{figure} is now {now}: {source}")
    return found


def unsourced(text: str) -> list[str]:
    """Times and rates in markdown that do not say where they come from."""
    return [" ".join(found.split()) for found in MEASURED.findall(PICTURE.sub("", CODE.sub("", text)))]


def refreshed(text: str) -> str:
    """The same markdown with the figures that are stored now."""

    def write(match):
        if match["kind"] == "source:":
            return match[0]
        return as_written(value(match["source"]), match["figure"]) + match["comment"]

    parts = re.split(f"({CODE.pattern})", text, flags=re.DOTALL)
    return "".join(part if i % 2 else FIGURE.sub(write, part) for i, part in enumerate(parts))
