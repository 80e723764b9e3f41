"""Layer by layer against the original: where two models first part, and whether they agree on what they see.

    max abs     max |ours - original|
    relative    max |ours - original| / max |original|, both over the whole layer's output
    cosine      <ours, original> / (|ours| |original|)

The original always runs in float32 in full precision (TF32 off). Both models see the same images; each layer
gets what its own model's layers before it produced, so that errors add up as they do in use.
"""
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from course.vit import ViT

TOLERANCE = {  # dtype of our model: (largest relative error, smallest cosine) of any layer
    torch.float32: (1e-4, 0.999999),
    torch.float16: (2e-2, 0.9999),
    torch.bfloat16: (1e-1, 0.999),
}
"""float32 differs by the order of its sums alone. Half precision rounds after every layer: 8 and 13 units in
the last place of the largest value (2**-11 and 2**-8 relative), with room for a dozen blocks' worth of them."""

AGREEMENT = {torch.float32: 1.0, torch.float16: 0.995, torch.bfloat16: 0.995}
"""dtype of our model: the smallest share of images on which it must answer as the original does."""


class LayerError(NamedTuple):
    """One line of the table."""

    name: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    cosine: float

    def within(self, dtype: torch.dtype) -> bool:
        """Whether a model of `dtype` may be this far off; NaN never passes."""
        relative, cosine = TOLERANCE[dtype]
        return self.relative <= relative and self.cosine >= cosine


class Agreement(NamedTuple):
    """On how many images two models give the same likeliest class."""

    same: int
    total: int

    @property
    def share(self) -> float:
        return self.same / self.total


BLOCK_PAIRS = {  # transformers' name in a block of a ViT: ours
    "layernorm_before": "norm1", "attention.o_proj": "attention.output", "attention": "attention",
    "layernorm_after": "norm2", "mlp.fc1": "mlp.hidden", "mlp": "mlp",
}


def layer_pairs(original: torch.nn.Module, ours: torch.nn.Module) -> list[tuple[str, str]]:
    """(original's name, our name) of the submodules whose outputs mean the same.

    torchvision's ResNet and ours have the same names; its ReLU runs twice a block, so it has no one output.
    """
    if not isinstance(ours, ViT):
        theirs = dict(original.named_modules())
        return [
            (name, name) for name, layer in ours.named_modules()
            if name in theirs and not isinstance(layer, (torch.nn.ReLU, torch.nn.Identity))
            and name.rpartition(".")[2] not in ("", "layer1", "layer2", "layer3", "layer4", "downsample")
        ]
    pairs = [("vit.embeddings", "embeddings")]
    for i in range(len(ours.blocks)):
        pairs += [(f"vit.layers.{i}.{theirs}", f"blocks.{i}.{name}") for theirs, name in BLOCK_PAIRS.items()]
        pairs.append((f"vit.layers.{i}", f"blocks.{i}"))
    return [*pairs, ("vit.layernorm", "norm"), ("classifier", "head")]


def record(model: torch.nn.Module, names: Iterable[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the submodules `names` return while `model` runs on `images`, copied to the CPU."""
    outputs = {}

    def keep(name):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            outputs[name] = output.detach().to("cpu", copy=True)

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def compare_layers(
    original: torch.nn.Module, ours: torch.nn.Module, pairs: Sequence[tuple[str, str]], images: torch.Tensor
) -> tuple[list[LayerError], dict[str, torch.Tensor]]:
    """Runs both models on `images` (float32) and compares the outputs of each (original's name, our name).

    `ours` may be of another dtype; the images are converted to it. Returns the table, a line a pair in the
    order in which the original's layers finish, and all outputs recorded, as "original/<name>" and "course/<name>".
    """
    theirs = record(original, [name for name, _ in pairs], images)
    dtype = next(ours.parameters()).dtype
    mine = record(ours, [name for _, name in pairs], images.to(dtype))
    names = dict(pairs)
    rows = [layer_error(name, output, mine[names[name]]) for name, output in theirs.items()]
    outputs = {f"original/{name}": t for name, t in theirs.items()} | {f"course/{name}": t for name, t in mine.items()}
    return rows, outputs


def layer_error(name: str, original: torch.Tensor, ours: torch.Tensor) -> LayerError:
    """How far `ours` is from `original`, in float64. Raises ValueError on unequal shapes."""
    if original.shape != ours.shape:
        raise ValueError(f"verify: expected {name} of shape {tuple(original.shape)}, got {tuple(ours.shape)}")
    a, b = original.double().flatten(), ours.double().flatten()
    max_abs = (a - b).abs().max()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0, eps=0.0)
    return LayerError(name, tuple(original.shape), max_abs.item(), (max_abs / a.abs().max()).item(), cosine.item())


def check_finite(logits: torch.Tensor, image: object) -> None:
    """Raises ValueError, which names `image`, where a logit is NaN or infinite: nothing can be read from it."""
    if wrong := int((~logits.isfinite()).sum()):
        raise ValueError(f"expected finite logits for {image}, got {wrong} of {logits.numel()} NaN or infinite")


def table(rows: Sequence[LayerError], dtype: torch.dtype) -> str:
    """The comparison as text, the first layer out of tolerance marked."""
    width = max(len(row.name) for row in rows)
    lines = [f"  {'layer':{width}}  {'shape':20}  {'max abs':>9}  {'relative':>9}  cosine"]
    marked = False
    for row in rows:
        mark = " "
        if not marked and not row.within(dtype):
            mark, marked = "✗", True
        shape = "×".join(map(str, row.shape))
        errors = f"{row.max_abs:9.2e}  {row.relative:9.2e}  {row.cosine:.8f}"
        lines.append(f"{mark} {row.name:{width}}  {shape:20}  {errors}")
    return "\n".join(lines)


def agreement(original: torch.nn.Module, ours: torch.nn.Module, batches: Iterable[torch.Tensor]) -> Agreement:
    """Runs both models on every batch (float32, on their device) and counts the images answered alike."""
    dtype = next(ours.parameters()).dtype
    same = total = 0
    with torch.inference_mode():
        for images in batches:
            theirs = original(images)
            theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.logits
            same += (theirs.argmax(1) == ours(images.to(dtype)).argmax(1)).sum().item()
            total += len(images)
    return Agreement(same, total)
