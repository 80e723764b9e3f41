"""Residual networks (He et al., 2015, Deep Residual Learning for Image Recognition), for inference.

A block learns what to add to its input rather than what to make of it: y = relu(x + f(x)). Four stages of such
blocks halve the resolution and double the planes; the mean over all pixels is the image's description, from which one
linear layer reads the class.

    images (batch, channels, height, width)
    -> conv 7x7 / 2, max pool 3x3 / 2     (batch, width, height / 4, width / 4)
    -> layer1 .. layer4                   (batch, 8 * width * expansion, height / 32, width / 32)
    -> mean over pixels, fc               logits (batch, num_classes)

`layers` is where the layers come from: course.nn (Triton kernels) or torch.nn (the reference). The parameter names are
torchvision's, so that its checkpoints load as they are.
"""
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from course import nn


def conv_and_norm(layers, in_channels, out_channels, size, stride=1, groups=1):
    """A convolution that keeps the resolution at stride 1, and the norm whose bias makes its own superfluous."""
    conv = layers.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False)
    return conv, layers.BatchNorm2d(out_channels)


def shortcut(layers, in_channels, out_channels, stride):
    """x as it is, or through a 1x1 convolution where the block changes its shape."""
    if stride == 1 and in_channels == out_channels:
        return torch.nn.Identity()
    return torch.nn.Sequential(*conv_and_norm(layers, in_channels, out_channels, 1, stride))


class BasicBlock(torch.nn.Module):
    """Two 3x3 convolutions: ResNet-18 and 34."""

    expansion = 1
    """Output channels per plane."""

    def __init__(self, in_channels, planes, stride, layers):
        super().__init__()
        self.conv1, self.bn1 = conv_and_norm(layers, in_channels, planes, 3, stride)
        self.conv2, self.bn2 = conv_and_norm(layers, planes, planes, 3)
        self.relu = layers.ReLU()
        self.downsample = shortcut(layers, in_channels, planes * self.expansion, stride)
        self.add = nn.addition(layers)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(self.add(out, self.downsample(x)))


class Bottleneck(torch.nn.Module):
    """1x1 down to `planes`, 3x3, 1x1 up to four times as many: ResNet-50 and deeper.

    The stride is the 3x3 convolution's, as in torchvision (v1.5); the paper's is the first 1x1's. The 3x3 may have
    `groups` (Xie et al., 2017, Aggregated Residual Transformations, ResNeXt), and other channels than `planes`: of each
    group `width_per_group` 64ths (Zagoruyko and Komodakis, 2016, Wide Residual Networks).
    """

    expansion = 4

    def __init__(self, in_channels, planes, stride, layers, groups=1, width_per_group=64):
        super().__init__()
        width = planes * width_per_group // 64 * groups
        self.conv1, self.bn1 = conv_and_norm(layers, in_channels, width, 1)
        self.conv2, self.bn2 = conv_and_norm(layers, width, width, 3, stride, groups)
        self.conv3, self.bn3 = conv_and_norm(layers, width, planes * self.expansion, 1)
        self.relu = layers.ReLU()
        self.downsample = shortcut(layers, in_channels, planes * self.expansion, stride)
        self.add = nn.addition(layers)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(self.add(out, self.downsample(x)))


class ResNet(torch.nn.Module):
    """images (batch, in_channels, height, width), 32 pixels or any other size -> logits (batch, num_classes).

    `depths` counts the blocks of the four stages; `width` is the first stage's planes, each further stage doubles them.
    `groups` and `width_per_group` are torchvision's, for bottlenecks alone: ValueError for others.
    """

    class_names: list[str]
    preprocess: Callable[..., torch.Tensor]
    """What a loaded checkpoint brings along: of a PIL image, `preprocess` makes (in_channels, height, width)."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: Sequence[int],
        num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn,
        groups: int = 1, width_per_group: int = 64,
    ):
        super().__init__()
        self.groups, self.width_per_group = groups, width_per_group
        middle = {"groups": groups, "width_per_group": width_per_group} if block is Bottleneck else {}
        if not middle and (groups, width_per_group) != (1, 64):
            raise ValueError("ResNet: expected groups 1 and width_per_group 64 of blocks that are no bottlenecks, "
                             f"got {groups} and {width_per_group}")
        self.conv1, self.bn1 = conv_and_norm(layers, in_channels, width, 7, stride=2)
        self.relu = layers.ReLU()
        self.maxpool = layers.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = width
        for i, depth in enumerate(depths):
            planes = width * 2**i
            blocks = [block(channels, planes, 1 if i == 0 else 2, layers, **middle)]
            channels = planes * block.expansion
            blocks += [block(channels, planes, 1, layers, **middle) for _ in range(depth - 1)]
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
        self.avgpool = layers.AdaptiveAvgPool2d(1)
        self.fc = layers.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Conv2d):  # keeps the variance through convolution and ReLU (He et al., 2015)
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images):
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width, in_channels, layers)


def resnet34(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, width, in_channels, layers)


def resnet50(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, layers)


def resnet101(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width, in_channels, layers)


def resnet152(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, width, in_channels, layers)


def resnext50_32x4d(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, layers, 32, 4)


def resnext101_32x8d(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width, in_channels, layers, 32, 8)


def resnext101_64x4d(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width, in_channels, layers, 64, 4)


def wide_resnet50_2(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, in_channels, layers, 1, 128)


def wide_resnet101_2(num_classes: int = 1000, width: int = 64, in_channels: int = 3, layers: ModuleType = nn) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width, in_channels, layers, 1, 128)
