"""The colours and markers of every picture: legible on a light card, which is drawn in a dark theme too."""
CARD, INK, FAINT = "#fbfaf7", "#22222a", "#8a8a94"
"""The background, text and lines, and what is less important."""

COLOURS = ["#7cc4ea", "#f6b44b", "#5fc79d", "#e58fc0", "#a79bea", "#e9df5c", "#f08a6c", "#b8b08d"]
"""Of programs, or of providers. They differ in lightness as well as in hue, and dark text is legible on each."""

MARKERS = "osD^vP*X"
"""Of providers, for readers who cannot tell their colours apart."""

RIGHT, WRONG = COLOURS[2], "#d1495b"
GREY, LIGHT_GREY = "#d5d9de", "#dededf"
"""Of what belongs to no single program."""

GRID = "#d0d0d4"
"""Of the lines between cells."""

MASKED = dict(facecolor=LIGHT_GREY, edgecolor="#77777f", hatch="////")
