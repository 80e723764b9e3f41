"""HuggingFace's ViTs: their files in a folder or on the hub, their configurations, their tensors' names."""
import dataclasses
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import huggingface_hub

from course.formats.files import INDEX, SINGLE, Tensors, first_line, read_folder, read_json, shards
from course.formats.fit import prefix_before, without_prefix
from course.formats.keys import OBJECT, Expected, among, checked, integer
from course.preprocess import Preprocess
from course.vit import ViT, ViTConfig

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"

HUB_FILES = [CONFIG, SINGLE, PROCESSOR]
"""What is asked for first; a repository whose tensors lie in several files is then asked for those."""

FIRST = ["embeddings.cls_token", "embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight"]
"""Tensors that every ViT has; what stands before them in a file is a prefix."""


class Checkpoint(NamedTuple):
    config: ViTConfig
    class_names: list[str]
    tensors: Tensors
    prefix: str
    """Before the names of what is not the head: "vit." where there is a head."""
    preprocess: Preprocess


def read_vit(folder: Path) -> Checkpoint:
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"load_vit: no {CONFIG} in {folder}")
    where, config = f"load_vit: {path}", read_json(path)
    checked(where, {"model_type": None, **config}, {"model_type": among("vit")})
    tensors = read_folder(folder)
    wrapper = prefix_before(tensors, FIRST).removesuffix("vit.")  # "module." of DataParallel, for instance
    tensors = without_prefix(tensors, wrapper)
    prefix = "vit." if any(name.startswith("vit.") for name in tensors) else ""

    class_names = labels(where, config) if prefix else []
    sizes = {field.name: config[field.name] for field in dataclasses.fields(ViTConfig) if field.name in config}
    try:
        config = ViTConfig(**{**sizes, "num_labels": len(class_names)})
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('ViT: ')}") from None
    if config.num_hidden_layers > len(tensors):  # not even built
        raise ValueError(f"{where}: expected num_hidden_layers of the {len(tensors)} tensors in {folder}, "
                         f"got {config.num_hidden_layers}")

    processor = {"size": dict(zip(("height", "width"), config.image_size))}
    if (folder / PROCESSOR).is_file():
        processor = read_json(folder / PROCESSOR)
    preprocess = Preprocess.from_huggingface(processor, f"load_vit: {folder / PROCESSOR}")
    return Checkpoint(config, class_names, tensors, prefix, preprocess)


def is_labels(value):
    return OBJECT.fits(value) and all(isinstance(label, str) for label in value.values()) and (
        {str(key) for key in value} == {str(i) for i in range(len(value))}
    )


LABELS = Expected("an object of names by their numbers 0, 1, 2 and so on", is_labels)


def labels(where: str, config: Mapping) -> list[str]:
    """The classes' names; numbers where there is no more than their number."""
    config = {key: value for key, value in config.items() if value is not None}
    config = checked(where, config, {"id2label": LABELS, "num_labels": integer(0)})
    if "id2label" in config:
        return [config["id2label"][i] for i in sorted(config["id2label"], key=int)]
    if "num_labels" in config:
        return [str(i) for i in range(config["num_labels"])]
    return ["LABEL_0", "LABEL_1"]  # transformers leaves its default out


def check_size(where: str, model: ViT, tensors: Tensors) -> None:
    """Raises ValueError where a configuration describes another model altogether than the tensors beside it."""
    expected, got = (sum(t.numel() for t in state.values()) for state in (tensors, model.state_dict()))
    if got > 2 * expected:
        sizes = ", ".join(f"{key} {getattr(model.config, key)}" for key in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_labels", "image_size", "patch_size"))
        raise ValueError(f"{where}: expected a model of the {expected} numbers that the tensors hold, got one of {got} "
                         f"({sizes})")


# -- The hub -----------------------------------------------------------------------------------------------------------


def download(repo: str) -> Path:
    """The folder in the hub's cache that holds the files of `repo` that are needed, and no others."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or repo.startswith("."):
        raise FileNotFoundError(
            f"load_vit: expected a folder or a model's id on the HuggingFace hub, got {reprlib.repr(repo)[1:-1]}"
        )
    folder = ask(repo, HUB_FILES)
    if not (folder / SINGLE).is_file():
        # the folder has the commit's name: the files are of one version, even if another is published meanwhile
        ask(repo, [INDEX], revision=folder.name)
        if (folder / INDEX).is_file():
            ask(repo, sorted(set(shards(folder).values())), revision=folder.name)
    return folder


def ask(repo, files, **version):
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=files, **version))
    except Exception as error:  # the hub's client raises its HTTP library's own exceptions too
        raise ConnectionError(
            f"load_vit: cannot download {repo} ({first_line(error)}): on a machine with a network run "
            f"`hf download {repo} {' '.join(files)} --local-dir {Path(repo).name}`, and pass that folder"
        ) from None


# -- Names -------------------------------------------------------------------------------------------------------------

OUTSIDE_BLOCKS = {  # our names: HuggingFace's
    "embeddings.class_token": "embeddings.cls_token",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.patches.weight": "embeddings.patch_embeddings.projection.weight",
    "embeddings.patches.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
IN_BLOCK = {  # in a block: (transformers 4 and the files on the hub, transformers 5)
    "norm1": (["layernorm_before"], ["layernorm_before"]),
    "attention.qkv": (
        ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
        ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    ),
    "attention.output": (["attention.output.dense"], ["attention.o_proj"]),
    "norm2": (["layernorm_after"], ["layernorm_after"]),
    "mlp.hidden": (["intermediate.dense"], ["mlp.fc1"]),
    "mlp.output": (["output.dense"], ["mlp.fc2"]),
}


def huggingface_names(model: ViT, tensors: Tensors, prefix: str) -> dict[str, list[str]]:
    """{our name: HuggingFace's names}, in the version that `tensors` are named in."""
    version = 5 if any(name.startswith(f"{prefix}layers.") for name in tensors) else 4
    blocks = prefix + {4: "encoder.layer", 5: "layers"}[version]
    names = {}
    for ours in model.state_dict():
        if ours in OUTSIDE_BLOCKS:
            names[ours] = [prefix + OUTSIDE_BLOCKS[ours]]
        elif ours.startswith("head."):
            names[ours] = [ours.replace("head", "classifier")]
        else:
            i, layer, kind = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", ours).groups()
            names[ours] = [f"{blocks}.{i}.{theirs}.{kind}" for theirs in IN_BLOCK[layer][version - 4]]
    return names
