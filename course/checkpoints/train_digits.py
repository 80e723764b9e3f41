"""Trains the two checkpoints of this folder, on the CPU and from fixed seeds, with code that is not the course's.

    python -m course.checkpoints.train_digits [vit] [resnet18]

A ViT of transformers' ViTForImageClassification, saved by its own save_pretrained, and a ResNet-18 of torchvision's
ResNet class, 12 channels wide where the usual one has 64. Both see the digits' training four fifths only, slightly
turned, scaled and shifted at random; the held-out fifth is looked at once, after the last epoch.
"""
import argparse
import json
import math
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock

from course.data import DIGIT_SIZE, digits
from course.originals import TorchvisionResNet

FOLDER = Path(__file__).parent
CLASS_NAMES = [str(digit) for digit in range(10)]


def make_vit():
    config = transformers.ViTConfig(
        image_size=DIGIT_SIZE, patch_size=8, hidden_size=64, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=192, id2label=dict(enumerate(CLASS_NAMES)),
        label2id={name: int(name) for name in CLASS_NAMES},
    )
    return transformers.ViTForImageClassification(config)


def augment(images):
    """Turns by up to 12 degrees, scales by up to 10 %, shifts by up to 3 pixels; outside is the background, -1."""
    n = len(images)
    angle, scale = (torch.rand(2, n) * 2 - 1) * torch.tensor([[math.radians(12)], [0.1]])
    shift = (torch.rand(n, 2) * 2 - 1) * (3 / (DIGIT_SIZE / 2))
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    transform = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(n, 2, 3)
    grid = torch.nn.functional.affine_grid(transform, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images + 1, grid, align_corners=False) - 1


def train(model, logits, *, epochs, lr, weight_decay, batch_size=64):
    """AdamW with a warm-up and a cosine, label smoothing 0.1; `logits(model, images)` calls the model."""
    images, labels = digits("train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(batch_size):
            output = logits(model, augment(images[chosen]))
            loss = torch.nn.functional.cross_entropy(output, labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"\repoch {epoch}/{epochs}, training loss {total / len(images):.4f}", end="", flush=True)
    print()
    model.eval()


@torch.no_grad()
def accuracy(model, logits):
    images, labels = digits("test")
    return (logits(model, images).argmax(dim=1) == labels).float().mean().item()


def train_vit():
    def logits(model, images):
        return model(pixel_values=images).logits

    model = make_vit()
    train(model, logits, epochs=200, lr=1e-3, weight_decay=0.05)
    model.save_pretrained(FOLDER / "vit-digits")
    processor = transformers.ViTImageProcessor(size={"height": DIGIT_SIZE, "width": DIGIT_SIZE})
    processor.save_pretrained(FOLDER / "vit-digits")
    return accuracy(model, logits)


def train_resnet18():
    def logits(model, images):
        return model(images)

    model = TorchvisionResNet(BasicBlock, [2, 2, 2, 2], num_classes=len(CLASS_NAMES), width=12)
    train(model, logits, epochs=60, lr=4e-3, weight_decay=0.05)
    preprocessing = {
        "size": {"height": DIGIT_SIZE, "width": DIGIT_SIZE}, "resample": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }
    save_file(model.state_dict(), FOLDER / "resnet18-digits.safetensors", metadata={
        "format": "pt", "class_names": json.dumps(CLASS_NAMES), "preprocessor_config": json.dumps(preprocessing),
    })
    return accuracy(model, logits)


def main():
    recipes = {"vit": train_vit, "resnet18": train_resnet18}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(recipes), help="vit, resnet18 or both (the default)")
    names = parser.parse_args().models
    torch.set_num_threads(1)  # sums in the same order on every machine
    for name in names:
        torch.manual_seed(0)
        start = time.perf_counter(), time.process_time()
        right = recipes[name]()
        elapsed, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"{name}: {right:.2%} of the held-out digits, {elapsed:.0f} s ({cpu:.0f} s of CPU time)")


if __name__ == "__main__":
    main()
