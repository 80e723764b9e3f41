"""Until version 0.1 a model was named by two options, `--model` and `--weights`; now by one word, before the images.

The old spellings go on working, with a line on stderr that says how it is written now.
"""
import argparse
import mimetypes
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def renewed(arguments: Sequence[str], program: str) -> list[str]:
    """The command line as it is written now; as it is if it is new."""
    old = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    old.add_argument("--model")
    old.add_argument("--weights")
    command, *options = arguments or [""]
    if command not in ("classify", "verify", "info"):
        return list(arguments)
    found, rest = old.parse_known_args(options)
    if command == "classify":
        if found.model is None and found.weights is None and not (rest and is_image(rest[0])):
            return list(arguments)
        model = found.model or "vit"
    else:
        model = next((word for word in rest if word in ("vit", "resnet18")), None)
        if found.weights is None or model is None:
            return list(arguments)
        rest.remove(model)
    new = [command, named(model, found.weights), *rest]
    print(f"course: deprecated: a model is one word before the images: {program} {shlex.join(new)}", file=sys.stderr)
    return new


def is_image(word: str) -> bool:
    """Whether `word` is an image's file, and so no model."""
    return (mimetypes.guess_type(word)[0] or "").startswith("image/")


def named(model: str, weights: str | None) -> str:
    """What `--model` and `--weights` together are called now."""
    if weights is None:
        return model
    if model == "vit":
        return weights if Path(weights).expanduser().is_dir() else f"hf:{weights}"
    return f"torchvision:{weights}" if re.fullmatch(r"\w+_Weights\.\w+", weights) else weights
