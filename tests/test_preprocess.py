import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from course.data import photos
from course import preprocess as module
from course.preprocess import Preprocess


def pictures():
    yield from photos().values()
    noise = torch.randint(256, (3, 300, 259), dtype=torch.uint8)
    for size in ((300, 259), (259, 300), (33, 8), (8, 8)):
        yield Image.fromarray(noise.permute(1, 2, 0).numpy()).resize(size)


@pytest.mark.parametrize("options", [
    {"size": {"height": 224, "width": 224}}, {"size": {"height": 20, "width": 33}, "resample": 3},
    {"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": {"height": 25, "width": 24}},
    {"do_resize": False, "do_normalize": False}, {"size": {"height": 9, "width": 9}, "do_rescale": False},
    {"size": {"height": 9, "width": 9}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 0},
    {"image_mean": 0.25, "image_std": 2}, {"size": [20, 33]},
], ids=str)
def test_as_huggingface(tmp_path, options):
    original = ViTImageProcessorPil(**options)
    original.save_pretrained(tmp_path)
    preprocess = Preprocess.from_huggingface(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    for image in pictures():
        got, want = preprocess(image), original(image, return_tensors="pt").pixel_values[0]
        assert got.dtype == torch.float32 and got.is_contiguous()
        torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)


def test_what_huggingface_leaves_out():
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    assert Preprocess.from_huggingface(old) == Preprocess.from_huggingface({})
    with pytest.raises(ValueError, match="expected size as height and width.* got {'longest_edge': 8}"):
        Preprocess.from_huggingface({"size": {"longest_edge": 8}})


@pytest.mark.parametrize("weights", [ResNet18_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2], ids=str)
def test_as_torchvision(weights):
    original = weights.transforms()
    preprocess = Preprocess.from_torchvision(original)
    for image in pictures():
        torch.testing.assert_close(preprocess(image), original(image), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_mode(mode):
    image = next(pictures())
    assert torch.equal(Preprocess()(image.convert(mode)), Preprocess()(image.convert(mode).convert("RGB")))


PLAIN = Preprocess(size=None, crop=None, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
"""The image as it comes, in 8 bits."""


@pytest.mark.parametrize("values, want", [
    (np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16), [0, 0, 1, 1, 128, 255]),
    (np.array([[0, 1, 255]], np.uint16), [0, 0, 1]), (np.array([[0, 257, 65535]], ">u2"), [0, 1, 255]),
    (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]), (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
    (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]), (np.array([[0, 0.5, 200]], np.float32), [0, 0, 200]),
    (np.array([[0, 257, 65535]], np.float32), [0, 1, 255]),
], ids=str)
def test_more_than_8_bits(values, want):
    got = PLAIN(Image.fromarray(values))
    assert got.shape == (3, 1, len(want)) and (got == torch.tensor(want)).all()


@pytest.mark.parametrize("value", [-1, 65536, float("nan"), float("inf")])
def test_values_without_a_white(value):
    with pytest.raises(ValueError, match="image: expected values from 0 to 65535 in mode F, got "):
        PLAIN(Image.fromarray(np.array([[0, value]], np.float32)))


@pytest.mark.parametrize("mode", ["P", "LA", "PA", "RGBA"])
def test_transparency_is_left_out_as_by_transformers(mode):
    image = Image.new("RGBA", (3, 2), (10, 200, 30, 0)).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = PLAIN(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(got, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float())


@pytest.mark.parametrize("size", [(65_000, 1), (1, 65_000)])
def test_a_thin_image_is_cropped_before_it_is_enlarged(size, monkeypatch):
    """Whole, it would have 4 thousand million pixels."""
    resized, resize = [], Image.Image.resize

    def watched(self, size, *args, **kwargs):
        resized.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.fromarray(np.random.randint(0, 256, (size[1], size[0], 3), np.uint8))
    assert Preprocess()(image).shape == (3, 224, 224)
    assert resized == [(224, 224)]


@pytest.mark.parametrize("resample", Image.Resampling)
@pytest.mark.parametrize("crop", [(224, 224), (300, 200), (20, 40)])
def test_cropped_first_or_last_is_the_same(resample, crop, monkeypatch):
    """Up to one step of 256: Pillow takes rows or columns first as either is cheaper, and rounds between the two."""
    preprocess = dataclasses.replace(PLAIN, size=256, resample=resample, crop=crop)
    thin = Image.fromarray(np.random.randint(0, 256, (3, 1500, 3), np.uint8))
    upright = thin.transpose(Image.Transpose.ROTATE_90)
    for image, steps in [*((photo, 1) for photo in photos().values()), (thin, 0), (upright, 0)]:
        want = preprocess(image)
        with monkeypatch.context() as patch:
            patch.setattr(module, "RESIZED_WHOLE", 0)
            torch.testing.assert_close(preprocess(image), want, rtol=0, atol=steps)


def test_what_would_not_fit_into_memory():
    thin = Image.new("RGB", (65_000, 1))
    for options in ({"crop": None}, {"size": (2**20, 2**20), "crop": None}, {"crop": (2**16, 2**16)}):
        with pytest.raises(ValueError, match="preprocess: expected at most 134217728 pixels, got .* 65000 by 1$"):
            Preprocess(**options)(thin)
    with pytest.raises(ValueError, match="preprocess: expected an image of at least 1 by 1 pixels, got 0 by 4"):
        Preprocess()(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("key, value", [
    ("resample", 99), ("resample", "bicubic"), ("resample", 2.0), ("image_mean", [0.5]), ("image_mean", "0.5"),
    ("image_mean", float("nan")), ("image_std", 0), ("image_std", [0.5, 0, 0.5]), ("image_std", -1), ("size", 0),
    ("size", "224"), ("size", {"height": "224", "width": 224}), ("size", {"height": 224}), ("size", {}),
    ("size", [224]), ("crop_size", -3), ("rescale_factor", "1/255"), ("rescale_factor", 0), ("do_resize", "yes"),
    ("do_normalize", 1), ("do_pad", True), ("do_flip_channel_order", True), ("rescale_offset", True),
])
def test_keys(key, value):
    with pytest.raises(ValueError, match=f"^file.json: expected {key} .*, got ") as error:
        Preprocess.from_huggingface({key: value}, "file.json")
    assert "\n" not in str(error.value)


def test_crop_needs_both_sides():
    with pytest.raises(ValueError, match="preprocessor_config: expected crop_size as height and width, got {'shortest"):
        Preprocess.from_huggingface({"do_center_crop": True, "crop_size": {"shortest_edge": 5}})
