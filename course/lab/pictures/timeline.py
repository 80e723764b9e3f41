"""`draw_timeline`: what runs when, on the CPU and on the GPU."""
from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from course.lab.pictures.palette import COLOURS, FAINT, GREY, INK
from course.lab.pictures.picture import WIDTH, Picture

LEFT, RIGHT = 0.85, 0.25
TITLE, LANE, AXIS, LINE = 0.34, 0.34, 0.5, 0.24

Box = tuple[float, float, str]
"""Start and duration in microseconds, and a name."""


def draw_timeline(ways: Mapping[str, Mapping[str, Sequence[Box]]], below: float = 0.12) -> Picture:
    """Boxes over time for each way of doing something, in lanes such as "CPU" and "GPU", all on one scale.

    Boxes of one name have one colour; the key lists the names that take longest in the lowest lanes, with their time
    in each way. All other boxes, the CPU's launches above all, are grey. `below` is how many inches are left free
    at the lower edge. Raises ValueError where there is no box.
    """
    every = [box for lanes in ways.values() for boxes in lanes.values() for box in boxes]
    if not every:
        raise ValueError("draw_timeline: expected at least one box")
    ends = {}
    for way, lanes in ways.items():
        ends[way] = max((start + duration for boxes in lanes.values() for start, duration, _ in boxes), default=0)
    took = {way: spent(list(lanes.values())[-1]) for way, lanes in ways.items()}
    names = [name for name, _ in sum(took.values(), Counter()).most_common(len(COLOURS))]
    colours = dict(zip(names, COLOURS))
    grey = sorted({name for _, _, name in every} - {*names})
    key = [f"{name}: {' | '.join(f'{took[way][name]:.0f}' if took[way][name] else '–' for way in ways)} µs"
           for name in names]
    key += [grey[0] if len(grey) == 1 else "launches, and what takes less"] if grey else []
    lines = -(-len(key) // 2)
    rows = sum(len(lanes) for lanes in ways.values())
    height = TITLE * len(ways) + LANE * rows + AXIS + LINE * lines + below
    figure = Picture(WIDTH, height, "\n".join([*in_words(ways, ends), *key]))
    axes = figure.sheet()
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
                box.set(facecolor=colours.get(name, GREY), edgecolor=INK)
                axes.add_patch(box)
    draw_axis(axes, y - 0.06, scale, max(ends.values()))
    for i, (text, colour) in enumerate(zip(key, [*colours.values(), GREY])):
        x, line = 0.3 + (WIDTH - 0.4) / 2 * (i // lines), y - AXIS - LINE * (i % lines)
        axes.add_patch(Rectangle((x, line - 0.08), 0.17, 0.17, facecolor=colour, edgecolor=INK, linewidth=0.6))
        axes.text(x + 0.27, line, text, fontsize=8.5, color=INK, va="center")
    return figure


def draw_axis(axes, y, scale, end):
    step = next(s for n in range(-1, 9) for s in (10**n, 2 * 10**n, 5 * 10**n) if end / s <= 10)
    for i in range(int(end / step) + 1):
        x = LEFT + scale * i * step
        axes.plot([x, x], [y, y - 0.05], color=FAINT, linewidth=0.8)
        axes.text(x, y - 0.08, f"{i * step:g}", fontsize=7.5, color=INK, ha="center", va="top")
    axes.text(0.3, y - 0.08, "µs", fontsize=7.5, color=INK, va="top")


def spent(boxes) -> Counter:
    """Microseconds by name."""
    took = Counter()
    for _, duration, name in boxes:
        took[name] += duration
    return took


def in_words(ways, ends):
    """A line of text for each way."""
    for way, lanes in ways.items():
        busy = [f"{lane} busy {spent(boxes).total():.0f} µs, boxes: {len(boxes)}" for lane, boxes in lanes.items()]
        yield f"{way}: {ends[way]:.0f} µs; {'; '.join(busy)}"
