"""What a model is made of: its layers, their outputs, parameters and floating-point operations."""
import sys

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from course.commands.models import SHIPPED, kind, read
from course.formats.resnet import KNOWN, resnet_for
from course.vit import ViT

IMAGENET = (224, 224)


def info(model: str) -> int:
    """Layers, parameters and operations. A bare name is the architecture as for ImageNet, without any weights."""
    if model in SHIPPED or model in KNOWN:
        network, size = architecture(model), IMAGENET
        print(f"{model}: {kind(network)}, as for ImageNet, without weights", file=sys.stderr)
    else:
        network = read(model, layers=torch.nn)
        size = network.preprocess(Image.new("RGB", (640, 480))).shape[-2:]
    print(layer_table(network.to("meta").eval(), torch.empty(1, 3, *size, device="meta")))
    return 0


def architecture(name: str) -> torch.nn.Module:
    """Of that name, on torch.nn's layers and the meta device, where nothing has memory."""
    with torch.device("meta"):
        if name == "vit":
            return ViT(layers=torch.nn)
        import torchvision

        return resnet_for(torchvision.models.get_model(name, weights=None).state_dict(), torch.nn)


def layer_table(model: torch.nn.Module, image: torch.Tensor) -> str:
    """A line a layer: output shape, parameters, and GFLOP for `image` (1, C, H, W).

    Runs the model once under PyTorch's FlopCounterMode, which counts products: two operations for each
    multiply-add of a convolution, a linear layer or an attention. A module that holds other layers has a line
    where it computes products of its own. Takes a model on torch.nn's layers; on the device `meta` nothing is
    computed.
    """
    shapes = {}

    def note_shape(name):
        def hook(layer, args, output):
            shapes[name] = tuple(output.shape)

        return hook

    layers = dict(model.named_modules())
    hooks = [layer.register_forward_hook(note_shape(name)) for name, layer in layers.items()]
    with torch.inference_mode(), FlopCounterMode(display=False, depth=None) as counter:
        model(image)
    for hook in hooks:
        hook.remove()

    root = type(model).__name__
    flops = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    rows = []
    for name, layer in layers.items():
        children = [f"{root}.{name}.{child}" for child, _ in layer.named_children()]
        own = flops.get(f"{root}.{name}", 0) - sum(flops.get(child, 0) for child in children)
        if name in shapes and name and (own > 0 or not children):
            parameters = sum(p.numel() for p in layer.parameters(recurse=not children))
            rows.append((name, type(layer).__name__, "×".join(map(str, shapes[name])), parameters, own))
    rows.append(("total", root, "×".join(map(str, shapes[""])), sum(p.numel() for p in model.parameters()),
                 flops["Global"]))

    width = max(len(name) for name, *_ in rows)
    lines = [f"{'layer':{width}}  {'kind':17}  {'output':>14}  {'parameters':>11}  {'GFLOP':>7}"]
    for name, layer, shape, parameters, own in rows:
        lines.append(f"{name:{width}}  {layer:17}  {shape:>14}  {parameters:11,}  {own / 1e9:7.3f}")
    return "\n".join(lines)
