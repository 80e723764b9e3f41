"""What posts/convolution_as_matmul.md says is what is computed, and the pictures are those of the code."""
import re
from pathlib import Path

import pytest

from posts.draw_convolution import FIGURES, counts

POST = (Path(__file__).parents[1] / "posts" / "convolution_as_matmul.md").read_text()

SENTENCES = [
    "the images have {image_mb:.1f} MB and so has the result; the weights, {weights_kb:.0f} kB, hardly count",
    "The operations are {gflop:.1f} thousand million",
    "there are {operations_per_byte:.0f} operations for every byte",
    "An H200 copies {copy_gbps:,} GB/s and multiplies large matrices at {matmul_bf16_tflops} TFLOP/s, both measured: "
    "that is {balance:.0f} operations for each byte",
    "the bytes take {alone_us:.0f} microseconds, the operations {operations_us:.0f}",
    "products, here {terms}",
    "nine windows and 64 filters, {uses} times altogether",
    "has {products_e9:.1f} thousand million of these, so that {loaded_gb:.1f} GB travel",
    "the product is {pixels:,} rows by {terms} terms",
    "nine times as large as the images, {matrix_mb:.0f} MB instead of {image_mb:.1f}",
    "that makes {im2col_mb:.0f} MB, ten times as much, and {im2col_us:.0f} microseconds of memory traffic for "
    "{operations_us:.0f} microseconds of multiplication",
    "the matrix of this one layer has {matrix_256_mb:.0f} MB",
    "the difference between {im2col_mb:.0f} MB and {alone_mb:.0f}",
    "that makes {one_by_one_mb:.0f} MB instead of {alone_mb:.0f}, and {one_by_one_us:.0f} microseconds",
    "That makes {fused_mb:.0f} MB and {fused_us:.0f} microseconds",
    "on a GPU with {multiprocessors} multiprocessors",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_counts(sentence):
    text = re.sub("<!--.*?-->", "", POST)
    assert sentence.format(**counts()) in " ".join(text.split())


def test_pictures_are_drawn_by_the_code_and_all_shown():
    assert sorted(re.findall(r"\]\(figures/(\S+)\)", POST)) == sorted(FIGURES)
    assert all((Path(__file__).parents[1] / "posts" / "figures" / name).is_file() for name in FIGURES)


def test_a_picture_says_what_the_text_beside_it_says():
    words = repr(FIGURES["convolution_times.png"]())
    for name in ("alone", "im2col", "one_by_one", "fused"):
        assert f": {counts()[f'{name}_us']:.0f} microseconds" in words
