"""`timed`: a few times next to each other, of whatever a notebook measures on a GPU."""
from collections.abc import Callable, Mapping

from course.lab.display import CARD, COLOURS, INK, Markdown, Picture
from course.lab.stored import caption, show
from course.results import circumstances, described

WIDTH = 9.0  # inches: what a notebook shows without scaling


def timed(name: str, work: Callable[[], Mapping[str, float]], log: bool = False) -> Picture | Markdown:
    """Draws what `work` returns, microseconds by label, as bars; `log` for times that lie far apart.

    `work` runs on a GPU only. Without one, the times stored under `name` in benchmarks/results are drawn;
    COURSE_STORE=1 in the environment stores new ones.
    """

    def measure():
        return {**circumstances(), "log": log, "microseconds": {label: float(us) for label, us in work().items()}}

    return show(name, measure, draw)


def draw(result: dict, origin: str) -> Picture:
    times = result["microseconds"]
    source = f"{origin} {described(result)}."
    height = 1.05 + 0.36 * len(times)
    figure = Picture(WIDTH, height, "\n".join([*(f"{label}: {said(us)}" for label, us in times.items()), source]))
    left = 0.03 + 0.0088 * max(map(len, times))
    axes = figure.add_axes((left, 0.82 / height, 0.9 - left, 1 - 0.92 / height), facecolor=CARD)
    for i, us in enumerate(times.values()):
        axes.barh(i, us, color=COLOURS[i % len(COLOURS)], edgecolor=INK, linewidth=0.6)
        axes.annotate(said(us), (us, i), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(times)), times)
    axes.invert_yaxis()
    if result["log"]:
        axes.set_xscale("log")
        axes.set_xlim(min(times.values()) / 3, max(times.values()) * 1.5)
    axes.set_xlabel("microseconds" + ", logarithmic" * result["log"], color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    caption(figure, source)
    return figure


def said(us: float) -> str:
    """Three digits, in the unit that suits."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{us / size:.3g} {unit}"
    return f"{us:.3g} µs"
