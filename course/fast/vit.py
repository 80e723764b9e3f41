"""A ViT with fused layers, and without the work that no logit depends on.

A linear layer applies bias, GELU and residual to its sums while they are in registers. Up to FUSED_NORM_TOKENS tokens,
the blocks' norms have no kernels of their own: the kernel that writes the tokens writes their statistics too, and the
linear layer that reads the tokens normalises its sums with them.

The head reads the class token alone. So the last block computes keys and values of all tokens, but one row an image of
everything after them: queries, output projection, MLP, and the last norm. The plain model computes all rows.
"""
import itertools
from operator import attrgetter

import torch

from course.kernels import (
    add, fold_norm, layer_norm, linear, linear_with_statistics, norm_linear, patchify, row_statistics,
    scaled_dot_product_attention,
)
from course.fast.packing import Packing
from course.vit import ViT

FUSED_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
"""HuggingFace's name of an MLP's activation: its name as `activation` of `linear`."""

FUSED_NORM_TOKENS = 1024
"""Up to so many tokens a norm is fused into the linear layers: its own kernel would take longer to launch than their
part in the norm takes."""

PREFETCH_TOKENS = 2048
"""Up to so many tokens a layer prefetches the next one's weights: a layer is so short that waiting for its weights is a
good part of it."""


class FastViT:
    """(batch, channels, height, width) -> logits (batch, labels), or without a head the class token's state."""

    memory_format = torch.contiguous_format

    def __init__(self, model: ViT, packing: Packing):
        self.config = model.config
        embeddings = model.embeddings
        self.image_shape = embeddings.image_shape
        self.patch_weight = packing.add(lambda patches: patches.weight.flatten(1), embeddings.patches)
        self.added = packing.add(what_is_added, embeddings)
        self.blocks = [FastViTBlock(block, model.config, packing) for block in model.blocks]
        for block, next_block in itertools.pairwise(self.blocks):
            block.mlp_output.next_layer = next_block.qkv
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
        """(batch, tokens, hidden): the class token, then a token a patch, positions added; and their statistics, None
        if the norms are not fused."""
        patches = patchify(images, self.config.patch_size)
        if len(images) == 1 and has_at_most(FUSED_NORM_TOKENS, self.added):
            return linear_with_statistics(patches, self.patch_weight, residual=self.added)
        x = add(linear(patches, self.patch_weight), self.added)
        return x, row_statistics(x) if has_at_most(FUSED_NORM_TOKENS, x) else None


def has_at_most(tokens: int, x: torch.Tensor) -> bool:
    """Whether `x` (..., hidden) has no more than so many tokens."""
    return x.numel() <= tokens * x.shape[-1]


def what_is_added(embeddings: torch.nn.Module) -> torch.Tensor:
    """(1, tokens, hidden): every token's position, and the class token or the patch convolution's bias."""
    bias = embeddings.patches.bias.expand_as(embeddings.positions[:, 1:])
    return torch.cat((embeddings.class_token, bias), dim=1) + embeddings.positions


class FastViTBlock:
    """Norm and qkv, attention, output + x, norm and hidden with its activation, output + x: five kernels or seven.

    With the tokens (batch, tokens, hidden) it takes and returns their statistics, None if the norms are not fused.
    """

    def __init__(self, block: torch.nn.Module, config, packing: Packing):
        self.heads = config.num_attention_heads
        self.hidden_size = config.hidden_size
        self.activation = FUSED_ACTIVATIONS[config.hidden_act]
        self.qkv = FastNormLinear(block.norm1, block.attention.qkv, packing)
        self.output = FastLinear(block.attention.output, packing)
        self.mlp_hidden = FastNormLinear(block.norm2, block.mlp.hidden, packing)
        self.mlp_output = FastLinear(block.mlp.output, packing)
        for layer, next_layer in itertools.pairwise((self.qkv, self.output, self.mlp_hidden, self.mlp_output)):
            layer.next_layer = next_layer

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


class Prefetching:
    """A linear layer that prefetches to the L2 cache the weights of `next_layer`, if there is one."""

    next_layer = None

    def prefetch(self, x: torch.Tensor) -> torch.Tensor | None:
        """The weights to prefetch while this layer reads `x`, None for more than PREFETCH_TOKENS tokens."""
        has_next = self.next_layer is not None
        return self.next_layer.weight if has_next and has_at_most(PREFETCH_TOKENS, x) else None


class FastLinear(Prefetching):
    """A linear layer's packed parameters."""

    def __init__(self, layer: torch.nn.Linear, packing: Packing):
        self.weight = packing.add(attrgetter("weight"), layer)
        self.bias = packing.add(attrgetter("bias"), layer) if layer.bias is not None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)

    def added_to(self, residual: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """residual + self(x), and the statistics of these new tokens, None if the norms are not fused."""
        if has_at_most(FUSED_NORM_TOKENS, residual):
            return linear_with_statistics(x, self.weight, self.bias, residual=residual, prefetch=self.prefetch(x))
        return linear(x, self.weight, self.bias, residual=residual, prefetch=self.prefetch(x)), None


class FastNormLinear(Prefetching):
    """A layer norm folded into the linear layer after it."""

    def __init__(self, norm: torch.nn.LayerNorm, layer: torch.nn.Linear, packing: Packing):
        def folded(norm, layer):
            return fold_norm(layer.weight, layer.bias, norm.weight, norm.bias, packing.dtype)

        self.eps = norm.eps
        self.weight = packing.add(lambda *both: folded(*both).weight, norm, layer)
        self.sums = packing.add(lambda *both: folded(*both).sums, norm, layer, dtype=torch.float32)
        self.bias = packing.add(lambda *both: folded(*both).bias, norm, layer)

    def __call__(self, x: torch.Tensor, statistics: torch.Tensor | None, activation: str | None = None) -> torch.Tensor:
        x = self.prepared(x, statistics)
        return self.part(x, statistics, None, None, activation=activation, prefetch=self.prefetch(x))

    def prepared(self, x: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """`x` as it is if its statistics are given, otherwise normalised by a kernel of its own."""
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
