import math
import os

import pytest
import torch

from course import lab
from course.lab.pictures.numbers import FLOAT_FORMATS

FLOAT32, TF32, BFLOAT16, FLOAT16 = FLOAT_FORMATS


@pytest.mark.parametrize("f, bits", [
    (FLOAT32, "1 01111111 10000000000000000000000"), (TF32, "1 01111111 1000000000"), (BFLOAT16, "1 01111111 1000000"),
    (FLOAT16, "1 01111 1000000000"),
], ids=lambda x: getattr(x, "name", ""))
def test_bits_of_minus_one_and_a_half(f, bits):
    assert f.parts(-1.5) == (bits.replace(" ", ""), -1.5)


@pytest.mark.parametrize("f, fraction", [(FLOAT32, 23), (TF32, 10), (BFLOAT16, 7), (FLOAT16, 10)])
def test_rounds_to_nearest_and_ties_to_even(f, fraction):
    step = 2.0**-fraction
    assert f.parts(1 + 0.5 * step)[1] == 1.0
    assert f.parts(1 + 1.5 * step)[1] == 1 + 2 * step
    assert f.parts(1 + 0.75 * step)[1] == 1 + step
    assert f.parts(2 - 0.25 * step)[1] == 2.0


def test_tf32_has_the_range_of_float32():
    assert TF32.parts(1e38)[1] == pytest.approx(1e38, rel=2**-11)
    assert FLOAT16.parts(1e38)[1] == math.inf


@pytest.mark.parametrize("picture, words", [
    (lambda: lab.draw_formats(math.pi), "float16: 5 bits of exponent, 10 of fraction; 3.141592654 is kept as 3.140625"),
    (lambda: lab.draw_number_line(), "4 numbers from 0.25 to 0.5 in steps of 0.0625"),
])
def test_pictures(picture, words):
    assert words in repr(picture())
    picture().savefig(os.devnull, format="png")


def test_parts_agree_with_pytorch():
    for value in torch.randn(50).tolist():
        assert BFLOAT16.parts(value)[1] == torch.tensor(value).bfloat16().item()
