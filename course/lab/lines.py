"""`plot_lines`: numbers that a notebook computed, as curves."""
from collections.abc import Mapping, Sequence

from course.lab.display import CARD, COLOURS, INK, Picture

WIDTH, HEIGHT = 9.0, 3.6  # inches: what a notebook shows without scaling
MARKERS = "osD^vP*X"


def plot_lines(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, across: str, up: str, log: str = "", marks: bool = True
) -> Picture:
    """One curve an entry of `lines`, over `x`. `across` and `up` name the axes; `log` lists the logarithmic ones.

    A value that is not finite leaves a gap. `log` is one of "", "x", "y", "xy"; without `marks` the points are not
    marked, as suits a curve of many. Raises ValueError where a curve is not as long as `x`.
    """
    for name, y in lines.items():
        if len(y) != len(x):
            raise ValueError(f"plot_lines: expected {len(x)} values for {name!r}, got {len(y)}")
    ends = [f"{name}: {float(y[0]):.3g} … {float(y[-1]):.3g}" for name, y in lines.items()]
    alt = f"{up} over {across}, from {float(x[0]):.3g} to {float(x[-1]):.3g}. {'; '.join(ends)}"
    figure = Picture(WIDTH, HEIGHT, alt)
    axes = figure.add_axes((0.105, 0.15, 0.875, 0.74), facecolor=CARD)
    for i, (name, y) in enumerate(lines.items()):
        style = dict(markersize=6.5, markeredgecolor=INK, markeredgewidth=0.7) if marks else {}
        axes.plot(x, y, color=INK, linewidth=2.8)  # an outline, so that light colours stand out
        line = MARKERS[i % 8] + "-" if marks else "-"
        axes.plot(x, y, line, color=COLOURS[i % 8], linewidth=1.8, label=name, **style)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(lines), columnspacing=1.2, borderaxespad=0.2,
                frameon=False, labelcolor=INK, fontsize=9)  # fmt: skip
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
