"""`draw_online`, by its words."""
import os

import pytest
import torch

from course import lab


def test_online_keeps_maximum_and_sum():
    picture = lab.draw_online([0.0, 1.0, 3.0, 2.0, -1.0], 2)
    assert picture.alt.splitlines() == [
        "block 0: m = 1.00, s = 1.37",
        "block 1: m = 3.00, s = 1.37 × 0.14 + 1.37 = 1.55",
        "block 2: m = 3.00, s = 1.55 × 1.00 + 0.02 = 1.57",
    ]
    picture.savefig(os.devnull, format="png")
    assert f"{float(torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0]).sub(3).exp().sum()):.2f}" == "1.57"


def test_online_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="draw_online: expected 1 to 6 blocks to draw, got 7"):
        lab.draw_online([0.0] * 7, 1)
