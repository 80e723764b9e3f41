"""`plot_lines`: numbers that a notebook computed, as curves."""
from collections.abc import Mapping, Sequence

from course.lab.pictures.drawing import curve, legend_above, style_axes
from course.lab.pictures.picture import WIDTH, Picture


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
    figure = Picture(WIDTH, 3.6, alt)
    axes = figure.add_axes((0.105, 0.15, 0.875, 0.74))
    style = {} if marks else {"marker": None}
    for i, (name, y) in enumerate(lines.items()):
        curve(axes, x, y, i, name, **style)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=across, ylabel=up)
    legend_above(axes, columnspacing=1.2)
    style_axes(axes)
    return figure
