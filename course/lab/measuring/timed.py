"""`timed`: bars of a few times that a notebook measured on a GPU."""
from collections.abc import Callable, Mapping

from course.lab.measuring.stored import show
from course.lab.pictures.drawing import bars, caption, style_axes
from course.lab.pictures.markdown import Markdown
from course.lab.pictures.palette import INK
from course.lab.pictures.picture import WIDTH, Picture
from course.results import circumstances, described


def timed(name: str, work: Callable[[], Mapping[str, float]], log: bool = False) -> Picture | Markdown:
    """Draws what `work` returns, microseconds by label, as bars; `log` for times that lie far apart.

    `work` runs on a GPU only. Without one, the times stored under `name` in benchmarks/results are drawn;
    COURSE_STORE=1 in the environment stores new ones.
    """

    def measure():
        return {**circumstances(), "log": log, "microseconds": {label: float(us) for label, us in work().items()}}

    return show(name, measure, draw_times)


def draw_times(result: dict, origin: str) -> Picture:
    times = result["microseconds"]
    source = f"{origin} {described(result)}."
    height = 1.05 + 0.36 * len(times)
    figure = Picture(WIDTH, height, "\n".join([*(f"{label}: {readable(us)}" for label, us in times.items()), source]))
    left = 0.03 + 0.0088 * max(map(len, times))
    axes = figure.add_axes((left, 0.82 / height, 0.9 - left, 1 - 0.92 / height))
    bars(axes, times)
    for i, us in enumerate(times.values()):
        axes.annotate(readable(us), (us, i), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    if result["log"]:
        axes.set_xscale("log")
        axes.set_xlim(min(times.values()) / 3, max(times.values()) * 1.5)
    axes.set_xlabel("microseconds" + ", logarithmic" * result["log"], fontsize=9)
    style_axes(axes)
    caption(figure, source)
    return figure


def readable(us: float) -> str:
    """Three digits, in s, ms or µs."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{us / size:.3g} {unit}"
    return f"{us:.3g} µs"
