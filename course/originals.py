"""The models as their own libraries build them, on the CPU or the GPU, to compare ours with."""
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchvision
from torchvision.models.resnet import BasicBlock, Bottleneck

from course import load_weights, resnet

if TYPE_CHECKING:
    import transformers


class TorchvisionResNet(torchvision.models.ResNet):
    """torchvision's ResNet with `width` channels in the first stage, where its own always has 64."""

    def __init__(self, block, depths, num_classes, width, groups=1, width_per_group=64):
        super().__init__(block, depths, num_classes, groups=groups, width_per_group=width_per_group)
        if width != 64:
            self.inplanes = width
            self.conv1 = torch.nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(width)
            for i, depth in enumerate(depths):
                stage = self._make_layer(block, width * 2**i, depth, stride=1 if i == 0 else 2)
                setattr(self, f"layer{i + 1}", stage)
            self.fc = torch.nn.Linear(8 * width * block.expansion, num_classes)


def original_vit(source: str | Path) -> "transformers.ViTForImageClassification":
    """transformers' model from the same id or folder that `load_vit` takes, in eval mode."""
    import transformers  # only where it is needed: importing it takes seconds

    return transformers.ViTForImageClassification.from_pretrained(source, dtype=torch.float32).eval()


def original_resnet(source: object) -> torchvision.models.ResNet:
    """torchvision's model with the tensors that `load_resnet` would read from `source`, in eval mode."""
    if isinstance(source, torchvision.models.ResNet):
        return source.eval()
    tensors, *_ = load_weights.read_resnet(source)
    ours = load_weights.load_resnet(source, layers=torch.nn)
    block = BasicBlock if isinstance(ours.layer1[0], resnet.BasicBlock) else Bottleneck
    depths = [len(stage) for stage in (ours.layer1, ours.layer2, ours.layer3, ours.layer4)]
    model = TorchvisionResNet(
        block, depths, ours.fc.out_features, ours.conv1.out_channels, ours.groups, ours.width_per_group
    )
    model.load_state_dict(tensors)
    return model.eval()
