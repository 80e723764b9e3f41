"""A model beside the original: layer by layer, then every image's answer."""
import itertools
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from course import data, originals, runtime, verify as verification
from course.commands.images import batches, prepared
from course.commands.models import SHIPPED, find, load, with_classes
from course.commands.terminal import is_log
from course.files import whole
from course.precision import full_precision

LAYER_IMAGES = 8
"""Images in the comparison layer by layer, which keeps every layer's output."""


def verify(
    model: str, images: str | None = None, dtype: str = "float32", batch: int = 64, dump: str | None = None
) -> int:
    """Our model beside the original, a line a layer and then every image's answer; 1 if they differ too much, else 2
    if there were files that could not be read, which are named on stderr."""
    if dump:
        check_writable(Path(dump))
    folder = data.ImageFolder(images) if images else None
    comparison = Comparison(model, folder or shipped_images(model), getattr(torch, dtype), batch)
    print(f"{model} in {dtype} and the original in float32, on {len(comparison.first)} images")
    print(verification.table(comparison.rows, comparison.dtype))
    if dump:
        write(comparison.outputs, Path(dump))
    code = comparison.report()
    return code or (2 if folder and folder.unreadable else 0)


def shipped_images(model: str) -> list[data.Sample]:
    """What a model is tried on if nothing else is asked for: the held-out digits for those that read digits, two
    photographs for others."""
    if model in SHIPPED:
        return digits()
    return [data.Sample(Path(name), image, None) for name, image in data.photos().items()]


def digits(most: int | None = None) -> list[data.Sample]:
    scans, labels = data.digit_scans("test")
    samples = [data.Sample(Path(f"digit {i}"), scan, str(label.item())) for i, (scan, label) in
               enumerate(zip(scans, labels))]
    return samples[:most]


def check_writable(file: Path) -> None:
    """Raises OSError where no file can be written: better now than after all is computed."""
    if file.is_dir():
        raise IsADirectoryError(f"verify: expected --dump with a file, got the folder {file}")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"verify: --dump {file}: no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"verify: --dump {file}: cannot write to {file.parent}")


def write(outputs: dict[str, torch.Tensor], file: Path) -> None:
    try:
        with whole(file) as partial:
            save_file({name: t.contiguous() for name, t in outputs.items()}, partial)
    except safetensors.SafetensorError as error:  # what a full disk raises, for instance
        raise OSError(f"verify: cannot write {file}: {error}") from None


def original(model: str) -> torch.nn.Module:
    """The model called so, as its own library builds it."""
    found = find(model)
    if found.family == "resnet":
        return originals.original_resnet(found.source)
    if is_log():
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
    return originals.original_vit(found.source)


class Comparison:
    """Our model and the original on the same images: `rows`, a line a layer, from the `first` of them."""

    def __init__(self, model: str, samples: data.ImageFiles | list[data.Sample], dtype: torch.dtype = torch.float32,
                 batch: int = 64):
        self.dtype, self.batch, self.samples = dtype, batch, samples
        self.ours = with_classes(load(model, dtype), model)
        self.original = original(model).to(runtime.DEVICE)
        # read once, and those that the layers are compared on are kept: a file that is skipped is named once
        self.waiting = prepared(samples, self.ours.preprocess)
        self.beginning = list(itertools.islice(self.waiting, LAYER_IMAGES))
        if not self.beginning:
            raise ValueError("verify: none of the images could be read")
        _, first = next(batches(self.beginning, LAYER_IMAGES))
        self.first = first.to(runtime.DEVICE)
        with full_precision():
            pairs = verification.layer_pairs(self.original, self.ours)
            self.rows, self.outputs = verification.compare_layers(self.original, self.ours, pairs, self.first)

    def report(self) -> int:
        """Runs both models on all images and prints the verdict; the exit code."""
        images = itertools.chain(self.beginning, self.waiting)
        bar = tqdm(images, total=len(self.samples), unit="image", disable=None)  # on a terminal alone
        with full_precision():
            agreement = verification.agreement(
                self.original, self.ours, (stack.to(runtime.DEVICE) for _, stack in batches(bar, self.batch))
            )
        fitting = sum(row.within(self.dtype) for row in self.rows)
        worst = max(self.rows, key=lambda row: row.relative)
        print(f"  {fitting} of {len(self.rows)} layers within tolerance; the largest relative error is "
              f"{worst.relative:.1e}, in {worst.name}")
        print(f"  {agreement.same} of {agreement.total} images given the original's class ({agreement.share:.2%})")
        return 0 if fitting == len(self.rows) and agreement.share >= verification.AGREEMENT[self.dtype] else 1
