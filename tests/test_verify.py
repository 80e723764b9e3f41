import copy

import pytest
import torch

from course import verify
from course.resnet import resnet18
from course.vit import ViT, ViTConfig


def test_layer_error_by_hand():
    row = verify.layer_error("x", torch.tensor([3.0, -4.0]), torch.tensor([3.0, -4.5]))
    assert row.max_abs == 0.5 and row.relative == 0.125
    assert row.cosine == pytest.approx((9 + 18) / (5 * (9 + 20.25) ** 0.5))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.001])
def test_wrong_values_never_pass(wrong):
    row = verify.layer_error("x", torch.ones(10), torch.ones(10).index_fill(0, torch.tensor(3), wrong))
    assert not row.within(torch.float32)


@pytest.mark.parametrize("wrong", [float("nan"), float("-inf")])
def test_logits_that_are_not_finite(wrong):
    verify.check_finite(torch.zeros(1, 10), "cat.png")
    with pytest.raises(ValueError, match="^expected finite logits for cat.png, got 1 of 10 NaN or infinite$"):
        verify.check_finite(torch.zeros(10).index_fill(0, torch.tensor(3), wrong), "cat.png")


def test_unequal_shapes():
    with pytest.raises(ValueError, match=r"verify: expected x of shape \(2,\), got \(3,\)"):
        verify.layer_error("x", torch.zeros(2), torch.zeros(3))


def test_first_wrong_layer_is_marked():
    model = resnet18(num_classes=3, width=4, layers=torch.nn).eval()
    broken = copy.deepcopy(model)
    broken.layer2[0].bn1.bias += 0.1
    names = verify.layer_pairs(model, broken)
    rows, outputs = verify.compare_layers(model, broken, names, torch.randn(2, 3, 32, 32))
    marked = [line for line in verify.table(rows, torch.float32).splitlines() if line.startswith("✗")]
    assert len(marked) == 1 and marked[0].split()[1] == "layer2.0.bn1"
    assert outputs["original/conv1"].equal(outputs["course/conv1"])
    assert not outputs["original/fc"].equal(outputs["course/fc"])


def test_pairs_cover_every_layer_of_resnet():
    ours = resnet18(layers=torch.nn)
    names = [name for name, _ in verify.layer_pairs(ours, ours)]
    assert {"conv1", "bn1", "maxpool", "layer1.0", "layer4.1.bn2", "avgpool", "fc"} <= set(names)
    assert sum("conv" in name or name.endswith("downsample.0") for name in names) == 20


def test_agreement_counts_images(device):
    model = ViT(ViTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                          intermediate_size=16, num_labels=3), layers=torch.nn).eval()
    other = copy.deepcopy(model)
    other.head.bias += torch.tensor([100.0, 0.0, 0.0])  # answers 0, whatever it sees
    images = [torch.randn(5, 3, 8, 8), torch.randn(2, 3, 8, 8)]
    zeros = sum((model(batch).argmax(1) == 0).sum().item() for batch in images)
    assert verify.agreement(model, other, images) == (zeros, 7)
    assert verify.agreement(model, model, images).share == 1.0
