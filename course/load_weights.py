"""HuggingFace's and torchvision's checkpoints in this course's models: strictly, and without unpickling anything.

    model = load_vit("google/vit-base-patch16-224")            # or a folder; left out, the shipped digits
    model = load_resnet("ResNet18_Weights.IMAGENET1K_V1")      # or a torchvision model, a .pth, a .safetensors
    with torch.inference_mode():
        logits = model(model.preprocess(image)[None])          # image: a PIL image
    print(model.class_names[logits.argmax()])

A checkpoint's tensors are first compared with the model's, by name and by shape, and copied only if all of them fit.
"""
import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import mode

import huggingface_hub
import numpy as np
import safetensors
import torch
from PIL import Image

from course import nn, resnet
from course.vit import ViT, ViTConfig

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DIGITS_VIT = CHECKPOINTS / "vit-digits"
DIGITS_RESNET18 = CHECKPOINTS / "resnet18-digits.safetensors"

HUB_FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a checkpoint expects done to a PIL image: resize, crop the centre, scale, normalise.

    Called with an image of any size and mode, returns (3, height, width) in float32.
    """

    size: tuple[int, int] | int | None = 256
    """(height, width), or the shorter side's length with the proportions kept, or None: as it comes."""
    crop: tuple[int, int] | None = (224, 224)
    resample: Image.Resampling = Image.Resampling.BILINEAR
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    round_offset: Callable[[float], int] = round
    """How the crop's offset becomes whole; torchvision rounds half to even, transformers towards 0."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        if self.size is not None:
            height, width = self._resized(image.height, image.width)
            image = image.resize((width, height), self.resample)
        if self.crop is not None:
            top, left = (self.round_offset((n - c) / 2) for n, c in zip((image.height, image.width), self.crop))
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() * self.scale
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)
        return ((x - mean) / std).contiguous()

    def _resized(self, height, width):
        if not isinstance(self.size, int):
            return self.size
        short = min(height, width)
        return int(self.size * height / short), int(self.size * width / short)

    @classmethod
    def from_huggingface(cls, config: Mapping) -> "Preprocess":
        """From the contents of a preprocessor_config.json; what it leaves out is as in ViTImageProcessor."""
        normalise = config.get("do_normalize", True)
        return cls(
            size=cls._size(config.get("size", 224)) if config.get("do_resize", True) else None,
            crop=cls._size(config.get("crop_size", 224)) if config.get("do_center_crop", False) else None,
            resample=Image.Resampling(config.get("resample", Image.Resampling.BILINEAR)),
            scale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
            mean=tuple(config.get("image_mean", (0.5,) * 3)) if normalise else (0.0,) * 3,
            std=tuple(config.get("image_std", (0.5,) * 3)) if normalise else (1.0,) * 3,
            round_offset=int,
        )  # fmt: skip

    @staticmethod
    def _size(size):
        match size:
            case int():  # as written before transformers 4.22
                return size, size
            case {"height": int(height), "width": int(width)}:
                return height, width
            case {"shortest_edge": int(short), **others} if not others:
                return short
        raise ValueError(f"preprocessor_config: expected a size as height and width or shortest_edge, got {size}")

    @classmethod
    def from_torchvision(cls, transforms: torch.nn.Module) -> "Preprocess":
        """From the `transforms()` of torchvision's classification weights."""
        return cls(
            size=transforms.resize_size[0], crop=(transforms.crop_size[0],) * 2,
            resample=Image.Resampling[transforms.interpolation.name],
            mean=tuple(transforms.mean), std=tuple(transforms.std),
        )  # fmt: skip


def copy_strictly(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, Sequence[str]],
    optional: Collection[str] = (),
) -> None:
    """Copies a checkpoint's `tensors` into `model`, converted to its dtypes and devices.

    `names` gives for every name in the model's state_dict the checkpoint's; where there are several, each fills an
    equal part of the first dimension, in order. `optional` are names of the checkpoint that may be missing, or there
    and unused. A missing, unknown or misshapen tensor is a ValueError that lists all of them, raised before
    the first copy; so is a tensor of integers where floats are needed.
    """
    state = model.state_dict()
    targets = {}
    for ours, theirs in names.items():
        parts = state[ours].chunk(len(theirs)) if len(theirs) > 1 else [state[ours]]
        targets.update(zip(theirs, parts))

    problems = [f"missing {name} {_kind(target)}" for name, target in targets.items()
                if name not in tensors and name not in optional]  # fmt: skip
    for name, tensor in tensors.items():
        if name not in targets:
            if name not in optional:
                problems.append(f"unknown {name} {_kind(tensor)}")
        elif _kind(tensor) != _kind(targets[name]):
            problems.append(f"misshapen {name}: expected {_kind(targets[name])}, got {_kind(tensor)}")
    if problems:
        count = "1 tensor does" if len(problems) == 1 else f"{len(problems)} tensors do"
        raise ValueError("\n  ".join([f"{type(model).__name__}: {count} not fit the model", *problems]))

    with torch.no_grad():
        for name in targets.keys() & tensors.keys():
            targets[name].copy_(tensors[name])


def _kind(tensor):
    """What must be equal for one tensor to be copied into another."""
    return f"{tuple(tensor.shape)}" + ("" if tensor.is_floating_point() else " of integers")


def load_vit(source: str | Path = DIGITS_VIT, *, layers=nn) -> ViT:
    """A ViT from HuggingFace, in eval mode, with `class_names` and `preprocess`.

    `source` is a folder that holds config.json, model.safetensors and, optionally, preprocessor_config.json, or
    a model's id on the hub, which downloads these three files. The tensors may have the names of transformers 4 or 5.
    A checkpoint of ViTModel gives a model without a head and without class names; its pooler is left out, as
    transformers does when it puts a head on such a checkpoint.

    Raises ValueError on files that are not a ViT's and on tensors that do not fit, all listed; FileNotFoundError
    on a missing file; ConnectionError when the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download_vit(str(source))
    for name in HUB_FILES[:2]:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"load_vit: no {name} in {folder} (a pytorch_model.bin is a pickle and never read)")
    config = _read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind != "vit":
        raise ValueError(f"load_vit: expected model_type 'vit' in {folder / 'config.json'}, got {kind!r}")
    tensors, _ = _read_safetensors(folder / "model.safetensors")

    class_names = []
    prefix = "vit." if any(name.startswith("vit.") for name in tensors) else ""
    if prefix:  # a backbone with a head; transformers' own default is two labels
        labels = config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"})
        class_names = [labels[i] for i in sorted(labels, key=int)]
    sizes = {field.name: config[field.name] for field in dataclasses.fields(ViTConfig) if field.name in config}
    model = ViT(ViTConfig(**{**sizes, "num_labels": len(class_names)}), layers=layers)
    pooler = [f"{prefix}pooler.dense.weight", f"{prefix}pooler.dense.bias"]
    copy_strictly(model, tensors, _huggingface_names(model, tensors, prefix), optional=pooler)

    processor = {"size": dict(zip(("height", "width"), model.config.image_size))}
    if (folder / "preprocessor_config.json").is_file():
        processor = _read_json(folder / "preprocessor_config.json")
    return _finished(model, class_names, Preprocess.from_huggingface(processor))


def _download_vit(repo):
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or repo.startswith("."):
        raise FileNotFoundError(f"load_vit: expected a folder or a model's id on the HuggingFace hub, got {repo}")
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client raises its HTTP library's own exceptions too
        raise ConnectionError(
            f"load_vit: cannot download {repo} ({_first_line(error)}): on a machine with a network run "
            f"`hf download {repo} {' '.join(HUB_FILES)} --local-dir {Path(repo).name}`, and pass that folder"
        ) from None


OUTSIDE = {  # our names: HuggingFace's
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


def _huggingface_names(model, tensors, prefix):
    """{our name: HuggingFace's names}, in the version that `tensors` are named in."""
    version = 5 if any(name.startswith(f"{prefix}layers.") for name in tensors) else 4
    blocks = prefix + {4: "encoder.layer", 5: "layers"}[version]
    names = {}
    for ours in model.state_dict():
        if ours in OUTSIDE:
            names[ours] = [prefix + OUTSIDE[ours]]
        elif ours.startswith("head."):
            names[ours] = [ours.replace("head", "classifier")]
        else:
            i, layer, kind = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", ours).groups()
            names[ours] = [f"{blocks}.{i}.{theirs}.{kind}" for theirs in IN_BLOCK[layer][version - 4]]
    return names


def load_resnet(source=DIGITS_RESNET18, *, layers=nn) -> resnet.ResNet:
    """A ResNet-18, 34, 50, 101 or 152 from torchvision, in eval mode, with `class_names` and `preprocess`.

    `source` is one of
    - the name of torchvision's weights, such as "ResNet18_Weights.IMAGENET1K_V1", or that object: downloads them;
    - a file of tensors, .pth (read with weights_only=True) or .safetensors. What it says about itself is read from
      the safetensors metadata or from a .json of the same name: `class_names`, a list, and `preprocessor_config`, as
      HuggingFace writes it. A file named as torchvision names its own has torchvision's classes and preprocessing;
    - a torchvision model, whose strides, paddings, dilations and eps must be the usual ones.
    Depth, width and number of classes follow from the tensors. Where no class names or preprocessing
    come along, the names are numbers and the preprocessing is torchvision's for ImageNet.

    Raises ValueError on other sources, files that hold more than tensors, and tensors that do not fit, all listed;
    FileNotFoundError on a missing file; ConnectionError when torchvision's server cannot be reached.
    """
    tensors, class_names, preprocess = read_resnet(source)
    model = _resnet_for(tensors, layers)
    names = {name: [name] for name in model.state_dict()}
    counters = [name for name in names if name.endswith("num_batches_tracked")]  # not written before PyTorch 0.4.1
    copy_strictly(model, tensors, names, optional=counters)
    if isinstance(source, torch.nn.Module):
        _check_options(source, model)
    return _finished(model, class_names, preprocess)


def read_resnet(source):
    """(tensors, class names or None, preprocessing) of whatever load_resnet takes."""
    if isinstance(source, torch.nn.Module):
        return source.state_dict(), None, Preprocess()
    if re.fullmatch(r"\w+_Weights\.\w+", str(source)):
        return _download_resnet(str(source))

    path = Path(str(source)).expanduser()
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(
            "load_resnet: expected a torchvision model, the name of its weights such as "
            f"ResNet18_Weights.IMAGENET1K_V1, or a .pth or .safetensors file, got {source}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"load_resnet: no file {path}")
    tensors, about = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pth(path), {})
    beside = path.with_suffix(".json")
    if beside.is_file():
        about = _read_json(beside)
    elif path.suffix == ".pth":
        import torchvision  # only where it is needed: importing it takes seconds

        for depth in (18, 34, 50, 101, 152):
            for weights in torchvision.models.get_model_weights(f"resnet{depth}"):
                if path.name == Path(weights.url).name:
                    return tensors, *_torchvision_about(weights)
    config = about.get("preprocessor_config")
    return tensors, about.get("class_names"), Preprocess.from_huggingface(config) if config else Preprocess()


def _download_resnet(name):
    import torchvision  # only where it is needed: importing it takes seconds

    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, KeyError):
        raise ValueError(f"load_resnet: torchvision has no weights named {name}") from None
    try:
        tensors = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConnectionError(
            f"load_resnet: cannot download {name} ({_first_line(error)}): get {weights.url} on a machine with a "
            f"network, and pass that file or put it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from None
    return tensors, *_torchvision_about(weights)


def _torchvision_about(weights):
    return list(weights.meta["categories"]), Preprocess.from_torchvision(weights.transforms())


def _read_pth(path):
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails wherever the reader happens to be
        raise ValueError(
            f"load_resnet: {path} is damaged or holds more than tensors, and is not unpickled since that could run any "
            f"code: save the state_dict of a model that you trust as .safetensors ({_first_line(error)})"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        found = ", ".join(map(str, tensors)) if isinstance(tensors, dict) else type(tensors).__name__
        raise ValueError(f"load_resnet: expected a state_dict in {path}, names and tensors, got {found}")
    return tensors


def _read_safetensors(path):
    """(tensors, what the file says of itself)."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}  # of strings: ours are JSON
    except safetensors.SafetensorError as error:
        raise ValueError(f"load_weights: {path} is not a whole safetensors file ({_first_line(error)})") from None
    known = {"class_names", "preprocessor_config"} & metadata.keys()
    return tensors, {key: json.loads(metadata[key]) for key in known}


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"load_weights: {path} is not JSON ({error})") from None


RESNETS = {  # (bottlenecks, blocks per stage): constructor
    (False, (2, 2, 2, 2)): resnet.resnet18,
    (False, (3, 4, 6, 3)): resnet.resnet34,
    (True, (3, 4, 6, 3)): resnet.resnet50,
    (True, (3, 4, 23, 3)): resnet.resnet101,
    (True, (3, 8, 36, 3)): resnet.resnet152,
}


def _resnet_for(tensors, layers):
    """The ResNet whose tensors these are, or would be but for a few that are missing or misshapen."""
    blocks = tuple(len({name.split(".")[1] for name in tensors if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    bottlenecks = any(".conv3." in name for name in tensors)
    if (bottlenecks, blocks) not in RESNETS:
        kind = "bottlenecks" if bottlenecks else "basic blocks"
        known = ", ".join(str(known) for is_bottleneck, known in RESNETS if is_bottleneck == bottlenecks)
        raise ValueError(f"load_resnet: expected a ResNet with stages of {known} {kind}, got {blocks}")

    def size(*names, default):  # most of them agree, even where one is wrong
        sizes = [len(tensors[name]) for name in names if name in tensors and tensors[name].ndim]
        return mode(sizes) if sizes else default

    stem = tensors.get("conv1.weight", torch.empty(0))
    return RESNETS[bottlenecks, blocks](
        num_classes=size("fc.weight", "fc.bias", default=1000),
        width=size("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", default=64),
        in_channels=stem.shape[1] if stem.ndim == 4 else 3,
        layers=layers,
    )


def _check_options(source, model):
    """Raises ValueError where layers with the same tensors compute something else, dilated for instance."""
    theirs = dict(source.named_modules())
    for name, layer in model.named_modules():
        for option in ("stride", "padding", "dilation", "eps"):
            expected, got = getattr(layer, option, None), getattr(theirs.get(name), option, None)
            if expected is not None and got != expected:
                raise ValueError(f"load_resnet: expected {name} with {option} {expected}, got {got}")


def _finished(model, class_names, preprocess):
    """`model` in eval mode, with what came along."""
    outputs = model.fc.out_features if isinstance(model, resnet.ResNet) else model.config.num_labels
    if class_names is None:
        class_names = [str(i) for i in range(outputs)]
    if len(class_names) != outputs:
        raise ValueError(f"{type(model).__name__}: expected {outputs} class names, got {len(class_names)}")
    model.class_names, model.preprocess = list(class_names), preprocess
    return model.eval()


def _first_line(error):
    return str(error).strip().partition("\n")[0]
