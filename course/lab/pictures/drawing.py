"""What pictures share: a chart's axes, curves, bars and legends, a key to colours, and where its figures are from."""
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from course.lab.pictures.palette import CARD, COLOURS, FAINT, INK, MARKERS


def style_axes(axes: Axes, bare: Sequence[str] = ("top", "right")) -> None:
    """A chart's axes in the colours of the card, without lines on the `bare` sides, which have no scale."""
    axes.set_facecolor(CARD)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[list(bare)].set_visible(False)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def grid(axes: Axes, axis: str = "y", **options) -> None:
    axes.grid(axis=axis, color=FAINT, alpha=0.25, linewidth=0.7, **options)


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], number: int, label: str, outline=2.8, **style) -> None:
    """The chart's curve `number`, in its own colour and with its own marker."""
    axes.plot(x, y, color=INK, linewidth=outline)  # below, so that light colours stand out
    own = dict(color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], linewidth=1.8)
    axes.plot(x, y, label=label, **{**own, "markersize": 6.5, "markeredgecolor": INK, "markeredgewidth": 0.7, **style})


def bars(axes: Axes, lengths: Mapping[str, float]) -> None:
    """A bar for each label, from the top down."""
    for i, length in enumerate(lengths.values()):
        axes.barh(i, length, color=COLOURS[i % len(COLOURS)], edgecolor=INK, linewidth=0.6)
    axes.set_yticks(range(len(lengths)), lengths)
    axes.invert_yaxis()


def legend(on: Axes | Figure, **options) -> None:
    on.legend(**{"facecolor": CARD, "edgecolor": FAINT, "labelcolor": INK, "fontsize": 8.5, **options})


def legend_above(axes: Axes, columnspacing: float) -> None:
    """All in one line, without a frame."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(axes.get_legend_handles_labels()[1]),
                columnspacing=columnspacing, borderaxespad=0.2, frameon=False, labelcolor=INK, fontsize=9)


def key(axes: Axes, x: float, y: float, entries: Iterable[tuple[dict, str]]) -> None:
    """What the styles of rectangles mean: (style, label) side by side from `x` on, centred on `y`, in inches."""
    for style, label in entries:
        axes.add_patch(Rectangle((x, y - 0.11), 0.22, 0.22, **{"edgecolor": INK, "linewidth": 0.8, **style}))
        axes.text(x + 0.3, y, label, color=INK, fontsize=10, va="center")
        x += 0.55 + 0.085 * len(label)


def rounded_box(axes: Axes, x, y, width, height, colour, *, radius=0.06, linewidth=0.8) -> None:
    """A box with round corners."""
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=f"round,pad=0,rounding_size={radius}",
                                  facecolor=colour, edgecolor=INK, linewidth=linewidth))


def headed(figure: Figure, title: str, source: str) -> None:
    """Writes a title above, and where the figures are from below."""
    height = figure.get_figheight()
    figure.text(0.012, 1 - 0.3 / height, title, color=INK, fontsize=12, weight="bold")
    caption(figure, source)


def caption(figure: Figure, text: str) -> None:
    """Writes where a figure's numbers are from into its lower left corner, in two lines where one is too short."""
    lines = textwrap.wrap(text, 165)
    figure.text(0.012, 0.07 / figure.get_figheight(), "\n".join(lines), color=INK, fontsize=6.5, linespacing=1.3)
