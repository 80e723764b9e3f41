"""`draw_traffic`: what goes back and forth between memory and the kernels of a computation."""
from collections.abc import Mapping, Sequence

from matplotlib.patches import FancyArrow, Rectangle

from course.lab.interpret.trace import Trace
from course.lab.pictures.drawing import rounded_box
from course.lab.pictures.palette import CARD, COLOURS, INK, LIGHT_GREY
from course.lab.pictures.picture import WIDTH, Picture

LANE, MEMORY, ARROWS, BOX = 1.95, 0.32, 0.62, 0.36  # heights
WIDEST = 0.30  # the arrow with the most bytes


def draw_traffic(ways: Mapping[str, Sequence[Trace]]) -> Picture:
    """Each way of computing something as its launches, recorded by `lab.trace`, and what they move, side by side.

    A lane a way, a box a launch. What the launch reads comes down from memory, what it writes goes up, in arrows as
    wide as the bytes are many, with the tensors' names. Nothing survives between two boxes but through memory.
    """
    totals = {way: sum(trace.moved for trace in traces) for way, traces in ways.items()}
    alt = []
    for way, traces in ways.items():
        launches = [f"{t.kernel} reads {listed(t, 'read')} ({t.read}) and writes {listed(t, 'written')} ({t.written})"
                    for t in traces]
        alt.append(f"{way}, {totals[way]} bytes: {'; '.join(launches)}")
    height = LANE * len(ways)
    figure = Picture(WIDTH, height, "\n".join(alt))
    axes = figure.sheet()
    most = max(max(t.read, t.written) for traces in ways.values() for t in traces)
    slots = max(len(traces) for traces in ways.values())
    pitch = (WIDTH - 0.5) / slots
    for lane, (way, traces) in enumerate(ways.items()):
        top = height - lane * LANE - 0.14
        axes.text(0.25, top, f"{way}: {totals[way]:,} bytes", fontsize=10, color=INK, va="top", weight="bold")
        memory, box = top - 0.28, top - 0.28 - MEMORY - ARROWS
        axes.add_patch(Rectangle((0.25, memory - MEMORY), WIDTH - 0.5, MEMORY, facecolor=LIGHT_GREY, edgecolor=INK))
        axes.text(WIDTH / 2, memory - MEMORY / 2, "the GPU's memory", fontsize=9, color=INK, ha="center", va="center")
        for i, trace in enumerate(traces):
            x = 0.25 + pitch * (i + 0.5 + (slots - len(traces)) / 2)
            half = min(pitch / 2 - 0.1, 1.9)
            rounded_box(axes, x - half, box - BOX, 2 * half, BOX, COLOURS[i % len(COLOURS)])
            name = dict(ha="center", va="center", fontsize=8, color=INK, family="monospace")
            axes.text(x, box - BOX / 2, trace.kernel, **name)
            for where, what, nbytes in ((x - half / 2, "read", trace.read), (x + half / 2, "written", trace.written)):
                arrow(axes, where, memory - MEMORY, box, WIDEST * nbytes / most, down=what == "read")
                label = f"{listed(trace, what)}\n{nbytes} B"
                beside = where + WIDEST / 2 + 0.08, (memory - MEMORY + box) / 2
                axes.text(*beside, label, va="center", fontsize=8, color=INK)
    return figure


def listed(trace: Trace, what: str) -> str:
    """The tensors that a launch reads or writes, by their names in the kernel."""
    names = [title.rsplit(" ", 1) for title in trace.touches]
    return ", ".join(name.removesuffix("_ptr") for name, direction in names if direction == what)


def arrow(axes, x, top, bottom, width, down):
    width = max(width, 0.03)
    start, length = (top, bottom - top) if down else (bottom, top - bottom)
    axes.add_patch(FancyArrow(x, start, 0, length, width=width, head_width=width + 0.14, head_length=0.14,
                              length_includes_head=True, facecolor=CARD, edgecolor=INK, linewidth=0.9))
