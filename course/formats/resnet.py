"""torchvision's ResNets: their files, their weights by name, and which of them a file's tensors belong to."""
import math
import re
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from statistics import mode
from types import ModuleType

import torch

from course import resnet
from course.formats.files import Tensors, first_line, parsed, read_json, read_pth, read_safetensors
from course.formats.fit import prefix_before, without_prefix
from course.formats.keys import OBJECT, TEXTS, checked
from course.preprocess import Preprocess

KNOWN = [  # torchvision's functions
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
]
DEPTHS = {  # blocks of the four stages, by whether they are bottlenecks
    False: [(2, 2, 2, 2), (3, 4, 6, 3)],
    True: [(3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)],
}
FIRST = ["layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"]
"""Tensors that every ResNet has; what stands before them in a file is a prefix."""

ABOUT = {"class_names": TEXTS, "preprocessor_config": OBJECT}
"""What a .json beside a file, or a .safetensors' metadata, may say."""


def read_resnet(
    source: str | Path | Enum | torch.nn.Module,
) -> tuple[Tensors, Sequence[str] | None, Preprocess]:
    """(tensors by torchvision's names, class names or None, preprocessing) of whatever load_resnet takes."""
    if isinstance(source, torch.nn.Module):
        return unwrapped(source).state_dict(), None, Preprocess()
    if re.fullmatch(r"\w+_Weights\.\w+", str(source)):
        return download(str(source))

    path = Path(str(source)).expanduser()
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(
            "load_resnet: expected a torchvision model, the name of its weights such as "
            f"ResNet18_Weights.IMAGENET1K_V1, or a .pth or .safetensors file, got {source}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"load_resnet: no file {path}")
    about, where = {}, path.with_suffix(".json")
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        if not where.is_file():  # the metadata's values are strings: ours are JSON
            where = path
            about = {key: parsed(metadata[key], f"{key} in {path}", ABOUT[key]) for key in ABOUT.keys() & metadata}
    else:
        tensors = read_pth(path)
    tensors = without_prefix(tensors, prefix_before(tensors, FIRST))
    if where.suffix == ".json" and where.is_file():
        about = checked(f"load_resnet: {where}", read_json(where), ABOUT)
    elif path.suffix == ".pth" and (weights := torchvision_file(path.name)):
        return tensors, *torchvision_about(weights)
    preprocess = Preprocess()
    if "preprocessor_config" in about:
        preprocess = Preprocess.from_huggingface(
            about["preprocessor_config"], f"load_resnet: {where}: preprocessor_config"
        )
    return tensors, about.get("class_names"), preprocess


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model in torch.compile's and in data parallelism's wrappers, which compute what it computes."""
    while True:
        if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def torchvision_file(name):
    """torchvision's weights whose file is called `name`, or None."""
    import torchvision  # only where it is needed: importing it takes seconds

    for known in KNOWN:
        for weights in torchvision.models.get_model_weights(known):
            if name == Path(weights.url).name:
                return weights
    return None


def download(name):
    import torchvision

    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, KeyError):
        raise ValueError(f"load_resnet: torchvision has no weights named {name}") from None
    if not any(isinstance(weights, torchvision.models.get_model_weights(known)) for known in KNOWN):
        raise ValueError(f"load_resnet: expected weights of {', '.join(KNOWN)}, got {name}")
    try:
        tensors = weights.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:
        raise ConnectionError(
            f"load_resnet: cannot download {name} ({first_line(error)}): get {weights.url} on a machine with a "
            f"network, and pass that file or put it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from None
    return tensors, *torchvision_about(weights)


def torchvision_about(weights):
    """(class names, preprocessing) of torchvision's weights."""
    return list(weights.meta["categories"]), Preprocess.from_torchvision(weights.transforms())


def resnet_for(tensors: Tensors, layers: ModuleType) -> resnet.ResNet:
    """The ResNet whose tensors these are, or would be but for a few that are missing or misshapen; on meta."""
    depths = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    bottlenecks = any(".conv3." in name for name in tensors)
    if depths not in DEPTHS[bottlenecks]:
        kind = "bottlenecks" if bottlenecks else "basic blocks"
        known = ", ".join(map(str, DEPTHS[bottlenecks]))
        raise ValueError(f"load_resnet: expected a ResNet with stages of {known} {kind}, got {depths}")

    def size(*names, default):  # most of them agree, even where one is wrong
        sizes = [len(tensors[name]) for name in names if name in tensors and tensors[name].ndim]
        return mode(sizes) if sizes else default

    def statistics(norm):
        return [f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]

    width = size(*statistics("bn1"), default=64)
    groups, width_per_group = 1, 64
    if bottlenecks:
        middles = [t for name, t in tensors.items() if name.endswith(".conv2.weight") and t.ndim == 4 and t.shape[1]]
        groups = mode(max(len(t) // t.shape[1], 1) for t in middles) if middles else 1
        # from the widest stage, whose width is the least rounded: 8 * width * width_per_group // 64 * groups
        widest = size(*statistics("layer4.0.bn2"), default=8 * width * groups)
        width_per_group = max(math.ceil(64 * (widest // groups) / (8 * max(width, 1))), 1)
    stem = tensors.get("conv1.weight", torch.empty(0))
    with torch.device("meta"):
        return resnet.ResNet(
            resnet.Bottleneck if bottlenecks else resnet.BasicBlock, depths,
            num_classes=size("fc.weight", "fc.bias", default=1000), width=width,
            in_channels=stem.shape[1] if stem.ndim == 4 else 3,
            layers=layers, groups=groups, width_per_group=width_per_group,
        )
