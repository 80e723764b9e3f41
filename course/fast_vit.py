"""A ViT with fused layers, and without the work that no logit depends on.

Bias, GELU and residual are finished in the linear layer's registers. Where there are FEW tokens, the blocks' norms have
no kernels: whoever writes the tokens leaves their statistics, and the linear layer that reads them normalises its sums.
The head reads the class token alone, so after the last block's keys and values are known, the other tokens are done: of
that block's queries, output projection and MLP, and of the last norm, one row per image is computed where the plain
model computes them all.
"""
import itertools
from operator import attrgetter

import torch

from course.kernels import (
    add, fold_norm, layer_norm, linear, linear_with_statistics, norm_linear, patchify, row_statistics,
    scaled_dot_product_attention,
)  # fmt: skip
from course.packing import Packing
from course.vit import ViT

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
"""HuggingFace's name: the kernels'."""

FEW = 1024
"""Tokens, up to which starting a norm's kernel takes longer than the linear layers' part in it."""

STARVED = 2048
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
        x, statistics = self.embed(images)
        for block in self.blocks[:-1]:
            x, statistics = block(x, statistics)
        return self.head(self.norm(self.blocks[-1].class_token(x, statistics)))

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, tokens, hidden), the class token, then a token a patch, positions added; statistics if few."""
        patches = patchify(images, self.config.patch_size)
        if len(images) == 1 and at_most(FEW, self.added):
            return linear_with_statistics(patches, self.patch_weight, residual=self.added)
        x = add(linear(patches, self.patch_weight), self.added)
        return x, row_statistics(x) if at_most(FEW, x) else None


def at_most(tokens: int, x: torch.Tensor) -> bool:
    """Whether `x` (..., hidden) has so few of them."""
    return x.numel() <= tokens * x.shape[-1]


def what_is_added(embeddings: torch.nn.Module) -> torch.Tensor:
    """(1, tokens, hidden): every token's position, and the class token or the patch convolution's bias."""
    bias = embeddings.patches.bias.expand_as(embeddings.positions[:, 1:])
    return torch.cat((embeddings.class_token, bias), dim=1) + embeddings.positions


class FastBlock:
    """Norm and qkv, attention, output + x, norm and hidden with its activation, output + x: five kernels or seven.

    Tokens come and go with their statistics, None where there are many.
    """

    def __init__(self, block: torch.nn.Module, config, packing: Packing):
        self.heads = config.num_attention_heads
        self.hidden_size = config.hidden_size
        self.activation = ACTIVATIONS[config.hidden_act]
        self.qkv = FastNormLinear(block.norm1, block.attention.qkv, packing)
        self.output = FastLinear(block.attention.output, packing)
        self.mlp_hidden = FastNormLinear(block.norm2, block.mlp.hidden, packing)
        self.mlp_output = FastLinear(block.mlp.output, packing)
        for layer, following in itertools.pairwise((self.qkv, self.output, self.mlp_hidden, self.mlp_output)):
            layer.following = following

    def __call__(self, x: torch.Tensor, statistics: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.mlp(*self.attend(x, *self.qkv(x, statistics).chunk(3, dim=-1)))

    def class_token(self, x: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """The block's result for the first token of each image alone, (batch, hidden)."""
        y, first = self.qkv.prepared(x, statistics), None if statistics is None else statistics[:, :1]
        q = self.qkv.part(y[:, :1], first, 0, self.hidden_size)
        k, v = self.qkv.part(y, statistics, self.hidden_size, 3 * self.hidden_size).chunk(2, dim=-1)
        return self.mlp(*self.attend(x[:, :1], q, k, v))[0][:, 0]

    def attend(self, x: torch.Tensor, *qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x + output(attention(q, k, v)). A step of its own, so that nothing holds q, k and v beyond it."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv)
        return self.output.added_to(x, scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mlp(self, x: torch.Tensor, statistics: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.mlp_output.added_to(x, self.mlp_hidden(x, statistics, activation=self.activation))


class Ahead:
    """A linear layer that, where tokens leave it STARVED, brings the weights of the `following` one to the cache."""

    following = None

    def ahead(self, x: torch.Tensor) -> torch.Tensor | None:
        return self.following.weight if self.following is not None and at_most(STARVED, x) else None


class FastLinear(Ahead):
    """A linear layer's packed parameters."""

    def __init__(self, layer: torch.nn.Linear, packing: Packing):
        self.weight = packing.add(attrgetter("weight"), layer)
        self.bias = packing.add(attrgetter("bias"), layer) if layer.bias is not None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)

    def added_to(self, residual: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """residual + self(x), and if they are few, the new tokens' statistics."""
        if at_most(FEW, residual):
            return linear_with_statistics(x, self.weight, self.bias, residual=residual, ahead=self.ahead(x))
        return linear(x, self.weight, self.bias, residual=residual, ahead=self.ahead(x)), None


class FastNormLinear(Ahead):
    """A layer norm and the linear layer behind it, folded."""

    def __init__(self, norm: torch.nn.LayerNorm, layer: torch.nn.Linear, packing: Packing):
        def folded(norm, layer):
            return fold_norm(layer.weight, layer.bias, norm.weight, norm.bias, packing.dtype)

        self.eps = norm.eps
        self.weight = packing.add(lambda *both: folded(*both).weight, norm, layer)
        self.sums = packing.add(lambda *both: folded(*both).sums, norm, layer, dtype=torch.float32)
        self.bias = packing.add(lambda *both: folded(*both).bias, norm, layer)

    def __call__(self, x: torch.Tensor, statistics: torch.Tensor | None, activation: str | None = None) -> torch.Tensor:
        x = self.prepared(x, statistics)
        return self.part(x, statistics, None, None, activation=activation, ahead=self.ahead(x))

    def prepared(self, x: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """`x` as it is where its statistics are known, or else normalised, by a kernel."""
        return x if statistics is not None else layer_norm(x, x.shape[-1:], eps=self.eps)

    def part(
        self, x: torch.Tensor, statistics: torch.Tensor | None, first: int | None, end: int | None, **others
    ) -> torch.Tensor:
        """The outputs `first` to `end` alone, of a prepared `x`."""
        weight, bias, sums = (t[first:end] for t in (self.weight, self.bias, self.sums))
        if statistics is not None:
            return norm_linear(x, statistics, weight, bias, sums, self.eps, **others)
        return linear(x, weight, bias, **others)


class FastNorm:
    """A layer norm's packed parameters."""

    def __init__(self, layer: torch.nn.LayerNorm, packing: Packing):
        self.eps = layer.eps
        self.weight = packing.add(attrgetter("weight"), layer)
        self.bias = packing.add(attrgetter("bias"), layer)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
