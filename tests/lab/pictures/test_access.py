"""`draw_access`, by its words and patches."""
import os

import pytest
import torch

from course import lab
from course.runtime import DEVICE
from tests.lab.kernels import double_kernel, outer_kernel, softmax_kernel, vector


def test_shows_itself_once_with_words():
    x = torch.randn(3, 5, device=DEVICE)
    picture = lab.draw_access(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8)
    data, metadata = picture._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["alt"] == data["text/plain"]
    assert "60 bytes read, 60 written" in data["text/plain"] == repr(picture)


def test_many_programs_and_shared_elements():
    a, b, c = vector(16), vector(12), torch.empty(16, 12, device=DEVICE)
    lab.draw_access(outer_kernel, (8, 2), a, b, c, 16, 12, BLOCK_M=2, BLOCK_N=8).savefig(os.devnull, format="png")


def test_masked_lanes_can_be_left_out():
    launch = softmax_kernel, (3,), torch.randn(3, 5, device=DEVICE), torch.empty(3, 5, device=DEVICE), 5, 5
    shown = {masked: lab.draw_access(*launch, masked=masked, BLOCK_N=8) for masked in (True, False)}
    hatched = {
        masked: sum(patch.get_hatch() is not None for axes in picture.axes for patch in axes.patches)
        for masked, picture in shown.items()
    }
    assert hatched == {True: 2 * 3 * 3 + 1, False: 0} and repr(shown[True]) == repr(shown[False])


def test_large_inputs_are_refused():
    with pytest.raises(ValueError, match="draw_access: expected at most 64 rows and columns to draw, got 1 x 128"):
        lab.draw_access(double_kernel, (2,), vector(128), vector(128), 128, BLOCK=64)
