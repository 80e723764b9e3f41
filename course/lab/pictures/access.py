"""`draw_access`: which program of a launch reads and writes which element."""
from collections import defaultdict

from matplotlib.patches import Rectangle

from course.lab.interpret.trace import Trace, trace
from course.lab.pictures.drawing import key
from course.lab.pictures.palette import CARD, COLOURS, FAINT, GREY, GRID, INK, MASKED, WRONG
from course.lab.pictures.picture import WIDTH, Picture

CELL, STRIP = 0.34, 0.6  # of a drawing with rows, and without
MOST_CELLS = 64  # in one direction; more would be too small to tell apart
MOST_COLOURS = 4  # in one cell; an element touched by more programs shows how many

GAP, LABEL, LEGEND, FOOTER = 0.35, 0.36, 0.62, 0.55


def draw_access(kernel, grid, *args, masked: bool = True, **constexprs) -> Picture:
    """Draws what `kernel[grid](*args, **constexprs)` reads and writes, for small inputs.

    One panel for each tensor and direction, a cell for each element in the colour of the program that touches it,
    stripes where several do. Masked lanes are hatched, lanes that reach outside of their tensor red. Below: the bytes
    moved, and how many suffice. The launch is interpreted on copies, on any machine: nothing is compiled, and nothing
    written to the arguments. Raises ValueError for inputs too large to draw.

    A masked lane stands where its neighbours would put it. Where they do not follow one after the other, as when a
    block goes on in the next row of an image, `masked=False` leaves such lanes out.
    """
    record = trace(kernel, grid, *args, **constexprs)
    panels = [Panel(record, title, masked) for title in record.touches]
    for panel in panels:
        if max(panel.rows, panel.columns) > MOST_CELLS:
            raise ValueError(
                f"draw_access: expected at most {MOST_CELLS} rows and columns to draw, "
                f"got {panel.rows} x {panel.columns} for {panel.title}: give it smaller inputs"
            )
    strips = all(panel.rows == 1 for panel in panels)
    cell = min([STRIP if strips else CELL] + [(WIDTH - 2 * GAP) / panel.columns for panel in panels])
    lines = [[panel] for panel in panels] if strips else in_lines(panels, cell)
    heights = [LABEL + cell * max(panel.rows for panel in line) + GAP for line in lines]
    height = LEGEND + sum(heights) + FOOTER
    figure = Picture(WIDTH, height, repr(record))
    y = height - LEGEND
    for line, line_height in zip(lines, heights):
        x = GAP
        for panel in line:
            w, h = cell * panel.columns, cell * panel.rows
            panel.draw(figure.add_axes(figure.place(x, y - LABEL - h, w, h)), cell)
            x += panel.width(cell)
        y -= line_height
    key(figure.sheet(), GAP, height - LEGEND + 0.31, key_entries(record, masked))
    figure.text(GAP / WIDTH, 0.2 / height, summary(record), color=INK, fontsize=10)
    return figure


def in_lines(panels, cell):
    """The panels in lines, as many side by side as there is room for."""
    lines, room = [], 0.0
    for panel in panels:
        if panel.width(cell) > room:
            lines.append([])
            room = WIDTH - GAP
        lines[-1].append(panel)
        room -= panel.width(cell)
    return lines


def summary(record: Trace) -> str:
    text = f"{record.read} bytes read + {record.written} written = {record.moved} moved;   {record.ideal} would do"
    outside = record.lanes("outside") + record.lost
    return text + (f";   {outside} lanes outside of their tensor!" if outside else "")


def program_colours(record: Trace) -> dict[tuple, str]:
    every = sorted({touch.program for touches in record.touches.values() for touch in touches})
    return {program: COLOURS[i % len(COLOURS)] for i, program in enumerate(every)}


def program_label(program: tuple[int, int, int], grid: tuple[int, ...]) -> str:
    return ",".join(str(i) for i in program[: len(grid)])


def key_entries(record: Trace, masked: bool) -> list[tuple[dict, str]]:
    """Style and label of everything that the picture shows."""
    shown = list(program_colours(record).items())
    labelled = shown[: len(COLOURS)]
    entries = [(dict(facecolor=colour), program_label(program, record.grid)) for program, colour in labelled]
    entries[0] = entries[0][0], f"program {entries[0][1]}"
    if len(shown) > len(COLOURS):
        entries[-1] = entries[-1][0], f"{entries[-1][1]} … {program_label(shown[-1][0], record.grid)}, colours repeat"
    if masked and record.lanes("masked"):
        entries.append((MASKED, "masked lane"))
    if record.lanes("outside"):
        entries.append((OUTSIDE, "outside of the tensor"))
    return entries


OUTSIDE = dict(facecolor=WRONG, edgecolor=INK)


class Panel:
    """One tensor, in one direction."""

    def __init__(self, record: Trace, title: str, masked: bool):
        self.title, self.colours, self.grid = title, program_colours(record), record.grid
        self.size = record.tensors[title.rsplit(" ", 1)[0]]
        self.programs = defaultdict(list)  # cell: the programs that touch it
        self.masked, self.outside = set(), set()
        for touch in record.touches[title]:
            for row, column, state in zip(*(part[touch.placed] for part in (touch.row, touch.column, touch.state))):
                cell = int(row), int(column)
                if state == "masked":
                    self.masked.add(cell)
                elif state == "outside":
                    self.outside.add(cell)
                elif touch.program not in self.programs[cell]:
                    self.programs[cell].append(touch.program)
        if not masked:
            self.masked.clear()
        cells = [(0, 0), (self.size[0] - 1, self.size[1] - 1), *self.masked, *self.outside]
        self.top, self.left = (min(cell[d] for cell in cells) for d in (0, 1))
        self.bottom, self.right = (max(cell[d] for cell in cells) for d in (0, 1))
        self.rows, self.columns = self.bottom - self.top + 1, self.right - self.left + 1

    def width(self, cell: float) -> float:
        return max(cell * self.columns, 0.09 * len(self.heading)) + GAP

    @property
    def heading(self) -> str:
        rows, columns = self.size
        return f"{self.title}, {f'{rows} × {columns}' if rows > 1 else columns}"

    def draw(self, axes, cell):
        axes.set(xlim=(self.left, self.right + 1), ylim=(self.bottom + 1, self.top))
        axes.set_title(self.heading, loc="left", fontsize=10, color=INK, family="monospace", pad=5)
        for side in axes.spines.values():
            side.set_visible(False)
        self.ticks(axes, cell)
        for row in range(self.top, self.bottom + 1):
            for column in range(self.left, self.right + 1):
                self.draw_cell(axes, row, column, cell)
        rows, columns = self.size
        axes.add_patch(Rectangle((0, 0), columns, rows, fill=False, edgecolor=INK, linewidth=1.8, clip_on=False))

    def draw_cell(self, axes, row, column, cell):
        box = dict(edgecolor="#ffffff", linewidth=0.8)
        touched = self.programs.get((row, column), [])
        in_tensor = 0 <= row < self.size[0] and 0 <= column < self.size[1]
        if 0 < len(touched) <= MOST_COLOURS:
            for i, program in enumerate(touched):
                stripe = Rectangle((column + i / len(touched), row), 1 / len(touched), 1)
                stripe.set(facecolor=self.colours[program], edgecolor="none")
                axes.add_patch(stripe)
            axes.add_patch(Rectangle((column, row), 1, 1, fill=False, **box))
        elif touched:
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=GREY, **box))
        elif (row, column) in self.outside:
            axes.add_patch(Rectangle((column, row), 1, 1, **OUTSIDE, linewidth=0.8, clip_on=False))
        elif (row, column) in self.masked:
            axes.add_patch(Rectangle((column, row), 1, 1, **MASKED, linewidth=0.8, clip_on=False))
        elif in_tensor:
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=CARD, edgecolor=GRID, linewidth=0.8))
        text = program_label(touched[0], self.grid) if len(touched) == 1 else ""
        if len(touched) > MOST_COLOURS:
            text = f"×{len(touched)}"
        size = min(9.0, 72 * 0.8 * cell / max(1.2, 0.62 * len(text)))
        if text and size >= 5:
            axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", color=INK, fontsize=size)

    def ticks(self, axes, cell):
        every = next(n for n in (1, 2, 4, 8, 16) if cell * n >= 0.26)
        columns = range(self.left, self.right + 1)
        axes.set_xticks([c + 0.5 for c in columns if c % every == 0], [c for c in columns if c % every == 0])
        rows = range(self.top, self.bottom + 1)
        several = self.size[0] > 1
        axes.set_yticks([r + 0.5 for r in rows if r % every == 0 and several],
                        [r for r in rows if r % every == 0 and several])
        axes.tick_params(length=0, labelsize=7.5, labelcolor=FAINT, pad=1.5)
