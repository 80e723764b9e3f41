"""`Picture`: a figure that a notebook shows once, sharp, and with a text alternative."""
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course.lab.pictures.palette import CARD

WIDTH = 9.0
"""Inches: what a notebook shows without scaling."""


class Picture(Figure):
    """A matplotlib figure that a notebook shows once, with `alt`, a text for readers who cannot see it."""

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
