"""HuggingFace's and torchvision's checkpoints in this course's models: strictly, and without unpickling anything.

    model = load_vit("google/vit-base-patch16-224")            # or a folder; left out, the shipped digits
    model = load_resnet("ResNet18_Weights.IMAGENET1K_V1")      # or a torchvision model, a .pth, a .safetensors
    with torch.inference_mode():
        logits = model(model.preprocess(image)[None])          # image: a PIL image
    print(model.class_names[logits.argmax()])

A checkpoint's tensors are first compared with the model's, by name and by shape, on the meta device, where nothing has
memory yet; it is allocated, and they are copied, only if all of them fit. How other people's files are read is in
course/formats.
"""
from enum import Enum
from pathlib import Path
from types import ModuleType

import torch

from course import nn, resnet
from course.formats.fit import copy_strictly, finished
from course.formats.resnet import read_resnet, resnet_for, unwrapped
from course.formats.same import check_layers, check_results
from course.formats.vit import CONFIG, IN_BLOCK, check_size, download, huggingface_names, read_vit
from course.preprocess import Preprocess
from course.vit import ViT

__all__ = [
    "CHECKPOINTS", "DIGITS_RESNET18", "DIGITS_VIT", "IN_BLOCK", "Preprocess", "copy_strictly", "load_resnet",
    "load_vit", "read_resnet",
]

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Those that come with the course."""

DIGITS_VIT = CHECKPOINTS / "vit-digits"
DIGITS_RESNET18 = CHECKPOINTS / "resnet18-digits.safetensors"


def load_vit(source: str | Path = DIGITS_VIT, *, layers: ModuleType = nn) -> ViT:
    """A ViT from HuggingFace, in eval mode, with `class_names` and `preprocess`.

    `source` is a folder that holds config.json, model.safetensors (or the files that a model.safetensors.index.json
    names) and, optionally, preprocessor_config.json; or a model's id on the hub, which downloads these files. The
    tensors may have the names of transformers 4 or 5, and a wrapper's prefix such as "module." before them.
    A checkpoint of ViTModel gives a model without a head and without class names; its pooler is left out, as
    transformers does when it puts a head on such a checkpoint. One that says only how many classes it has gives
    numbers for names.

    Raises ValueError on files that are not a ViT's, keys that are not what transformers expects (file, key, expected,
    got), and tensors that do not fit or are not finite, all listed; FileNotFoundError on a missing file;
    ConnectionError when the hub cannot be reached.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = download(str(source))
    config, class_names, tensors, prefix, preprocess = read_vit(folder)
    with torch.device("meta"):
        model = ViT(config, layers)
    check_size(f"load_vit: {folder / CONFIG}", model, tensors)
    pooler = [f"{prefix}pooler.dense.weight", f"{prefix}pooler.dense.bias"]
    copy_strictly(model, tensors, huggingface_names(model, tensors, prefix), optional=pooler)
    return finished(model, f"load_vit: {folder / CONFIG}", len(class_names), class_names, preprocess)


def load_resnet(
    source: str | Path | Enum | torch.nn.Module = DIGITS_RESNET18, *, layers: ModuleType = nn
) -> resnet.ResNet:
    """A ResNet-18, 34, 50, 101 or 152, a ResNeXt or a wide ResNet from torchvision, in eval mode, with `class_names`
    and `preprocess`.

    `source` is one of
    - the name of torchvision's weights, such as "ResNet18_Weights.IMAGENET1K_V1", or that object: downloads them;
    - a file of tensors, .pth (read with weights_only=True) or .safetensors. What it says about itself is read from
      the safetensors metadata or from a .json of the same name: `class_names`, a list, and `preprocessor_config`, as
      HuggingFace writes it. A file named as torchvision names its own has torchvision's classes and preprocessing.
      A .pth may hold more than the state_dict, where that is under "state_dict", "model_state_dict" or "model"; and
      the names may have a wrapper's prefix such as "module.";
    - a torchvision model, in data parallelism's or torch.compile's wrapper or in none. It must compute what ours
      does: its layers are compared by name, and a copy of it is run on one small image beside ours.
    Depth, width, groups and number of classes follow from the tensors. A source without class names or preprocessing
    has numbers for names, and torchvision's preprocessing for ImageNet.

    Raises ValueError on other sources, files that hold more than tensors, a model that computes something else, and
    tensors that do not fit or are not finite, all listed; FileNotFoundError on a missing file; ConnectionError when
    torchvision's server cannot be reached.
    """
    tensors, class_names, preprocess = read_resnet(source)
    model = resnet_for(tensors, layers)
    names = {name: [name] for name in model.state_dict()}
    counters = [name for name in names if name.endswith("num_batches_tracked")]  # not written before PyTorch 0.4.1
    copy_strictly(model, tensors, names, optional=counters)
    if isinstance(source, torch.nn.Module):
        original, twin = unwrapped(source), resnet_for(tensors, torch.nn)
        check_layers(original, twin)
        check_results(original, twin)
    where = "load_resnet" if isinstance(source, torch.nn.Module) else f"load_resnet: {source}"
    return finished(model, where, model.fc.out_features, class_names, preprocess)
