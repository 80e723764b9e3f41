"""What a model sees in some images."""
import json
from collections.abc import Sequence

import torch

from course.commands.images import answers, files
from course.commands.models import load, with_classes


def classify(
    model: str, images: Sequence[str], dtype: str = "float32", topk: int = 5, batch: int = 16, as_json: bool = False
) -> int:
    """Prints the likeliest classes of each image file, with their probabilities, or a JSON object a line; 2 if there
    were files that could not be read, which are named on stderr."""
    found = files(images)
    classifier = with_classes(load(model, getattr(torch, dtype)), model)
    names = classifier.class_names
    for sample, logits in answers(classifier, found, batch):
        best = likeliest(logits, topk)
        if as_json:
            classes = [{"index": i, "class": names[i], "probability": p} for p, i in best]
            print(json.dumps({"file": str(sample.path), "classes": classes}))
        else:
            print("\n".join([str(sample.path), *(f"  {p:7.2%}  {names[i]}" for p, i in best)]))
    return 2 if found.unreadable else 0


def likeliest(logits: torch.Tensor, count: int) -> list[tuple[float, int]]:
    """(probability, class) of the `count` likeliest of all classes, best first. Logits are (classes,)."""
    best = logits.softmax(0).topk(min(count, len(logits)))
    return list(zip(best.values.tolist(), best.indices.tolist()))
