"""What notebooks show: text, and sharp figures on a light card, which read in a dark theme too."""
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 9.0
"""Inches: what a notebook shows without scaling."""

CARD, INK, FAINT = "#fbfaf7", "#22222a", "#8a8a94"
COLOURS = ["#7cc4ea", "#f6b44b", "#5fc79d", "#e58fc0", "#a79bea", "#e9df5c", "#f08a6c", "#b8b08d"]
"""One a program, or a provider: apart in lightness as well as in hue, and dark text is legible on each."""

MARKERS = "osD^vP*X"
"""One a provider, for those who do not tell its colour from the others."""

RIGHT, WRONG = COLOURS[2], "#d1495b"
GREY, LIGHT_GREY = "#d5d9de", "#dededf"
"""Of what belongs to no one program."""

GRID = "#d0d0d4"
"""Of the lines between cells."""

MASKED = dict(facecolor=LIGHT_GREY, edgecolor="#77777f", hatch="////")


class Picture(Figure):
    """A matplotlib figure that shows itself once, with words for those who cannot see it."""

    def __init__(self, width: float, height: float, alt: str):
        super().__init__(figsize=(width, height), dpi=100, facecolor=CARD)
        self.alt = alt

    def __str__(self):
        return self.alt

    __repr__ = __str__

    def place(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """For `add_axes`: this many inches from the left and lower edges, and this size."""
        across, up = self.get_size_inches()
        return left / across, bottom / up, width / across, height / up

    def sheet(self, *, down: bool = False) -> Axes:
        """Axes over all of the figure, in inches from its lower left corner, or `down` from its upper left one."""
        width, height = self.get_size_inches()
        axes = self.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0) if down else (0, height))
        axes.axis("off")
        return axes

    def _repr_mimebundle_(self, include=None, exclude=None):
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=160)
        width, height = (int(100 * inches) for inches in self.get_size_inches())
        png = {"width": width, "height": height, "alt": self.alt}
        return {"image/png": file.getvalue(), "text/plain": self.alt}, {"image/png": png}


class Markdown:
    """Text that a notebook sets, with code in the colours of its theme."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self):
        return self.text

    def _repr_markdown_(self):
        return self.text
