"""`draw_errors`, by its words."""
import os

import pytest
import torch

from course import lab


def test_counts_what_it_draws():
    wanted = torch.tensor([[1.0, 2.0, float("inf")], [3.0, 4.0, float("nan")]])
    got = wanted.clone()
    got[0, 1], got[1, 0] = 7, float("nan")
    picture = lab.draw_errors({"a": (got, wanted), "all": (wanted[0], wanted[0])})
    assert repr(picture) == "a: 4 right, 1 wrong, 1 never written; all: 3 right"
    picture.savefig(os.devnull, format="png")


def test_shapes_are_compared():
    with pytest.raises(ValueError, match=r"draw_errors: expected shape \(2,\), got \(3,\)"):
        lab.draw_errors({"a": (torch.ones(3), torch.ones(2))})
