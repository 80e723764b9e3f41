"""How often a model is right: on a folder of images that are sorted into a folder a class."""
import json
import sys
import unicodedata
from collections.abc import Sequence

import torch
from tqdm import tqdm

from course import data
from course.commands.images import answers
from course.commands.models import load, with_classes


def evaluate(model: str, images: str, dtype: str = "float32", batch: int = 64, as_json: bool = False) -> int:
    """Prints the shares of the images in the class folders of `images` whose class is the likeliest, and among the
    five likeliest; 2 if there were files that could not be read, which are named on stderr and not counted."""
    folder = data.ImageFolder(images)
    classifier = with_classes(load(model, getattr(torch, dtype)), model)
    labels = label_indices(folder.class_names, classifier.class_names, images)
    outside = [path for path in folder.paths if folder.label(path) is None]
    if outside:
        print(f"not counted: {len(outside)} in no class folder, {outside[0]} for one", file=sys.stderr)
        folder.paths = [path for path in folder.paths if folder.label(path) is not None]

    first = among_five = total = 0
    bar = tqdm(answers(classifier, folder, batch), total=len(folder), unit="image", disable=None)
    for sample, logits in bar:
        best = logits.topk(min(5, len(logits))).indices.tolist()
        first += labels[sample.label] == best[0]
        among_five += labels[sample.label] in best
        total += 1
    if not total:
        raise ValueError(f"evaluate: none of the images in {images} could be read")
    if as_json:
        print(json.dumps({"model": model, "images": total, "top1": first / total, "top5": among_five / total,
                          "unreadable": len(folder.unreadable)}))
    else:
        for name, right in {"top-1": first, "top-5": among_five}.items():
            print(f"{name}  {right / total:8.2%}  {right:,} of {total:,}")
    return 2 if folder.unreadable else 0


def label_indices(folders: Sequence[str], class_names: Sequence[str], where: str = "") -> dict[str, int]:
    """{folder: class} by the folders' names: a class's name, its index, or ImageNet's "n01440764".

    In a name, upper and lower case are the same, as are "_" and " ". Folders that have neither names nor indices are
    taken in sorted order, as torchvision does, if there is one a class. Raises ValueError, one line, where a folder
    is no class's or the name is that of several.
    """
    indices: dict[str, list[int]] = {}
    for i, name in enumerate(class_names):
        indices.setdefault(plain(name), []).append(i)
    found, unknown = {}, []
    for folder in folders:
        named = indices.get(plain(folder), [])
        if len(named) > 1:
            raise ValueError(f"evaluate: {where}/{folder}: expected the name of one class, got that of "
                             f"{' and '.join(map(str, named))}; name the folder by its index")
        if named:
            found[folder] = named[0]
        elif folder.isdecimal() and int(folder) < len(class_names):
            found[folder] = int(folder)
        else:
            unknown.append(folder)
    if not folders:
        raise ValueError(f"evaluate: expected class folders in {where}, got images alone")
    if unknown and not found and len(folders) == len(class_names):
        return {folder: i for i, folder in enumerate(sorted(folders))}
    if unknown:
        raise ValueError(
            f"evaluate: expected folders in {where} named as the model's classes are ({class_names[0]}, …), or by "
            f"their indices from 0 to {len(class_names) - 1}, or one for each of the {len(class_names)} classes in "
            f"sorted order; got {len(folders)} folders, among them {unknown[0]}"
        )
    return found


def plain(name: str) -> str:
    """What is compared of a name: macOS writes an umlaut in a file's name as two characters."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ")
