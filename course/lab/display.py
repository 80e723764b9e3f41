"""What notebooks show: text, and sharp figures on a light card, which read in a dark theme too."""
import io

from matplotlib.figure import Figure

CARD, INK, FAINT = "#fbfaf7", "#22222a", "#8a8a94"
COLOURS = ["#7cc4ea", "#f6b44b", "#5fc79d", "#e58fc0", "#a79bea", "#e9df5c", "#f08a6c", "#b8b08d"]
"""One a program, or a provider: apart in lightness as well as in hue, and dark text is legible on each."""


class Picture(Figure):
    """A matplotlib figure that shows itself once, with words for those who cannot see it."""

    def __init__(self, width: float, height: float, alt: str):
        super().__init__(figsize=(width, height), dpi=100, facecolor=CARD)
        self.alt = alt

    def __str__(self):
        return self.alt

    __repr__ = __str__

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
