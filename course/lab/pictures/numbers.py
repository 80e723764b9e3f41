"""Pictures of floating-point numbers: the bits of a number in each format, and the numbers that a format has."""
from typing import NamedTuple

import torch
from matplotlib.patches import Rectangle

from course.lab.pictures.drawing import style_axes
from course.lab.pictures.palette import COLOURS, FAINT, INK, MASKED
from course.lab.pictures.picture import WIDTH, Picture

LEFT, CELL, ROW, TOP = 1.0, 0.165, 0.62, 0.55
SIGN, EXPONENT, FRACTION = COLOURS[6], COLOURS[1], COLOURS[0]


class FloatFormat(NamedTuple):
    """A floating-point format, and the bits of a float32 that hold it."""

    name: str
    exponent: int
    fraction: int
    ignored: int = 0

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.fraction

    def parts(self, value: float) -> tuple[str, float]:
        """The bits of `value` rounded to nearest, in this format, and the number that they stand for."""
        if self.name == "TF32":
            bits = int(torch.tensor(value, dtype=torch.float32).view(torch.int32)) & 0xFFFFFFFF
            bits += 0xFFF + (bits >> 13 & 1)  # to nearest, ties to even
            number = torch.tensor(bits & 0xFFFFE000, dtype=torch.int64).to(torch.uint32).view(torch.float32)
            return f"{bits >> 13:019b}", number.item()
        number = torch.tensor(value, dtype=getattr(torch, self.name))
        integer = {16: torch.int16, 32: torch.int32}[self.bits]
        return f"{int(number.view(integer)) & (1 << self.bits) - 1:0{self.bits}b}", number.item()


FLOAT_FORMATS = (
    FloatFormat("float32", 8, 23), FloatFormat("TF32", 8, 10, ignored=13),
    FloatFormat("bfloat16", 8, 7), FloatFormat("float16", 5, 10),
)


def draw_formats(value: float) -> Picture:
    """The bits of `value` in float32, TF32, bfloat16 and float16, and the number that is kept of it."""
    kept = {f.name: f.parts(value) for f in FLOAT_FORMATS}
    alt = [f"{f.name}: {f.exponent} bits of exponent, {f.fraction} of fraction; {value:.10g} is kept as {number:.10g}"
           for f, (_, number) in zip(FLOAT_FORMATS, kept.values())]
    height = TOP + ROW * len(FLOAT_FORMATS)
    figure = Picture(WIDTH, height, "\n".join(alt))
    axes = figure.sheet(down=True)
    x = LEFT
    for colour, label in ((SIGN, "sign"), (EXPONENT, "exponent: how large"), (FRACTION, "fraction: how exact")):
        axes.add_patch(Rectangle((x, 0.15), 0.2, 0.2, facecolor=colour, edgecolor=INK, linewidth=0.8))
        axes.text(x + 0.28, 0.26, label, color=INK, fontsize=10, va="center")
        x += 0.6 + 0.085 * len(label)
    for i, f in enumerate(FLOAT_FORMATS):
        y, (digits, number) = TOP + ROW * i + 0.08, kept[f.name]
        axes.text(LEFT - 0.12, y + 0.14, f.name, color=INK, fontsize=10, family="monospace", ha="right", va="center")
        for j in range(f.bits + f.ignored):
            part = SIGN if j == 0 else EXPONENT if j <= f.exponent else FRACTION
            style = dict(facecolor=part, edgecolor="#ffffff") if j < f.bits else MASKED
            axes.add_patch(Rectangle((LEFT + CELL * j, y), CELL, 0.28, **{"linewidth": 0.7, **style}))
        for j, digit in enumerate(digits):
            axes.text(LEFT + CELL * (j + 0.5), y + 0.145, digit, color=INK, fontsize=7.5, ha="center", va="center")
        axes.add_patch(Rectangle((LEFT, y), CELL * f.bits, 0.28, fill=False, edgecolor=INK, linewidth=1.2))
        note = "13 bits ignored" if f.ignored else ""
        axes.text(LEFT + CELL * f.bits, y + 0.4, note, color=FAINT, fontsize=8, va="center")
        axes.text(LEFT + CELL * 32 + 0.2, y + 0.145, f"{number:.10g}", color=INK, fontsize=10, va="center")
    return figure


def draw_number_line(fraction: int = 2, smallest: int = -2, largest: int = 2) -> Picture:
    """All numbers from 0 on of a small format: `fraction` bits, and powers of two from `smallest` to `largest`.

    A colour for each power of two; below the smallest one the steps stay the same, down to 0 (subnormal numbers).
    """
    steps = 2**fraction
    numbers = {e: [2.0**e * (1 + i / steps) for i in range(steps)] for e in range(smallest, largest + 1)}
    subnormal = [2.0**smallest * i / steps for i in range(steps)]
    end = 2.0 ** (largest + 1)
    widths = [f"from {2.0**e:g} to {2.0 ** (e + 1):g} in steps of {2.0**e / steps:g}" for e in numbers]
    figure = Picture(WIDTH, 1.75, f"{steps} numbers {f', {steps} '.join(widths)}; {steps} below, in the smallest step")
    axes = figure.add_axes((0.03, 0.32, 0.94, 0.4), xlim=(-0.02 * end, 1.02 * end), ylim=(0, 1))
    groups = [(subnormal, 0.0, 2.0**smallest, "#c9c9cf")]
    groups += [(numbers[e], 2.0**e, 2.0 ** (e + 1), COLOURS[i % 8]) for i, e in enumerate(numbers)]
    for members, first, last, colour in groups:
        axes.add_patch(Rectangle((first, 0), last - first, 0.55, facecolor=colour, edgecolor="none", alpha=0.55))
        axes.vlines(members, 0, 0.8, color=INK, linewidth=1.3)
    axes.set_yticks([])
    powers = [0.0, *(2.0**e for e in range(smallest, largest + 2) if 2.0**e >= end / 16)]
    axes.set_xticks(powers, [f"{p:g}" for p in powers])
    style_axes(axes, bare=("top", "right", "left"))
    for e in range(smallest, largest + 1):
        if 2.0**e >= end / 16:
            text = f"step {2.0**e / steps:g}"
            axes.text(1.5 * 2.0**e, 0.92, text, color=INK, fontsize=9, ha="center", va="bottom")
    note = f"{fraction} bits of fraction: {steps} numbers from each power of two to the next; grey: subnormal"
    figure.text(0.03, 0.06, note, color=INK, fontsize=9)
    return figure
