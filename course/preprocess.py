"""What a checkpoint expects done to an image before the model sees it."""
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from course.formats.keys import (
    BOOLEAN, NUMBER, POSITIVE, Expected, among, checked, either, integer, is_integer, several,
)

RESIZED_WHOLE = 2**24
"""Pixels up to which an image is resized first and cropped afterwards, as torchvision does."""

MOST_PIXELS = 2**27
"""The largest result: 400 MB in 8 bits, more than any model takes."""


def rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode in RGB, 8 bits a channel.

    Pillow's own conversion, but for the modes where that cuts off what is above 255. 16 bits ("I;16") become 8 by
    dividing by 257. What is white in a 32-bit image ("I" or "F") its mode does not say: it is taken to be the smallest
    of 1 (of fractions alone), 255 and 65535 that no value exceeds. Raises ValueError on values below 0, above 65535,
    or not finite.
    """
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image).astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535):
        raise ValueError(f"image: expected values from 0 to 65535 in mode {image.mode}, "
                         f"got {values.min():g} to {values.max():g}")
    if image.mode.startswith("I;16"):
        white = 65535
    else:
        white = next(w for w in ((1, 255, 65535) if image.mode == "F" else (255, 65535)) if values.max() <= w)
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")


SIZE = Expected(
    "as height and width, or shortest_edge",
    lambda size: either(integer(1), several(integer(1), 2)).fits(size) or (
        isinstance(size, Mapping) and set(size) in ({"height", "width"}, {"shortest_edge"})
        and all(map(integer(1).fits, size.values()))
    ),
)
KEYS = {
    "size": SIZE, "crop_size": SIZE, "resample": integer(0, max(Image.Resampling)), "rescale_factor": POSITIVE,
    "image_mean": either(NUMBER, several(NUMBER, 3)), "image_std": either(POSITIVE, several(POSITIVE, 3)),
    "do_resize": BOOLEAN, "do_center_crop": BOOLEAN, "do_rescale": BOOLEAN, "do_normalize": BOOLEAN,
    "do_pad": among(False), "do_flip_channel_order": among(False), "rescale_offset": among(False),
}
"""What a preprocessor_config.json may say; what is not done here must not be asked for."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a checkpoint expects done to a PIL image: resize, crop the centre, scale, normalise.

    Called with an image of any size and mode, returns (3, height, width) in float32. Raises ValueError on an image
    without pixels, and on one that would become larger than MOST_PIXELS.
    """

    size: tuple[int, int] | int | None = 256
    """(height, width), or the shorter side's length with the proportions kept, or None: as it comes."""
    crop: tuple[int, int] | None = (224, 224)
    resample: Image.Resampling = Image.Resampling.BILINEAR
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    round_offset: Callable[[float], int] = round
    """How the crop's offset becomes whole; torchvision rounds half to even, transformers towards 0."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if 0 in image.size:
            raise ValueError(f"preprocess: expected an image of at least 1 by 1 pixels, got {image.width} by "
                             f"{image.height}")
        image = self._cut(image)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() * self.scale
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
        return ((x - mean) / std).contiguous()

    def _cut(self, image):
        """The image in RGB, resized and cropped. Of one that would become very large, a thin one whose shorter side
        is enlarged, only what the crop keeps is computed, from the same pixels."""
        height, width = self._resized(image.height, image.width)
        top, left, bottom, right = 0, 0, height, width
        if self.crop is not None:
            top, left = (self.round_offset((n - c) / 2) for n, c in zip((height, width), self.crop))
            bottom, right = top + self.crop[0], left + self.crop[1]
        kept = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
        if (bottom - top) * (right - left) > MOST_PIXELS:
            raise ValueError(f"preprocess: expected at most {MOST_PIXELS} pixels, got {right - left} by {bottom - top} "
                             f"from an image of {image.width} by {image.height}")
        image = rgb(image)
        if self.size is not None and height * width <= RESIZED_WHOLE:
            image = image.resize((width, height), self.resample)
        elif self.size is not None:
            box = (kept[1] / width, kept[0] / height, kept[3] / width, kept[2] / height)  # in parts of the whole
            image = image.resize(
                (kept[3] - kept[1], kept[2] - kept[0]), self.resample,
                box=[part * n for part, n in zip(box, 2 * image.size)],
            )
            top, left, bottom, right = top - kept[0], left - kept[1], bottom - kept[0], right - kept[1]
        return image if self.crop is None else image.crop((left, top, right, bottom))

    def _resized(self, height, width):
        if self.size is None:
            return height, width
        if not isinstance(self.size, int):
            return self.size
        short = min(height, width)
        return int(self.size * height / short), int(self.size * width / short)

    @classmethod
    def from_huggingface(cls, config: Mapping, where: str = "preprocessor_config") -> "Preprocess":
        """From the contents of a preprocessor_config.json; what it leaves out is as in ViTImageProcessor.

        Raises ValueError, which begins with `where`, on values that are not as in KEYS.
        """
        config = checked(where, {key: value for key, value in config.items() if value is not None}, KEYS)
        normalise = config.get("do_normalize", True)
        return cls(
            size=cls._size(config.get("size", 224)) if config.get("do_resize", True) else None,
            crop=cls._crop(where, config.get("crop_size", 224)) if config.get("do_center_crop", False) else None,
            resample=Image.Resampling(config.get("resample", Image.Resampling.BILINEAR)),
            scale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
            mean=cls._channels(config.get("image_mean", 0.5)) if normalise else (0.0,) * 3,
            std=cls._channels(config.get("image_std", 0.5)) if normalise else (1.0,) * 3,
            round_offset=int,
        )

    @staticmethod
    def _size(size):
        match size:
            case {"height": height, "width": width}:
                return height, width
            case {"shortest_edge": short}:
                return short
            case (height, width):
                return height, width
        return size, size  # as written before transformers 4.22

    @classmethod
    def _crop(cls, where, size):
        crop = cls._size(size)
        if is_integer(crop):
            raise ValueError(f"{where}: expected crop_size as height and width, got {size}")
        return crop

    @staticmethod
    def _channels(value):
        """One number for each channel."""
        return tuple(map(float, value)) if isinstance(value, (list, tuple)) else (float(value),) * 3

    @classmethod
    def from_torchvision(cls, transforms: torch.nn.Module) -> "Preprocess":
        """From the `transforms()` of torchvision's classification weights."""
        return cls(
            size=transforms.resize_size[0], crop=(transforms.crop_size[0],) * 2,
            resample=Image.Resampling[transforms.interpolation.name],
            mean=tuple(transforms.mean), std=tuple(transforms.std),
        )
