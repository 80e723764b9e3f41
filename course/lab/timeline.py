"""`draw_timeline`: what runs when, on the CPU and on the GPU."""
from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from course.lab.display import COLOURS, FAINT, INK, Picture

WIDTH = 9.0  # inches: what a notebook shows without scaling
LEFT, RIGHT = 0.85, 0.25
TITLE, LANE, AXIS, LINE = 0.34, 0.34, 0.5, 0.24

Box = tuple[float, float, str]
"""Start and duration in microseconds, and a name."""


def draw_timeline(ways: Mapping[str, Mapping[str, Sequence[Box]]]) -> Picture:
    """Boxes over time for each way of doing something, in lanes such as "CPU" and "GPU", all on one scale.

    Boxes of one name have one colour; the key lists the names that take longest on the lowest lanes, with their
    times. Raises ValueError where there is no box at all.
    """
    every = [box for lanes in ways.values() for boxes in lanes.values() for box in boxes]
    if not every:
        raise ValueError("draw_timeline: expected at least one box")
    ends = {}
    for way, lanes in ways.items():
        ends[way] = max((start + duration for boxes in lanes.values() for start, duration, _ in boxes), default=0)
    took = Counter()
    for lanes in ways.values():
        for _, duration, name in list(lanes.values())[-1]:
            took[name] += duration
    names = [name for name, _ in took.most_common(len(COLOURS))]
    colours = dict(zip(names, COLOURS))
    lines = -(-len(names) // 2)
    rows = sum(len(lanes) for lanes in ways.values())
    height = TITLE * len(ways) + LANE * rows + AXIS + LINE * lines + 0.12
    figure = Picture(WIDTH, height, alt(ways, ends, took))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    scale = (WIDTH - LEFT - RIGHT) / max(ends.values())
    y = height
    for way, lanes in ways.items():
        y -= TITLE
        axes.text(0.12, y + 0.1, f"{way}: {ends[way]:.0f} µs", fontsize=10, weight="bold", color=INK)
        for lane, boxes in lanes.items():
            y -= LANE
            axes.text(0.3, y + 0.15, lane, fontsize=9, color=INK, va="center")
            axes.plot([LEFT, WIDTH - RIGHT], [y + 0.02] * 2, color=FAINT, linewidth=0.5)
            for start, duration, name in boxes:
                box = Rectangle((LEFT + scale * start, y + 0.02), scale * duration, LANE - 0.08, linewidth=0.4)
                box.set(facecolor=colours.get(name, "#d5d9de"), edgecolor=INK)
                axes.add_patch(box)
    draw_axis(axes, y - 0.06, scale, max(ends.values()))
    for i, name in enumerate(names):
        x, line = 0.3 + (WIDTH - 0.4) / 2 * (i // lines), y - AXIS - LINE * (i % lines)
        axes.add_patch(Rectangle((x, line - 0.08), 0.17, 0.17, facecolor=colours[name], edgecolor=INK, linewidth=0.6))
        axes.text(x + 0.27, line, f"{name}, {took[name]:.0f} µs", fontsize=8.5, color=INK, va="center")
    return figure


def draw_axis(axes, y, scale, end):
    step = next(s for n in range(-1, 9) for s in (10**n, 2 * 10**n, 5 * 10**n) if end / s <= 10)
    for i in range(int(end / step) + 1):
        x = LEFT + scale * i * step
        axes.plot([x, x], [y, y - 0.05], color=FAINT, linewidth=0.8)
        axes.text(x, y - 0.08, f"{i * step:g}", fontsize=7.5, color=INK, ha="center", va="top")
    axes.text(0.3, y - 0.08, "µs", fontsize=7.5, color=INK, va="top")


def alt(ways, ends, took) -> str:
    parts = []
    for way, lanes in ways.items():
        busy = ", ".join(f"{lane} busy {sum(d for _, d, _ in boxes):.0f} µs in {len(boxes)} pieces"
                         for lane, boxes in lanes.items())  # fmt: skip
        parts.append(f"{way}: {ends[way]:.0f} µs; {busy}")
    longest = ", ".join(f"{name} {duration:.0f} µs" for name, duration in took.most_common(len(COLOURS)))
    return "\n".join([*parts, f"longest: {longest}"])
