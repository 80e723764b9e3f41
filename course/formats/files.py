"""Files of tensors, read without unpickling anything, and the JSON beside them."""
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch

from course.formats.keys import OBJECT, Expected, checked

Tensors = Mapping[str, torch.Tensor]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""A folder's tensors: in one file, or in several that an index names."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state_dict in a file that holds more."""


def read_pth(path: Path) -> Tensors:
    """A state_dict that torch.save wrote, by itself or under one of WRAPPERS. Raises ValueError on anything else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"load_resnet: {path} is damaged or holds more than tensors, and is not unpickled since that could run any "
            f"code: save the state_dict of a model that you trust as .safetensors ({first_line(error)})"
        ) from None
    if is_state_dict(content):
        return content
    found = type(content).__name__
    if isinstance(content, dict):
        wrapped = [content[key] for key in WRAPPERS if is_state_dict(content.get(key))]
        if len(wrapped) == 1:
            return wrapped[0]
        found = reprlib.repr(list(content))
    raise ValueError(
        f"load_resnet: {path}: expected a state_dict, names and tensors, or one under {', '.join(WRAPPERS)}, "
        f"got {found}"
    )


def is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict) and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items())
    )


def read_safetensors(path: Path, names: list[str] | None = None) -> tuple[Tensors, dict[str, str]]:
    """(tensors, metadata) of a file: all of its tensors, or those of `names`."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
            return tensors, file.metadata() or {}
    except safetensors.SafetensorError as error:
        problem = "is not a whole safetensors file" if names is None else f"is not the file that {INDEX} expects"
        raise ValueError(f"load_weights: {path} {problem} ({first_line(error)})") from None


def read_folder(folder: Path) -> Tensors:
    """The tensors of a folder as HuggingFace saves them: from SINGLE, or from the files that INDEX names.

    Raises FileNotFoundError where a file is missing.
    """
    if (folder / SINGLE).is_file():
        return read_safetensors(folder / SINGLE)[0]
    if not (folder / INDEX).is_file():
        pickles = sorted(file.name for suffix in ("bin", "pt", "pth", "ckpt") for file in folder.glob(f"*.{suffix}"))
        never = f" (pickles such as {pickles[0]} are never read)" if pickles else ""
        raise FileNotFoundError(f"load_vit: no {SINGLE} and no {INDEX} in {folder}{never}")
    where = shards(folder)
    files = sorted(set(where.values()))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise FileNotFoundError(f"load_vit: no {', '.join(missing)} in {folder}, which {INDEX} names")
    tensors = {}
    for name in files:
        tensors |= read_safetensors(folder / name, [tensor for tensor in where if where[tensor] == name])[0]
    return tensors


def shards(folder: Path) -> dict[str, str]:
    """{tensor: file in `folder`} from the folder's INDEX."""
    def plain(name):  # and so in this folder
        return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name

    table = {"weight_map": Expected(
        "an object of tensors' names and names of .safetensors files beside it",
        lambda value: OBJECT.fits(value) and all(map(plain, value.values())),
    )}
    path = folder / INDEX
    return checked(f"load_vit: {path}", {"weight_map": None, **read_json(path)}, table)["weight_map"]


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises ValueError on anything else."""
    return parsed(path.read_bytes(), str(path))


def parsed(text: str | bytes, where: str, expected: Expected = OBJECT) -> object:
    """What `text`, JSON in UTF-8, says. Raises ValueError, which begins with `where`, unless it is as expected."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"load_weights: {where} is not JSON ({first_line(error)})") from None
    if not expected.fits(value):
        raise ValueError(f"load_weights: {where}: expected {expected.words}, got {reprlib.repr(value)}")
    return value


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
