"""`draw_online`: the maximum and the sum that softmax keeps while it walks along a row."""
import math
from collections.abc import Sequence

from course.lab.pictures.drawing import style_axes
from course.lab.pictures.palette import COLOURS, FAINT, INK
from course.lab.pictures.picture import WIDTH, Picture

MOST_BLOCKS = 6


def draw_online(row: Sequence[float], block: int) -> Picture:
    """A row of numbers in blocks, the running maximum m above them, and below how each block changes the sum s.

    s holds the sum of exp(x - m) over what was seen so far. Raises ValueError for more than 6 blocks.
    """
    blocks = [list(row[i : i + block]) for i in range(0, len(row), block)]
    if not 0 < len(blocks) <= MOST_BLOCKS:
        raise ValueError(f"draw_online: expected 1 to {MOST_BLOCKS} blocks to draw, got {len(blocks)}")
    m, s, steps = -math.inf, 0.0, []
    for numbers in blocks:
        new_m = max(m, *numbers)
        own, factor = sum(math.exp(x - new_m) for x in numbers), math.exp(m - new_m)
        steps.append((new_m, s, factor, own, s * factor + own))
        m, s = new_m, s * factor + own
    sums = [f"{old:.2f} × {factor:.2f} + {own:.2f} = {total:.2f}" for _, old, factor, own, total in steps]
    sums[0] = f"{steps[0][-1]:.2f}"
    alt = [f"block {i}: m = {step[0]:.2f}, s = {text}" for i, (step, text) in enumerate(zip(steps, sums))]
    figure = Picture(WIDTH, 3.5, "\n".join(alt))
    left, right = 0.5, WIDTH - 0.2
    axes = figure.add_axes((left / WIDTH, 0.31, (right - left) / WIDTH, 0.63))
    for i, numbers in enumerate(blocks):
        first, m = i * block, steps[i][0]
        axes.bar(range(first, first + len(numbers)), numbers, width=0.7, color=COLOURS[i], edgecolor=INK, linewidth=0.6)
        axes.plot([first - 0.5, first + block - 0.5], [m, m], color=INK, linewidth=2)
        axes.text(first - 0.4, m + 0.04, f"m = {m:.2f}", va="bottom", fontsize=9, color=INK)
        axes.axvline(first - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
        middle = left + (right - left) * (i + 0.5) / len(blocks)
        text = "s = " + sums[i].replace(" = ", "\n= ")
        figure.text(middle / WIDTH, 0.2, text, ha="center", va="center", fontsize=9.5, color=INK)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-0.5, block * len(blocks) - 0.5)
    axes.set_ylim(min(0, *row) - 0.3, max(row) * 1.2)
    axes.set_ylabel("x", rotation=0)
    axes.set_xticks([])
    style_axes(axes, bare=("top", "right", "bottom"))
    rule = "new s = old s × exp(old m - new m) + the block's own sum of exp(x - new m)"
    figure.text(left / WIDTH, 0.05, rule, fontsize=9, color=INK)
    return figure
