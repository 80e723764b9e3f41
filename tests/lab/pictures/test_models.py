"""The pictures of models, by the words that come with them."""
import math

import pytest
import torch
from PIL import Image

from course import lab, results
from course.verify import LayerError
from tests.lab.drawn import drawn


def test_gallery_takes_images_of_all_kinds():
    images = [Image.new("RGB", (8, 8)), torch.rand(4, 4), torch.zeros(5, 3, 3, dtype=torch.uint8)]
    assert drawn(lab.gallery(images, ["a", "b\nbelow", "c"], columns=2)) == "a; b, below; c"


def test_gallery_wants_a_caption_an_image():
    with pytest.raises(ValueError, match="gallery: expected a caption for each of 1 images, got 2"):
        lab.gallery([torch.rand(4, 4)], ["a", "b"])


def test_chain_says_where_its_skips_lead():
    words = drawn(lab.draw_chain([("conv", "1 → 2"), ("ReLU", ""), ("+", "")], skips=[(0, 2)]))
    assert words == "conv (1 → 2) → ReLU → +; what enters step 1, conv, also reaches step 3, +"


def test_errors_name_the_worst_layer():
    rows = [LayerError("stem", (1, 2), 1e-7, 1e-6, 1.0), LayerError("head", (1, 2), 0.0, 0.0, 1.0)]
    words = drawn(lab.plot_errors({"ours": rows}, torch.float32))
    assert words == "relative error of 2 layers. ours: at most 1.0e-06, in stem"


@pytest.fixture
def stored(monkeypatch):
    table = results.Results("models")
    monkeypatch.setattr(results, "read", lambda what: table)
    return table


def test_measured_says_that_nothing_is_stored(stored):
    assert "No result is stored for resnet18 in fp16 yet" in repr(lab.measured("resnet18", "fp16"))


def test_measured_takes_each_provider_s_faster_mode(stored):
    run = {"gpu": "GPU", "driver": "1", "versions": {"torch": "2"}, "commit": "abc", "date": "2026-11-21T00:00:00"}
    times = {("course", "eager"): 3.0, ("course", "graph"): 2.0, ("timm", "eager"): 4.0}
    common = {"model": "vit-b16", "dtype": "bf16", "batch": 8, "q20_ms": 1.0, "q80_ms": 9.0, "peak_mib": 1.0}
    stored.add([{**common, "provider": p, "mode": m, "median_ms": ms} for (p, m), ms in times.items()], run)
    words = drawn(lab.measured("vit-b16", "bf16"))
    assert words.splitlines()[:2] == ["course, batch 8: 2.000 ms", "timm, batch 8: 4.000 ms"]
    assert "GPU, driver 1, torch 2; commit abc, 2026-11-21" in words
    assert "No result" in repr(lab.measured("vit-b16", "fp16"))


def test_measured_leaves_a_gap_where_nothing_was_measured(stored):
    run = {"gpu": "GPU", "driver": "1", "versions": {"torch": "2"}, "commit": "abc", "date": "2026-11-21T00:00:00"}
    common = {"model": "vit-b16", "dtype": "bf16", "mode": "graph", "q20_ms": 1.0, "q80_ms": 9.0, "peak_mib": 1.0}
    batches = {"course": (1, 8, 16), "timm": (1, 16)}
    stored.add([{**common, "provider": name, "batch": batch, "median_ms": 2.0 * batch}
                for name, measured in batches.items() for batch in measured], run)
    (axes,) = lab.measured("vit-b16", "bf16").axes
    times = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert times["course"] == [2.0, 16.0, 32.0]
    assert times["timm"][::2] == [2.0, 32.0] and math.isnan(times["timm"][1])
