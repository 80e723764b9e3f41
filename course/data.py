"""The inputs: handwritten digits and two photographs that come with scikit-learn, and any folder of images."""
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from course.preprocess import rgb

T = TypeVar("T")
Split = Literal["train", "test", "all"]

DIGIT_SIZE = 32
"""Height and width of an enlarged digit."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What `open_image` reads. Pillow reads more, but some of it through other programs (EPS through Ghostscript)."""


def digits(split: Split = "test") -> tuple[torch.Tensor, torch.Tensor]:
    """The digits as both shipped models take them: images (N, 3, 32, 32) float32 in [-1, 1], labels (N,) int64.

    Each scan of `digit_scans` is enlarged by Pillow's bilinear filter, which rounds to 8 bits, and
    normalised as (x / 255 - 0.5) / 0.5. Raises ValueError on an unknown split.
    """
    scans, labels = digit_scans(split)
    enlarged = np.stack([scan.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BILINEAR) for scan in scans])
    return (torch.from_numpy(enlarged).permute(0, 3, 1, 2).float().contiguous() / 255 - 0.5) / 0.5, labels


def digit_scans(split: Split = "test") -> tuple[list[Image.Image], torch.Tensor]:
    """scikit-learn's handwritten digits as scanned, 8x8 RGB images of grey strokes on black, and their labels.

    `test` is a fifth of each digit's scans, 359 in all, drawn once and for good: no shipped model was trained on
    them. `train` is the other 1,438, `all` every one; all in scikit-learn's order. Raises ValueError on another split.
    """
    import sklearn.datasets  # only where it is needed: importing it takes seconds

    scans = sklearn.datasets.load_digits()
    held_out = np.zeros(len(scans.target), dtype=bool)
    random = np.random.RandomState(0)  # NumPy keeps this stream the same in every version
    for digit in range(10):
        written = random.permutation(np.flatnonzero(scans.target == digit))
        held_out[written[: round(len(written) / 5)]] = True

    chosen = {"train": ~held_out, "test": held_out, "all": np.ones_like(held_out)}
    if split not in chosen:
        raise ValueError(f"digits: expected split 'train', 'test' or 'all', got {split!r}")
    grey = np.rint(scans.images[chosen[split]] * (255 / 16)).astype(np.uint8)  # 0..16 becomes 0..255
    return [Image.fromarray(scan).convert("RGB") for scan in grey], torch.from_numpy(scans.target[chosen[split]]).long()


def photos() -> dict[str, Image.Image]:
    """scikit-learn's two photographs by file name, `china.jpg` (a temple) and `flower.jpg` (a dahlia): RGB, 640x427."""
    import sklearn.datasets

    samples = sklearn.datasets.load_sample_images()
    return {Path(name).name: Image.fromarray(image) for name, image in zip(samples.filenames, samples.images)}


def open_image(path: str | Path) -> Image.Image:
    """The image in the file `path`, decoded, in RGB of 8 bits, and upright: turned as a camera's EXIF data say.

    Raises OSError, one line with the file's name, when it is missing, damaged, not in one of FORMATS, or so large that
    Pillow takes it for a decompression bomb.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders of broken files raise whatever they run into: SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's: missing, not permitted, a folder; its words name the file
        reason = str(error).strip().partition("\n")[0].replace(f" {str(path)!r}", "")
        raise OSError(f"cannot decode {path}: {reason}") from error


class Sample(NamedTuple):
    """One image of a folder; `label` is the name of the sub-folder it lies in, None directly in the folder."""

    path: Path
    image: Image.Image
    label: str | None


class ImageFiles:
    """Image files in the order given. Iterating yields a `Sample` an image, opened as it is reached.

    A file that is missing or cannot be decoded is reported on stderr, kept in `unreadable` with its error, and
    skipped. `len()` counts the files.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.unreadable: dict[Path, Exception] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        self.unreadable.clear()
        for path in self.paths:
            try:
                image = open_image(path)
            except OSError as error:
                self.skip(path, error)
                continue
            yield Sample(path, image, self.label(path))

    def skip(self, path: Path, error: Exception) -> None:
        """Reports a file of no use, and keeps it in `unreadable`; also for a file that could be opened."""
        self.unreadable[path] = error
        reason = str(error).removeprefix(f"cannot decode {path}: ")
        print(f"skipped {path}: {reason}", file=sys.stderr)

    def label(self, path: Path) -> str | None:
        return None


class ImageFolder(ImageFiles):
    """The images of a folder and its sub-folders in sorted order, ImageNet's validation folder for one.

    `class_names` are the first-level sub-folders. Raises FileNotFoundError when there is no folder or no image in it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"ImageFolder: no folder {self.folder}")
        Image.init()
        suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
        super().__init__(sorted(
            Path(parent, name)
            for parent, _, names in os.walk(self.folder)
            for name in names
            if Path(name).suffix.lower() in suffixes and not name.startswith(".")
        ))
        if not self.paths:
            raise FileNotFoundError(f"ImageFolder: no image ({', '.join(sorted(suffixes))}) in {self.folder}")
        self.class_names = sorted({label for path in self.paths if (label := self.label(path))})

    def label(self, path: Path) -> str | None:
        """The first-level sub-folder that `path` lies in; None directly in the folder."""
        inside = path.relative_to(self.folder).parts
        return inside[0] if len(inside) > 1 else None


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` consecutive items, the last one shorter. Raises ValueError unless `size` is positive."""
    if size < 1:
        raise ValueError(f"batches: expected a size of at least 1, got {size}")
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
