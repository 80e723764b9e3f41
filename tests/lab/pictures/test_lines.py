import numpy as np
import pytest

from course import lab


def shown(picture):
    return picture._repr_mimebundle_()[0]["image/png"]


class TestPlotLines:
    def test_curves_and_words(self):
        lines = {"a": [1, 2, 3], "b": [3.0, np.inf, 1e-9]}
        picture = lab.plot_lines([1, 10, 100], lines, across="n", up="error", log="xy")
        assert picture.alt == "error over n, from 1 to 100. a: 1 … 3; b: 3 … 1e-09"
        assert shown(picture) and "a" in [text.get_text() for text in picture.axes[0].get_legend().get_texts()]
        assert (picture.axes[0].get_xscale(), picture.axes[0].get_yscale()) == ("log", "log")

    def test_many_points_are_not_marked(self):
        marked, plain = (lab.plot_lines([0, 1], {"a": [0, 1]}, across="x", up="y", marks=m) for m in (True, False))
        assert [p.axes[0].lines[-1].get_marker() for p in (marked, plain)] == ["o", "None"]
        assert plain.axes[0].get_xscale() == "linear"

    def test_lengths_must_agree(self):
        with pytest.raises(ValueError, match="plot_lines: expected 2 values for 'a', got 3"):
            lab.plot_lines([1, 2], {"a": [1, 2, 3]}, across="x", up="y")
