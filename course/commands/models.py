"""How a model is named on the command line, and what is loaded under that name."""
import difflib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from course import nn, runtime
from course.commands.terminal import is_log
from course.formats.files import INDEX, SINGLE
from course.formats.resnet import KNOWN
from course.formats.vit import CONFIG
from course.load_weights import DIGITS_RESNET18, DIGITS_VIT, load_resnet, load_vit
from course.resnet import Bottleneck
from course.vit import ViT

LOADERS = {"vit": load_vit, "resnet": load_resnet}
SHIPPED = {"vit": DIGITS_VIT, "resnet18": DIGITS_RESNET18}
"""The models that come with the course: they read handwritten digits."""


class Found(NamedTuple):
    """What a name means: one of LOADERS, and what it loads."""

    family: str
    source: str


def find(name: str) -> Found:
    """The model that is called so on the command line. Raises ValueError where there is none, FileNotFoundError where
    the name looks like a file's; nothing is loaded yet."""
    if name in SHIPPED:
        return Found("vit" if name == "vit" else "resnet", str(SHIPPED[name]))
    prefix, _, rest = f"torchvision:{name}".partition(":") if name in KNOWN else name.partition(":")
    match prefix:
        case "torchvision":
            return Found("resnet", torchvision_weights(rest))
        case "hf":
            return Found("vit", rest)
        case "timm":
            raise ValueError(f"{name}: timm's models are not loaded by name yet; replace_layers of course.nn puts this "
                             "course's layers into one")
    path = Path(name).expanduser()
    if path.is_dir():
        return Found("vit", str(path))
    if path.is_file():
        if path.name in (CONFIG, SINGLE, INDEX) and (path.parent / CONFIG).is_file():
            return Found("vit", str(path.parent))
        return Found("resnet", str(path))
    if path.suffix in (".pth", ".safetensors", ".json") or name.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"no file or folder {name}")
    raise ValueError(f"expected a model, got {name}{suggestion(name)}")


def torchvision_weights(name: str) -> str:
    """The name of torchvision's weights: of its model of that name, the default ones."""
    if name in KNOWN:
        import torchvision

        return str(torchvision.models.get_model_weights(name).DEFAULT)
    if re.fullmatch(r"\w+_Weights\.\w+", name):
        return name
    raise ValueError(f"torchvision:{name}: expected {', '.join(KNOWN)}, or the name of weights such as "
                     "ResNet50_Weights.IMAGENET1K_V2; other models are not loaded by name yet")


def suggestion(name: str) -> str:
    names = [*SHIPPED, *KNOWN]
    if re.fullmatch(r"\w+_Weights\.\w+", name):
        return f": torchvision's weights are called torchvision:{name}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return f", which is no file or folder: a model on the HuggingFace hub is called hf:{name}"
    if close := difflib.get_close_matches(name, names, 1):
        return f": did you mean {close[0]}?"
    return f": neither {', '.join(dict.fromkeys(names))} nor a file, a folder, torchvision:NAME or hf:ID"


def load(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The model called so, where kernels run. Says on stderr what it is."""
    if runtime.DEVICE.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("TRITON_INTERPRET=0 is set, and PyTorch sees no GPU: unset it to interpret the kernels on the "
                         "CPU")
    return read(name).to(runtime.DEVICE, dtype)


def read(name: str, layers: ModuleType = nn) -> torch.nn.Module:
    """The model called so, on the CPU. Says on stderr what it is."""
    found = find(name)
    if found.family == "vit" and is_log() and not Path(found.source).is_dir():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    model = LOADERS[found.family](found.source, layers=layers)
    origin = "" if found.source == name else f", from {found.source}"
    print(f"{name}: {description(model)}{origin}", file=sys.stderr)
    return model


def description(model: torch.nn.Module) -> str:
    """ "ResNet-50, 25,557,032 parameters, 1,000 classes", for instance."""
    classes = f"{len(model.class_names):,} classes" if model.class_names else "no classes"
    return f"{kind(model)}, {sum(p.numel() for p in model.parameters()):,} parameters, {classes}"


def kind(model: torch.nn.Module) -> str:
    """The architecture under its usual name."""
    if isinstance(model, ViT):
        config = model.config
        patch = model.embeddings.patches.kernel_size
        return f"ViT of {config.num_hidden_layers} blocks, {config.hidden_size} wide, on patches of {patch[0]} by " \
               f"{patch[1]}"
    blocks = [block for i in range(1, 5) for block in getattr(model, f"layer{i}")]
    depth = 2 + len(blocks) * (3 if isinstance(blocks[0], Bottleneck) else 2)
    name = f"ResNet-{depth}"
    if model.groups > 1:
        name = f"ResNeXt-{depth} {model.groups}x{model.width_per_group}d"
    elif model.width_per_group != 64:
        name = f"Wide ResNet-{depth}-{model.width_per_group / 64:g}"
    width = model.conv1.out_channels
    return name if width == 64 else f"{name} of width {width}"


def with_classes(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """`model`, if it tells classes apart. Raises ValueError on one without a head."""
    if not model.class_names:
        raise ValueError(f"{name} has no head: expected a model that tells classes apart")
    return model
