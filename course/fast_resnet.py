"""A ResNet as a chain of fused convolutions: norm folded in, residual and ReLU applied to the sums in registers.

In eval mode a batch norm is a scale and a shift of each channel, so it can be folded into the convolution before it:

    norm(conv(x, w)) = conv(x, w * s) + b,    s = weight / sqrt(running_var + eps),    b = bias - running_mean * s

A basic block is then two kernels, and one more where its shortcut is a convolution; PyTorch launches five to seven.
The stem is two: one packs the images, and one convolves, norms and pools.
"""
from operator import attrgetter

import torch

from course.kernels import adaptive_avg_pool2d, conv2d, linear, max_pool2d, stem
from course.kernels.stem import stem_weight
from course.packing import Packing
from course.resnet import BasicBlock, ResNet


class FastResNet:
    """(batch, channels, height, width) -> logits (batch, classes); `model` is in eval mode."""

    def __init__(self, model: ResNet, packing: Packing):
        self.channels = model.conv1.in_channels
        fused = FusedStem.fits(model.conv1)
        self.stem = (FusedStem if fused else ConvThenPool)(model.conv1, model.bn1, packing)
        # the fused stem rewrites the images itself, whatever order they are in
        self.memory_format = torch.preserve_format if fused else torch.channels_last
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        self.blocks = [FastBlock(block, packing) for stage in stages for block in stage]
        self.fc_weight = packing.add(attrgetter("weight"), model.fc)
        self.fc_bias = packing.add(attrgetter("bias"), model.fc)

    def check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.channels:
            expected = f"(batch, {self.channels}, height, width)"
            raise ValueError(f"ResNet: expected images {expected}, got {tuple(images.shape)}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return linear(adaptive_avg_pool2d(x, 1).flatten(1), self.fc_weight, self.fc_bias)


class FusedStem:
    """Convolution, norm, ReLU and max pool in one kernel, for images of few channels."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, packing: Packing):
        self.weight = packing.add(lambda *pair: stem_weight(folded_weight(*pair)), conv, norm)
        self.bias = packing.add(folded_bias, norm)

    @staticmethod
    def fits(conv: torch.nn.Conv2d) -> bool:
        window = conv.kernel_size, conv.stride, conv.padding
        return conv.in_channels <= 4 and window == ((7, 7), (2, 2), (3, 3))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return stem(images, self.weight, self.bias)


class ConvThenPool:
    """The same for any number of channels, in two kernels."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, packing: Packing):
        self.conv = FoldedConv(conv, norm, packing)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return max_pool2d(self.conv(images, activation="relu"), kernel_size=3, stride=2, padding=1)


class FastBlock:
    """A basic block's or a bottleneck's convolutions; the last of them adds the shortcut before its ReLU."""

    def __init__(self, block: torch.nn.Module, packing: Packing):
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if not isinstance(block, BasicBlock):
            pairs.append((block.conv3, block.bn3))
        *self.first, self.last = [FoldedConv(conv, norm, packing) for conv, norm in pairs]
        has_conv = not isinstance(block.downsample, torch.nn.Identity)
        self.shortcut = FoldedConv(*block.downsample, packing) if has_conv else lambda x: x

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(x)
        for conv in self.first:
            x = conv(x, activation="relu")
        return self.last(x, activation="relu", residual=residual)


class FoldedConv:
    """A convolution with the batch norm after it folded in, its weights in channels_last."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, packing: Packing):
        self.stride, self.padding = conv.stride, conv.padding
        self.weight = packing.add(channels_last_weight, conv, norm)
        self.bias = packing.add(folded_bias, norm)

    def __call__(self, x: torch.Tensor, **epilogue) -> torch.Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, **epilogue)


def folded_weight(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    return conv.weight.float() * scale(norm).view(-1, 1, 1, 1)


def channels_last_weight(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    return folded_weight(conv, norm).to(memory_format=torch.channels_last)


def folded_bias(norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    return norm.bias.float() - norm.running_mean.float() * scale(norm)


def scale(norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    """What a batch norm in eval mode multiplies each channel by, in float32."""
    return norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
