"""`draw_scores`: which tiles of attention's score matrix are computed, by which program, in which order."""
from collections.abc import Collection, Mapping

import torch
from matplotlib.patches import Rectangle

from course.lab.pictures.drawing import key
from course.lab.pictures.palette import COLOURS, FAINT, GREY, INK, MASKED
from course.lab.pictures.picture import WIDTH, Picture

GAP, STRIP, LEGEND, TITLE, FOOTER = 0.3, 0.32, 0.55, 0.35, 0.65
LARGEST_CELL = 0.17
MOST = 64  # rows or columns; more would be too small to tell apart
KEYS, SKIPPED = GREY, "#f1efe9"


def draw_scores(panels: Mapping[str, torch.Tensor], block_m: int, block_n: int) -> Picture:
    """Draws the scores of attention in tiles of `block_m` queries and `block_n` keys, a panel for each of `panels`.

    An entry is a title and a tensor (queries, keys) of bool: which query sees which key. Around the scores stand the
    tensors that are read and written. A program owns a row of tiles, in its colour; the number in a tile is its turn
    in the program's loop. Scores of a computed tile that do not count, since no query sees them or they lie outside,
    are hatched; a tile of which no query sees a key is skipped. Raises ValueError for more than 64 queries or keys.
    """
    for visible in panels.values():
        if max(visible.shape) > MOST:
            raise ValueError(f"draw_scores: expected at most {MOST} queries and keys, got {tuple(visible.shape)}")
    panels = {title: ScoreTiles(visible, block_m, block_n) for title, visible in panels.items()}
    room = (WIDTH - GAP) / len(panels) - GAP - 2 * STRIP - 0.35
    cell = min([LARGEST_CELL] + [room / tiles.columns for tiles in panels.values()])
    top = LEGEND + TITLE
    height = top + 2 * STRIP + max(cell * tiles.rows for tiles in panels.values()) + FOOTER
    figure = Picture(WIDTH, height, "\n".join(f"{title}: {tiles.summary}" for title, tiles in panels.items()))
    axes = figure.sheet(down=True)
    key(axes, GAP, 0.29, key_entries(panels.values()))
    for i, (title, tiles) in enumerate(panels.items()):
        left = GAP + i * (WIDTH - GAP) / len(panels)
        axes.text(left, LEGEND + 0.12, title, color=INK, fontsize=11, weight="bold", va="center")
        draw_panel(axes, tiles, left, top, cell)
        axes.text(left, height - 0.25, tiles.summary, color=INK, fontsize=9.5, va="center")
    return figure


class ScoreTiles:
    """One score matrix in tiles."""

    def __init__(self, visible: torch.Tensor, block_m: int, block_n: int):
        self.size, self.block = tuple(visible.shape), (block_m, block_n)
        self.rows, self.columns = (-(-n // block) * block for n, block in zip(self.size, self.block))
        self.visible = torch.zeros(self.rows, self.columns, dtype=torch.bool)
        self.visible[: self.size[0], : self.size[1]] = visible.cpu()
        tiles = self.visible.unflatten(1, (-1, block_n)).unflatten(0, (-1, block_m))  # row, query, column, key
        self.turns = [[j for j, seen in enumerate(row) if seen] for row in tiles.any(3).any(1).tolist()]
        counts = self.visible.clone()
        counts[self.size[0] :] = True  # a query that does not exist is never stored, so its scores need no mask
        counts = counts.unflatten(1, (-1, block_n)).unflatten(0, (-1, block_m)).all(3).all(1)
        self.masked = int((tiles.any(3).any(1) & ~counts).sum())

    @property
    def summary(self) -> str:
        number, computed = self.rows * self.columns // (self.block[0] * self.block[1]), sum(map(len, self.turns))
        skipped = f", {number - computed} of {number} skipped" if number > computed else ""
        size = f"{self.block[0]} × {self.block[1]}"
        return f"{computed} tile{'s' * (computed > 1)} of {size}, {self.masked} with a mask{skipped}"


def draw_panel(axes, tiles, left, top, cell):
    (M, N), (block_m, block_n) = tiles.size, tiles.block
    x, y = left + STRIP + 0.08, top + 2 * STRIP + 0.1
    line = dict(edgecolor="#ffffff", linewidth=0.5)
    frame = dict(fill=False, edgecolor=INK, linewidth=1.4)
    label = dict(color=INK, fontsize=10, family="monospace")
    for number, name in enumerate("kv"):
        strip = x, top + number * STRIP, cell * N, STRIP - 0.08
        axes.add_patch(Rectangle(strip[:2], *strip[2:], facecolor=KEYS))
        axes.vlines([x + cell * j for j in range(block_n, N, block_n)], strip[1], strip[1] + strip[3], color="#ffffff")
        axes.add_patch(Rectangle(strip[:2], *strip[2:], **frame))
        axes.text(x - 0.1, strip[1] + strip[3] / 2, name, ha="right", va="center", **label)
    out = x + cell * tiles.columns + 0.1
    for program, turns in enumerate(tiles.turns):
        colour, first = COLOURS[program % len(COLOURS)], program * block_m
        rows = min(block_m, M - first)
        for corner in (left, out):
            axes.add_patch(Rectangle((corner, y + cell * first), STRIP - 0.08, cell * rows, facecolor=colour, **line))
        for j in range(tiles.columns // block_n):
            for row in range(first, first + block_m):
                for column in range(j * block_n, (j + 1) * block_n):
                    if j in turns or (row < M and column < N):
                        seen = bool(tiles.visible[row, column])
                        style = dict(facecolor=colour, **line) if seen else dict(MASKED, linewidth=0.5)
                        style = style if j in turns else dict(facecolor=SKIPPED, **line)
                        axes.add_patch(Rectangle((x + cell * column, y + cell * row), cell, cell, **style))
        for turn, j in enumerate(turns, start=1):
            corner = x + cell * j * block_n, y + cell * first
            axes.add_patch(Rectangle(corner, cell * block_n, cell * block_m, fill=False, edgecolor=INK, linewidth=0.8))
            size = min(14.0, 72 * 0.5 * cell * min(block_m, block_n))
            box = dict(facecolor="#ffffff", edgecolor="none", alpha=0.75, pad=1.2)
            axes.text(corner[0] + cell * block_n / 2, corner[1] + cell * block_m / 2, turn, color=INK, fontsize=size,
                      ha="center", va="center", bbox=box)
    for corner, name in ((left, "q"), (out, "out")):
        axes.add_patch(Rectangle((corner, y), STRIP - 0.08, cell * M, **frame))
        axes.text(corner + (STRIP - 0.08) / 2, y - 0.1, name, ha="center", **label)
    axes.add_patch(Rectangle((x, y), cell * N, cell * M, fill=False, edgecolor=INK, linewidth=1.2, linestyle="--"))


def key_entries(panels: Collection[ScoreTiles]) -> list[tuple[dict, str]]:
    """Style and label of everything that the picture shows."""
    programs = max(len(tiles.turns) for tiles in panels)
    entries = [(dict(facecolor=colour), f"{i}") for i, colour in enumerate(COLOURS[: min(programs, 6)])]
    entries[0] = entries[0][0], "program 0"
    if programs > 6:
        entries[-1] = entries[-1][0], "5 …"
    if any(tiles.masked for tiles in panels):
        entries.append((MASKED, "computed, does not count"))
    if any(len(turns) < tiles.columns // tiles.block[1] for tiles in panels for turns in tiles.turns):
        entries.append((dict(facecolor=SKIPPED, edgecolor=FAINT), "skipped"))
    return entries
