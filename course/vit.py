"""The Vision Transformer (Dosovitskiy et al., 2020, An Image is Worth 16x16 Words), for inference.

An image is cut into patches, each patch becomes a token, and a stack of blocks lets the tokens attend to each
other; the class token's last state is the image's description, from which one linear layer reads the class.

    images (batch, channels, height, width)
    -> Embeddings  (batch, tokens, hidden), tokens = 1 + patches
    -> Block x L   x + attention(norm(x)), then x + mlp(norm(x))
    -> norm, first token, head -> logits (batch, labels)

`layers` is where the layers come from: course.nn (Triton kernels) or torch.nn (the reference), with the same
parameter names. Wherever the result of a step is worth a look, the step is a submodule, open to forward hooks.
"""
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import ModuleType

import torch

from course import nn
from course.formats.keys import BOOLEAN, NOT_NEGATIVE, among, checked, either, integer, several

HIDDEN_ACTS = {
    "gelu": lambda layers: layers.GELU(),
    "gelu_new": lambda layers: layers.GELU(approximate="tanh"),
    "gelu_pytorch_tanh": lambda layers: layers.GELU(approximate="tanh"),
    "relu": lambda layers: layers.ReLU(),
}
"""HuggingFace's name of an MLP's activation: its layer from a namespace."""

KEYS = {
    "image_size": either(integer(1), several(integer(1), 2)),
    "patch_size": either(integer(1), several(integer(1), 2)),
    "num_channels": integer(1), "hidden_size": integer(1), "num_hidden_layers": integer(0),
    "num_attention_heads": integer(1), "intermediate_size": integer(1), "hidden_act": among(*HIDDEN_ACTS),
    "layer_norm_eps": NOT_NEGATIVE, "qkv_bias": BOOLEAN, "num_labels": integer(0),
}
"""What each field of a ViTConfig may be."""


@dataclass(frozen=True)
class ViTConfig:
    """A ViT's sizes under the names of HuggingFace's ViTConfig; the defaults are ViT-B/16 on ImageNet.

    Raises ValueError on values that are not as in KEYS, a hidden_size that its heads do not divide, and an image
    smaller than a patch.
    """

    image_size: int | Sequence[int] = 224  # or (height, width)
    patch_size: int | Sequence[int] = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    num_labels: int = 1000  # 0: no head

    def __post_init__(self):
        checked("ViT", vars(self), KEYS)
        for size in ("image_size", "patch_size"):
            value = getattr(self, size)
            object.__setattr__(self, size, (value, value) if isinstance(value, Integral) else tuple(value))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"ViT: expected hidden_size a multiple of {self.num_attention_heads} heads, got {self.hidden_size}"
            )
        if 0 in self.grid:
            raise ValueError(f"ViT: expected image_size at least patch_size {self.patch_size}, got {self.image_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class Embeddings(torch.nn.Module):
    """One token a patch, the class token before them, and the position added to each: (batch, tokens, hidden)."""

    def __init__(self, config, layers):
        super().__init__()
        self.image_shape = (config.num_channels, *config.image_size)
        tokens = 1 + config.grid[0] * config.grid[1]
        self.patches = layers.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.class_token = torch.nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.positions = torch.nn.Parameter(torch.empty(1, tokens, config.hidden_size))
        torch.nn.init.trunc_normal_(self.class_token, std=0.02)
        torch.nn.init.trunc_normal_(self.positions, std=0.02)
        self.add = nn.addition(layers)

    def forward(self, images):
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"ViT: expected images (batch, {str(self.image_shape)[1:]}, got {tuple(images.shape)}")
        x = self.patches(images).flatten(2).mT
        x = torch.cat((self.class_token.expand(len(x), -1, -1), x), dim=1)
        return self.add(x, self.positions)


class Attention(torch.nn.Module):
    """Every token gathers from all others, weighted by softmax(q @ k.T / sqrt(head size)), in several heads."""

    def __init__(self, config, layers):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = layers.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.attend = layers.functional.scaled_dot_product_attention
        self.output = layers.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        # (batch, tokens, 3 * hidden) as q, k, v of (batch, heads, tokens, head size)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(self.attend(q, k, v).transpose(1, 2).flatten(2))


class Block(torch.nn.Module):
    """Attention between the tokens, then an MLP on each of them; both see normalised tokens and add to x."""

    def __init__(self, config, layers):
        super().__init__()
        self.norm1 = layers.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, layers)
        self.norm2 = layers.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = torch.nn.Sequential(OrderedDict(
            hidden=layers.Linear(config.hidden_size, config.intermediate_size),
            activation=HIDDEN_ACTS[config.hidden_act](layers),
            output=layers.Linear(config.intermediate_size, config.hidden_size),
        ))
        self.add = nn.addition(layers)

    def forward(self, x):
        x = self.add(x, self.attention(self.norm1(x)))
        return self.add(x, self.mlp(self.norm2(x)))


class ViT(torch.nn.Module):
    """The whole model: images (batch, channels, height, width) -> logits (batch, num_labels).

    Without a head (num_labels=0) it returns the class token's last state after the norm, (batch, hidden_size);
    the states of all tokens are the output of the submodule `norm`. There is no dropout, in training mode neither.
    Raises ValueError on images of another shape than the config's.
    """

    class_names: list[str]
    preprocess: Callable[..., torch.Tensor]
    """What a loaded checkpoint brings along: of a PIL image, `preprocess` makes (channels, height, width)."""

    def __init__(self, config: ViTConfig = ViTConfig(), layers: ModuleType = nn):  # noqa: B008  frozen
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, layers)
        self.blocks = torch.nn.ModuleList(Block(config, layers) for _ in range(config.num_hidden_layers))
        self.norm = layers.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = layers.Linear(config.hidden_size, config.num_labels) if config.num_labels else torch.nn.Identity()

    def forward(self, images):
        x = self.embeddings(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


if __name__ == "__main__":  # beside HuggingFace's; the options are those of `python -m course verify vit`
    import sys

    from course.__main__ import main

    sys.exit(main(["verify", "vit", *sys.argv[1:]]))
