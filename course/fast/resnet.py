"""A ResNet as a chain of fused convolutions: the norm folded in, residual and ReLU applied to the sums in registers.

In eval mode a batch norm is a scale and a shift of each channel, so it can be folded into the convolution before it:

    norm(conv(x, w)) = conv(x, w * s) + b,    s = weight / sqrt(running_var + eps),    b = bias - running_mean * s

A basic block is then two kernels, and one more where its shortcut is a convolution; PyTorch launches five to seven.
The stem is two: one packs the images, and one convolves, norms and pools.

In float32, where PyTorch's setting for convolutions allows TF32 when the model is optimised, the weights are rounded to
TF32 as they are packed, and every kernel rounds what it stores for the next one: nothing is rounded twice.
"""
from operator import attrgetter

import torch

from course.kernels import adaptive_avg_pool2d, conv2d, linear, max_pool2d, stem
from course.kernels.convolution.stem import stem_weight
from course.kernels.parts.tf32 import rounded_to_tf32
from course.fast.packing import Packing
from course.precision import conv_precision
from course.resnet import BasicBlock, ResNet


class FastResNet:
    """(batch, channels, height, width) -> logits (batch, classes); `model` is in eval mode."""

    def __init__(self, model: ResNet, packing: Packing):
        self.channels = model.conv1.in_channels
        fused = FusedStem.fits(model.conv1)
        self.stem = (FusedStem if fused else ConvThenPool)(model.conv1, model.bn1, packing)
        # the fused stem reads images of any strides
        self.memory_format = torch.preserve_format if fused else torch.channels_last
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        self.blocks = [FastResNetBlock(block, packing) for stage in stages for block in stage]
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
        self.tf32 = in_tf32(packing)
        self.weight = packing.add(lambda *pair: stem_weight(folded_weight(*pair, self.tf32)), conv, norm)
        self.bias = packing.add(folded_bias, norm)

    @staticmethod
    def fits(conv: torch.nn.Conv2d) -> bool:
        window = conv.kernel_size, conv.stride, conv.padding
        return conv.in_channels <= 4 and window == ((7, 7), (2, 2), (3, 3))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return stem(images, self.weight, self.bias, tf32_operands=self.tf32)


class ConvThenPool:
    """The same for any number of channels, in two kernels."""

    def __init__(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, packing: Packing):
        self.conv = FoldedConv(conv, norm, packing)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = rounded_to_tf32(images) if self.conv.tf32 else images
        return max_pool2d(self.conv(images, activation="relu"), kernel_size=3, stride=2, padding=1)


class FastResNetBlock:
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
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.tf32 = in_tf32(packing)
        self.weight = packing.add(self.channels_last_weight, conv, norm)
        self.bias = packing.add(folded_bias, norm)

    def channels_last_weight(self, conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.Tensor:
        return folded_weight(conv, norm, self.tf32).to(memory_format=torch.channels_last)

    def __call__(self, x: torch.Tensor, **epilogue) -> torch.Tensor:
        return conv2d(
            x, self.weight, self.bias, self.stride, self.padding, groups=self.groups, tf32_operands=self.tf32,
            **epilogue,
        )


def in_tf32(packing: Packing) -> bool:
    return packing.dtype == torch.float32 and conv_precision(packing.dtype) == "tf32"


def folded_weight(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d, tf32: bool = False) -> torch.Tensor:
    """The convolution's weight, times what the norm multiplies each filter's result by; with `tf32` rounded to TF32."""
    weight = conv.weight.float() * scale(norm).view(-1, 1, 1, 1)
    return rounded_to_tf32(weight) if tf32 else weight


def folded_bias(norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    return norm.bias.float() - norm.running_mean.float() * scale(norm)


def scale(norm: torch.nn.BatchNorm2d) -> torch.Tensor:
    """What a batch norm in eval mode multiplies each channel by, in float32."""
    return norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
