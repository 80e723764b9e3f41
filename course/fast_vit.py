"""A ViT with fused layers, and without the work that no logit depends on.

Bias, GELU and residual are finished in the linear layer's registers. The head reads the class token alone, so
after the last block's keys and values are known, the other tokens are done: of that block's queries, output
projection and MLP, and of the last norm, one row per image is computed where the plain model computes them all.
"""
import itertools
from operator import attrgetter

import torch

from course.kernels import add, layer_norm, linear, patchify, scaled_dot_product_attention
from course.packing import Packing
from course.vit import ViT

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
"""HuggingFace's name: the kernels'."""

FEW = 2048
"""Tokens, up to which a layer is so short that waiting for its weights is a good part of it."""


class FastViT:
    """(batch, channels, height, width) -> logits (batch, labels), or without a head the class token's state."""

    memory_format = torch.contiguous_format

    def __init__(self, model: ViT, packing: Packing):
        self.config = model.config
        embeddings = model.embeddings
        self.image_shape = embeddings.image_shape
        self.patch_weight = packing.add(lambda patches: patches.weight.flatten(1), embeddings.patches)
        self.added = packing.add(what_is_added, embeddings)
        self.blocks = [FastBlock(block, model.config, packing) for block in model.blocks]
        for block, following in itertools.pairwise(self.blocks):
            block.mlp_output.following = following.qkv
        self.norm = FastNorm(model.norm, packing)
        self.head = FastLinear(model.head, packing) if model.config.num_labels else lambda x: x

    def check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise ValueError(f"ViT: expected images (batch, {str(self.image_shape)[1:]}, got {tuple(images.shape)}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.norm(self.blocks[-1].class_token(x)))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden): the class token, then a token a patch, positions added."""
        patches = patchify(images, self.config.patch_size)
        if len(images) == 1:
            return linear(patches, self.patch_weight, residual=self.added)
        return add(linear(patches, self.patch_weight), self.added)


def what_is_added(embeddings: torch.nn.Module) -> torch.Tensor:
    """(1, tokens, hidden): every token's position, and the class token or the patch convolution's bias."""
    bias = embeddings.patches.bias.expand_as(embeddings.positions[:, 1:])
    return torch.cat((embeddings.class_token, bias), dim=1) + embeddings.positions


class FastBlock:
    """Seven kernels: norm, qkv, attention, output + x, norm, hidden with its activation, output + x."""

    def __init__(self, block: torch.nn.Module, config, packing: Packing):
        self.heads = config.num_attention_heads
        self.hidden_size = config.hidden_size
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm1, self.norm2 = FastNorm(block.norm1, packing), FastNorm(block.norm2, packing)
        self.qkv = FastLinear(block.attention.qkv, packing)
        self.output = FastLinear(block.attention.output, packing)
        self.mlp_hidden = FastLinear(block.mlp.hidden, packing)
        self.mlp_output = FastLinear(block.mlp.output, packing)
        for layer, following in itertools.pairwise((self.qkv, self.output, self.mlp_hidden, self.mlp_output)):
            layer.following = following

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.attend(x, *self.qkv(self.norm1(x)).chunk(3, dim=-1)))

    def class_token(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result for the first token of each image alone, (batch, hidden)."""
        y = self.norm1(x)
        q = self.qkv.part(y[:, :1], 0, self.hidden_size)
        k, v = self.qkv.part(y, self.hidden_size, 3 * self.hidden_size).chunk(2, dim=-1)
        return self.mlp(self.attend(x[:, :1], q, k, v))[:, 0]

    def attend(self, x: torch.Tensor, *qkv: torch.Tensor) -> torch.Tensor:
        """x + output(attention(q, k, v)). A step of its own, so that nothing holds q, k and v beyond it."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv)
        return self.output(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), residual=x)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp_output(self.mlp_hidden(self.norm2(x), activation=self.activation), residual=x)


class FastLinear:
    """A linear layer's packed parameters; where there are FEW tokens, it brings the `following` one's to the cache."""

    following = None

    def __init__(self, layer: torch.nn.Linear, packing: Packing):
        self.weight = packing.add(attrgetter("weight"), layer)
        self.bias = packing.add(attrgetter("bias"), layer) if layer.bias is not None else None

    def __call__(self, x: torch.Tensor, **epilogue) -> torch.Tensor:
        few = self.following is not None and x.numel() <= FEW * x.shape[-1]
        return linear(x, self.weight, self.bias, ahead=self.following.weight if few else None, **epilogue)

    def part(self, x: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """The outputs `first` to `end` alone."""
        return linear(x, self.weight[first:end], None if self.bias is None else self.bias[first:end])


class FastNorm:
    """A layer norm's packed parameters."""

    def __init__(self, layer: torch.nn.LayerNorm, packing: Packing):
        self.eps = layer.eps
        self.weight = packing.add(attrgetter("weight"), layer)
        self.bias = packing.add(attrgetter("bias"), layer)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
