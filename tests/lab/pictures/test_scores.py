import os

import pytest
import torch

from course import lab
from course.lab.pictures.scores import ScoreTiles

CAUSAL = torch.ones(30, 30, dtype=torch.bool).tril()


def test_causal_tiles():
    tiles = ScoreTiles(CAUSAL, 8, 8)
    assert (tiles.rows, tiles.columns) == (32, 32)
    assert tiles.turns == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert tiles.masked == 4  # the diagonal; a query that does not exist needs none


def test_keys_that_do_not_fill_a_tile_need_a_mask():
    tiles = ScoreTiles(torch.ones(9, 10, dtype=torch.bool), 4, 8)
    assert tiles.turns == 3 * [[0, 1]] and tiles.masked == 3
    assert tiles.summary == "6 tiles of 4 × 8, 3 with a mask"


def test_a_window_skips_on_both_sides():
    tokens = torch.arange(30)
    age = tokens[:, None] - tokens[None, :]
    tiles = ScoreTiles((age >= 0) & (age < 8), 8, 8)
    assert tiles.turns == [[0], [0, 1], [1, 2], [2, 3]]


def test_drawn_side_by_side_in_words_and_pixels():
    picture = lab.draw_scores({"causal": CAUSAL, "all": torch.ones(20, 60, dtype=torch.bool)}, 8, 16)
    assert repr(picture) == (
        "causal: 6 tiles of 8 × 16, 4 with a mask, 2 of 8 skipped\nall: 12 tiles of 8 × 16, 3 with a mask"
    )
    picture.savefig(os.devnull, format="png")


def test_large_inputs_are_refused():
    with pytest.raises(ValueError, match=r"draw_scores: expected at most 64 queries and keys, got \(65, 3\)"):
        lab.draw_scores({"tall": torch.ones(65, 3, dtype=torch.bool)}, 8, 8)
