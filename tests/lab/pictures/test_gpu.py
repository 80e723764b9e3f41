"""The picture that opens the course."""
import os

from course import lab


def test_the_parts_and_their_sizes():
    h200, picture = lab.hardware("nvidia-h200"), lab.draw_gpu()
    blue = [patch for patch in picture.axes[0].patches if patch.get_label() == "multiprocessor"]
    assert len(blue) == h200["multiprocessors"]
    for words in (f"{h200['multiprocessors']} multiprocessors", f"{h200['copy_gbps']:,} GB/s", "4 quarters", "64 KiB"):
        assert words in picture.alt
    picture.savefig(os.devnull, format="png")
