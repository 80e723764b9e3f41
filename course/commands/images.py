"""Images on their way through a model: opened one by one, computed in batches, none lost to another's fault."""
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from course import data, verify as verification

Prepared = tuple[data.Sample, torch.Tensor]


def files(paths: Sequence[str]) -> data.ImageFiles:
    """Image files, and those of folders. Raises FileNotFoundError on a folder without images."""
    return data.ImageFiles(
        file for path in paths for file in (data.ImageFolder(path).paths if Path(path).is_dir() else [path])
    )


def prepared(
    samples: Iterable[data.Sample], preprocess: Callable[[Image.Image], torch.Tensor]
) -> Iterator[Prepared]:
    """(sample, its image as a model takes it), one after the other. Of files, those that cannot be preprocessed are
    skipped, as are those that cannot be decoded."""
    for sample in samples:
        try:
            image = preprocess(sample.image)
        except ValueError as error:
            if not isinstance(samples, data.ImageFiles):
                raise
            samples.skip(sample.path, error)
            continue
        yield sample, image


def batches(images: Iterable[Prepared], size: int) -> Iterator[tuple[list[data.Sample], torch.Tensor]]:
    """(samples, their images stacked) of up to `size` that follow one another, so that one batch is in memory.

    An image of another size than the one before it begins a new batch: there are models that take them as they come.
    """
    samples, stack = [], []
    for sample, image in images:
        if stack and image.shape != stack[0].shape:
            yield samples, torch.stack(stack)
            samples, stack = [], []
        samples.append(sample)
        stack.append(image)
        if len(stack) == size:
            yield samples, torch.stack(stack)
            samples, stack = [], []
    if stack:
        yield samples, torch.stack(stack)


def answers(
    model: torch.nn.Module, samples: Iterable[data.Sample], size: int
) -> Iterator[tuple[data.Sample, torch.Tensor]]:
    """(sample, logits in float32 on the CPU) of the images that a model can read, in their order.

    Of files, those whose logits are not finite are skipped as well. Raises ValueError on such logits of other images.
    """
    parameter = next(model.parameters())
    for batch, images in batches(prepared(samples, model.preprocess), size):
        with torch.inference_mode():
            logits = model(images.to(parameter.device, parameter.dtype)).float().cpu()
        for sample, row in zip(batch, logits):
            try:
                verification.check_finite(row, sample.path)
            except ValueError as error:
                if not isinstance(samples, data.ImageFiles):
                    raise
                samples.skip(sample.path, error)
                continue
            yield sample, row
