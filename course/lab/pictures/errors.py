"""`draw_errors`: where a result is wrong, which often shows why."""
from collections.abc import Mapping

import torch
from matplotlib.patches import Rectangle

from course.lab.pictures.palette import CARD, FAINT, INK, RIGHT, WRONG
from course.lab.pictures.picture import WIDTH, Picture

GAP, TITLE, KEY = 0.3, 0.36, 0.5

STATE_COLOURS = {"right": RIGHT, "wrong": WRONG, "never written": "#c9c9cf"}


def draw_errors(results: Mapping[str, tuple[torch.Tensor, torch.Tensor]], tolerance: float = 1e-4) -> Picture:
    """Draws a map of each result, given as (got, wanted) by its title: both (rows, columns) or (columns,).

    An element is right within `tolerance` of what is wanted, and was never written where it is NaN: fill outputs
    with NaN before the launch. Raises ValueError where a result and what is wanted differ in shape.
    """
    maps = {title: states(*pair, tolerance) for title, pair in results.items()}
    columns = sum(len(rows[0]) for rows in maps.values())
    cell = min(0.26, (WIDTH - GAP * (len(maps) + 1)) / columns)
    deepest = max(len(rows) for rows in maps.values())
    height = TITLE + cell * deepest + KEY
    words = [f"{title}: {counted(rows)}" for title, rows in maps.items()]
    figure = Picture(WIDTH, height, "; ".join(words))
    spare = (WIDTH - 2 * GAP - cell * columns) / len(maps)
    x = GAP
    for title, rows in maps.items():
        wide, high = len(rows[0]), len(rows)
        place = figure.place(x, KEY + cell * (deepest - high), cell * wide, cell * high)
        axes = figure.add_axes(place, xlim=(0, wide), ylim=(high, 0))
        axes.axis("off")
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=5)
        for i, row in enumerate(rows):
            for j, state in enumerate(row):
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=STATE_COLOURS[state], edgecolor=CARD, linewidth=1))
                if state == "wrong":
                    axes.plot(j + 0.5, i + 0.5, "x", color=INK, markersize=30 * cell, markeredgewidth=0.9)
        x += cell * wide + spare
    key = figure.sheet()
    x = GAP
    for state, colour in STATE_COLOURS.items():
        key.add_patch(Rectangle((x, 0.13), 0.18, 0.18, facecolor=colour, edgecolor=FAINT, linewidth=0.6))
        key.text(x + 0.27, 0.22, state, color=INK, fontsize=9, va="center")
        x += 0.62 + 0.075 * len(state)
    return figure


def states(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> list[list[str]]:
    if got.shape != wanted.shape:
        raise ValueError(f"draw_errors: expected shape {tuple(wanted.shape)}, got {tuple(got.shape)}")
    got, wanted = (t.detach().cpu().double().reshape(-1, t.shape[-1]) for t in (got, wanted))
    right = ((got - wanted).abs() <= tolerance) | (got == wanted) | (got.isnan() & wanted.isnan())
    table = torch.where(got.isnan() & ~wanted.isnan(), 2, (~right).int())
    return [[list(STATE_COLOURS)[state] for state in row] for row in table.tolist()]


def counted(rows: list[list[str]]) -> str:
    every = [state for row in rows for state in row]
    return ", ".join(f"{every.count(state)} {state}" for state in STATE_COLOURS if state in every)
