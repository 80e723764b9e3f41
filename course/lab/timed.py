"""`timed`: a few times next to each other, of whatever a notebook measures on a GPU."""
from collections.abc import Callable, Mapping

from course.lab.display import INK, WIDTH, Markdown, Picture
from course.lab.drawing import bars, caption, finish
from course.lab.stored import show
from course.results import circumstances, described


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
    axes = figure.add_axes((left, 0.82 / height, 0.9 - left, 1 - 0.92 / height))
    bars(axes, times)
    for i, us in enumerate(times.values()):
        axes.annotate(said(us), (us, i), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    if result["log"]:
        axes.set_xscale("log")
        axes.set_xlim(min(times.values()) / 3, max(times.values()) * 1.5)
    axes.set_xlabel("microseconds" + ", logarithmic" * result["log"], fontsize=9)
    finish(axes)
    caption(figure, source)
    return figure


def said(us: float) -> str:
    """Three digits, in the unit that suits."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{us / size:.3g} {unit}"
    return f"{us:.3g} µs"
