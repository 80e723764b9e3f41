"""`draw_tiles`: which tiles of a matrix product some programs write, and what they read for it."""
from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from course.lab.pictures.palette import COLOURS, GRID, INK
from course.lab.pictures.picture import WIDTH, Picture

GAP, TITLE, FOOTER = 0.3, 0.42, 0.3
ALONG_K = 0.4  # how long a and b are drawn along K, beside the width of out
READ_A, READ_B, WRITTEN = COLOURS[0], COLOURS[2], COLOURS[1]
NOT_TOUCHED = "#eeece6"
MOST_LINES = 24  # tiles in one direction; more are drawn without the lines between them


def draw_tiles(orders: Mapping[str, Sequence[tuple[int, int]]], tiles: tuple[int, int], steps: int = 1) -> Picture:
    """Draws `out = a @ b` cut into `tiles` (rows, columns), a panel for each of `orders`: a title, and (row, column) of
    the tile of each program, in the order of their numbers.

    The tiles that these programs write are coloured, and so are the rows of a and the columns of b that they read, cut
    into `steps` blocks along K. Below each panel, how many of these there are.
    """
    rows, columns = tiles
    width = (WIDTH - GAP * (len(orders) + 1)) / len(orders)
    cell = min((width - GAP / 2) / (columns * (1 + ALONG_K)), 0.5)
    depth = ALONG_K * columns * cell  # of a and b, along K
    height = TITLE + depth + GAP / 2 + rows * cell + FOOTER + GAP / 2
    figure = Picture(WIDTH, height, "; ".join(f"{title}: reads {strips(o)}" for title, o in orders.items()))
    axes = figure.sheet(down=True)
    for i, (title, order) in enumerate(orders.items()):
        left, top = GAP + i * (width + GAP), TITLE
        out_left, out_top = left + depth + GAP / 2, top + depth + GAP / 2
        axes.text(left, 0.2, title, color=INK, fontsize=11, weight="bold", va="center")
        written = {tile: number for number, tile in reversed(list(enumerate(order)))}
        read_a = {(m, k) for m, _ in order for k in range(steps)}
        read_b = {(k, n) for _, n in order for k in range(steps)}
        draw_matrix(axes, "a", (left, out_top), (rows, steps), (cell, depth / steps), read_a, READ_A)
        draw_matrix(axes, "b", (out_left, top), (steps, columns), (depth / steps, cell), read_b, READ_B)
        draw_matrix(axes, "out", (out_left, out_top), tiles, (cell, cell), set(written), WRITTEN)
        for (m, n), number in written.items():
            size = 72 * 0.42 * cell
            if size >= 5:
                axes.text(out_left + (n + 0.5) * cell, out_top + (m + 0.52) * cell, number, color=INK, ha="center",
                          va="center", fontsize=size)
        axes.text(left, height - 0.25, "reads " + strips(order), color=INK, fontsize=9.5, va="center")
    return figure


def strips(order: Sequence[tuple[int, int]]) -> str:
    rows, columns = len({m for m, _ in order}), len({n for _, n in order})
    return f"{rows} row{'s' * (rows > 1)} of a, {columns} column{'s' * (columns > 1)} of b"


def draw_matrix(axes, name, corner, size, cell, touched, colour):
    """A framed matrix of `size` (rows, columns) cells, each `cell` (height, width), the `touched` ones in colour."""
    (x, y), (rows, columns), (tall, wide) = corner, size, cell
    axes.add_patch(Rectangle((x, y), columns * wide, rows * tall, facecolor=NOT_TOUCHED, edgecolor="none"))
    for row, column in touched:
        axes.add_patch(Rectangle((x + column * wide, y + row * tall), wide, tall, facecolor=colour, edgecolor="none"))
    if max(rows, columns) <= MOST_LINES:
        axes.vlines([x + wide * i for i in range(1, columns)], y, y + rows * tall, color=GRID, linewidth=0.7)
        axes.hlines([y + tall * i for i in range(1, rows)], x, x + columns * wide, color=GRID, linewidth=0.7)
    axes.add_patch(Rectangle((x, y), columns * wide, rows * tall, fill=False, edgecolor=INK, linewidth=1.4, zorder=3))
    axes.text(x + columns * wide - 0.06, y + rows * tall - 0.1, name, color=INK, fontsize=10, family="monospace",
              ha="right", va="center")
