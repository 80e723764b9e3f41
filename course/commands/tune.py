"""The fastest configurations of a model's kernels on this GPU, measured ahead of its use."""
from collections.abc import Sequence

import torch
from PIL import Image

from course.commands.models import load
from course.fast.tune import tune as tune_model

SIDE = 512
"""Pixels of the image that is preprocessed, to know what the model takes."""


def tune(model: str, batches: Sequence[int] = (1,), dtype: str = "float32") -> int:
    """Prints a line for each number of images: what was measured, and the seconds and CPU seconds that it took."""
    loaded = load(model, getattr(torch, dtype))
    image = loaded.preprocess(Image.new("RGB", (SIDE, SIDE))).to(next(loaded.parameters()))
    for batch in batches:
        done = tune_model(loaded, image.expand(batch, *image.shape))
        print(f"{batch} {'image' if batch == 1 else 'images'}: {done.problems} problems in {done.configurations} "
              f"configurations, {done.kernels} kernels compiled; {done.seconds:.1f} s, {done.cpu_seconds:.1f} s of CPU")
    return 0
