"""The commands of `python -m course`: each function prints its findings and returns the exit code."""
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from course import data, load_weights, originals, results, runtime, verify as verification
from course.info import layer_table
from course.resnet import resnet18
from course.vit import ViT

LOADERS = {
    "vit": (load_weights.load_vit, originals.original_vit, load_weights.DIGITS_VIT),
    "resnet18": (load_weights.load_resnet, originals.original_resnet, load_weights.DIGITS_RESNET18),
}
"""model: (our loader, the original's loader, the shipped weights)."""

LAYER_IMAGES = 8
"""Images in the comparison layer by layer, which keeps every layer's output."""

DEMO_IMAGES = 100
"""Images of the demo, so that it takes seconds in the interpreter too."""


def demo() -> int:
    """Both shipped models: three digits read, and more of them compared with the originals."""
    scans, labels = data.digit_scans("test")
    code = 0
    for name, (load, _, shipped) in LOADERS.items():
        model = load(shipped).to(runtime.DEVICE)
        print(f"\n{name}, {sum(p.numel() for p in model.parameters()):,} parameters, reads handwritten digits:")
        for i in (0, 100, 200):
            (probability, guess), *_ = likeliest(model, scans[i])
            print(f"  a {labels[i]}: {guess} ({probability:.1%})")
        print("and beside the original, in float32:")
        comparison = Comparison(name, batch=DEMO_IMAGES)
        comparison.inputs.images = scans[:DEMO_IMAGES]
        code = max(code, comparison.report())
    return code


def classify(images: Sequence[str], model: str, weights: str | None, dtype: str) -> int:
    """The five likeliest classes of each image file, with their probabilities."""
    opened = [data.open_image(path) for path in images]
    load, _, shipped = LOADERS[model]
    classifier = load(weights or shipped).to(runtime.DEVICE, getattr(torch, dtype))
    for path, image in zip(images, opened):
        print(path)
        for probability, guess in likeliest(classifier, image):
            print(f"  {probability:7.2%}  {guess}")
    return 0


def likeliest(model: torch.nn.Module, image) -> list[tuple[float, str]]:
    """(probability, class name) of the five likeliest classes of a PIL image, best first."""
    x = model.preprocess(image)[None].to(runtime.DEVICE, next(model.parameters()).dtype)
    with torch.inference_mode():
        probabilities = model(x)[0].float().softmax(0)
    best = probabilities.topk(min(5, len(probabilities)))
    return [(p, model.class_names[i]) for p, i in zip(best.values.tolist(), best.indices.tolist())]


def verify(
    model: str, weights: str | None = None, images: str | None = None, dtype: str = "float32", batch: int = 64,
    dump: str | None = None,
) -> int:  # fmt: skip
    """Our model beside the original, a line a layer and then every image's answer; 1 if they differ too much."""
    comparison = Comparison(model, weights, images, getattr(torch, dtype), batch)
    print(f"{model} in {dtype} and the original in float32, on {len(comparison.first)} images")
    print(verification.table(comparison.rows, comparison.dtype))
    if dump:
        write_whole(Path(dump), comparison.outputs)
    return comparison.report()


class Comparison:
    """Our model and the original on the same images: `rows`, a line a layer, from the `first` of them."""

    def __init__(self, model: str, weights: str | None = None, images: str | None = None,
                 dtype: torch.dtype = torch.float32, batch: int = 64):  # fmt: skip
        load, load_original, shipped = LOADERS[model]
        self.dtype, self.batch = dtype, batch
        self.ours = load(weights or shipped).to(runtime.DEVICE, dtype)
        self.original = load_original(weights or shipped).to(runtime.DEVICE)
        self.inputs = Inputs(self.ours.preprocess, weights, images)
        self.first = torch.stack([image for image, _ in zip(self.inputs, range(LAYER_IMAGES))]).to(runtime.DEVICE)
        with verification.full_precision():
            pairs = verification.layer_pairs(self.original, self.ours)
            self.rows, self.outputs = verification.compare_layers(self.original, self.ours, pairs, self.first)

    def report(self) -> int:
        """Runs both models on all images and prints the verdict; the exit code."""
        steps = tqdm(data.batches(self.inputs, self.batch), total=-(-len(self.inputs) // self.batch), unit="batch")
        with verification.full_precision():
            agreement = verification.agreement(
                self.original, self.ours, (torch.stack(images).to(runtime.DEVICE) for images in steps)
            )
        fitting = sum(row.within(self.dtype) for row in self.rows)
        worst = max(self.rows, key=lambda row: row.relative)
        print(f"  {fitting} of {len(self.rows)} layers within tolerance; the largest relative error is "
              f"{worst.relative:.1e}, in {worst.name}")  # fmt: skip
        print(f"  {agreement.same} of {agreement.total} images given the original's class ({agreement.share:.2%})")
        return 0 if fitting == len(self.rows) and agreement.share >= verification.AGREEMENT[self.dtype] else 1


class Inputs:
    """The images to verify on, preprocessed one by one as they are reached: the held-out digits for the
    shipped weights, a folder's, or else the two photographs."""

    def __init__(self, preprocess, weights: str | None, folder: str | None):
        self.preprocess = preprocess
        self.folder = data.ImageFolder(folder) if folder else None
        self.images = data.digit_scans("test")[0] if weights is None else list(data.photos().values())

    def __len__(self) -> int:
        return len(self.folder or self.images)

    def __iter__(self) -> Iterator[torch.Tensor]:
        images = self.images if self.folder is None else (sample.image for sample in self.folder)
        return map(self.preprocess, images)


def write_whole(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a safetensors file, or nothing: the rename at the end is one step."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def info(model: str, weights: str | None) -> int:
    """Layers, parameters and operations; without weights of the ImageNet models, computed on no device at all."""
    if weights:
        network = LOADERS[model][0](weights, layers=torch.nn)
        size = network.preprocess(data.photos()["china.jpg"]).shape[-2:]
    else:
        with torch.device("meta"):
            network = ViT(layers=torch.nn) if model == "vit" else resnet18(layers=torch.nn)
        size = (224, 224)
    print(layer_table(network.to("meta").eval(), torch.empty(1, 3, *size, device="meta")))
    return 0


def bench(what: str, quick: bool) -> int:
    """Measures "kernels" or "models" beside their peers; 1 if a result was wrong. Without a GPU, what is stored."""
    if not (results.ROOT / "benchmarks" / "__main__.py").is_file():
        raise FileNotFoundError(
            f"bench: no benchmarks in {results.ROOT}: they come with the repository, not with the installed package; "
            "clone it, and run this there"
        )
    sys.path.insert(0, str(results.ROOT))
    from benchmarks.__main__ import measure

    return measure(what, quick)
