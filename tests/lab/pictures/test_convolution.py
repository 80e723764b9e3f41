import os

import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgba

from course.lab.pictures.convolution import draw_boxes, draw_im2col, draw_step, draw_terms
from course.lab.pictures.palette import COLOURS


def texts(axes):
    """A panel's texts by where they stand: (row, column), in cells of 1."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts[1:]}


@pytest.mark.parametrize("size, kernel_size, stride, padding", [
    ((4, 4), (3, 3), 1, 1), ((5, 6), (3, 2), 2, 1), ((4, 5), (1, 1), 1, 0),
])
def test_windows_are_those_of_pytorch(size, kernel_size, stride, padding):
    picture = draw_im2col(size, kernel_size, stride=stride, padding=padding, pixel=(1, 1))
    picture.savefig(os.devnull, format="png")
    numbers = torch.arange(1.0, 1 + size[0] * size[1]).view(1, 1, *size)  # 0 stands for the padding
    wanted = F.unfold(numbers, kernel_size, padding=padding, stride=stride)[0].T.int()
    drawn = texts(picture.axes[1])
    assert len(drawn) == wanted.numel()
    for (row, column), text in drawn.items():
        assert text == (str(wanted[row, column].item() - 1) if wanted[row, column] else "")
    assert f"its {len(wanted)} windows of {kernel_size[0]} × {kernel_size[1]}" in repr(picture)


@pytest.mark.parametrize("order", ["rsc", "crs"])
def test_terms_stand_in_the_order_of_the_weights(order):
    R, S, C = 3, 2, 4
    picture = draw_terms((R, S), C, 8, order)
    picture.savefig(os.devnull, format="png")
    words = [t.get_text() for t in picture.axes[0].texts]
    assert words[:4] == ["term", *order] and words[-3:] == ["step 0", "step 1", "step 2"]
    sizes = {"r": R, "s": S, "c": C}
    indices = torch.cartesian_prod(*(torch.arange(sizes[name]) for name in order))
    drawn = torch.tensor([int(word) for word in words[4:-3]]).view(R * S * C, 4)
    assert drawn[:, 0].equal(torch.arange(R * S * C)) and drawn[:, 1:].equal(indices)


def test_boxes_are_shifted_by_their_taps():
    picture = draw_boxes((6, 7), box=(2, 4), corner=(0, 3), taps=[(0, 0), (2, 2)])
    picture.savefig(os.devnull, format="png")
    assert "a box of that size: tap (0, 0) from row -1, column 2 on" in repr(picture)
    covered = [
        {(int(p.get_y()), int(p.get_x())) for p in axes.patches if p.get_facecolor() == to_rgba(COLOURS[0])}
        for axes in picture.axes
    ]
    assert covered == [{(0, w) for w in range(2, 6)}, {(h, w) for h in (1, 2) for w in (4, 5, 6)}]


def test_a_step_needs_the_elements_that_stand_in_its_tile():
    picture = draw_step((4, 4), (3, 3), pixels=range(4, 8), terms=range(3, 6), padding=1)
    picture.savefig(os.devnull, format="png")
    image, windows = (
        {(int(p.get_y()), int(p.get_x())) for p in axes.patches if p.get_facecolor() == to_rgba(COLOURS[0])}
        for axes in picture.axes[:2]
    )
    assert windows == {(m, term) for m in range(4, 8) for term in range(3, 6)}
    assert image == {(2, w) for w in range(1, 5)}  # row 1, below a row of padding
    assert "a tile of 12 made of 4 elements of the image" in repr(picture)
