"""`Markdown`: text that a notebook renders."""


class Markdown:
    """Text that a notebook renders, with code in the colours of its theme."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self):
        return self.text

    def _repr_markdown_(self):
        return self.text
