"""The models that race, all with the same random weights: this course's and the libraries'."""
import abc
import copy
import functools
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

import course
from course import load_weights, nn
from course.graphs import Captured
from course.vit import ViT, ViTConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}


@dataclass
class Contender:
    """One provider with its weights on the GPU."""

    call: Callable[[torch.Tensor], torch.Tensor]
    """What a user calls: images to logits."""
    capture: Callable[[torch.Tensor], Captured]
    """The same forward pass of these images as a bare CUDA graph."""


class Family(abc.ABC):
    """One architecture: its providers, and the reference they must agree with."""

    peers: Mapping[str, Callable[[], torch.nn.Module]]
    """Name: a new float32 model on the CPU with the family's weights, in eval mode, from images to logits."""

    image: tuple[int, int, int]
    memory_format: torch.memory_format

    @abc.abstractmethod
    def course_model(self, layers) -> torch.nn.Module:
        """This course's model on `layers`, with the family's weights."""

    @property
    def providers(self) -> list[str]:
        """Those that start quickly first; compiling one takes a minute or two."""
        return ["course", "course-plain", *self.peers, *(f"{peer}-compile" for peer in self.peers)]

    def images(self, batch: int, dtype: str, device) -> torch.Tensor:
        x = torch.randn(batch, *self.image, device=device).to(DTYPES[dtype])
        return x.contiguous(memory_format=self.memory_format)

    def reference(self, images: torch.Tensor) -> torch.Tensor:
        """Logits in float32, of the plain PyTorch model; call it where TF32 is switched off."""
        model = self.course_model(torch.nn).to(images.device)
        return torch.cat([model(part.float()) for part in images.split(64)])

    def contender(self, provider: str, dtype: str, device) -> Contender:
        """Raises KeyError on an unknown provider, ImportError on a library that is not installed."""
        name, _, variant = provider.partition("-")
        move = functools.partial(torch.nn.Module.to, device=device, dtype=DTYPES[dtype])
        if name == "course" and variant == "plain":
            model = move(self.course_model(nn))
            return Contender(model, functools.partial(capture, model))
        if name == "course":
            fast = course.optimize(move(self.course_model(nn)))
            return Contender(fast, functools.partial(fast_graph, fast))
        model = move(self.peers[name]())
        if self.memory_format == torch.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if variant == "compile":
            # max-autotune brings a CUDA graph of its own; for the bare one the same kernels are captured without it
            call = torch.compile(model, mode="max-autotune", dynamic=False)
            bare = torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
            return Contender(call, functools.partial(capture, bare))
        return Contender(model, functools.partial(capture, model))


def capture(call: Callable, images: torch.Tensor) -> Captured:
    return Captured([lambda: call(images)])


def fast_graph(fast, images: torch.Tensor) -> Captured:
    """The graph behind course.optimize's callable, holding `images`."""
    fast(images)
    return fast.graphs[tuple(images.shape)].captured


class ViTBase(Family):
    """ViT-B/16 on ImageNet's 1,000 classes."""

    memory_format = torch.contiguous_format

    def __init__(self, **sizes):
        self.config = ViTConfig(**sizes)
        self.image = (self.config.num_channels, *self.config.image_size)
        self.peers = {"transformers": self.transformers_model, "timm": self.timm_model}

    @functools.cached_property
    def original(self):
        import transformers
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        # transformers' own sdpa, under a name for which it has no function that makes masks: for "sdpa" it makes one,
        # all True, while a graph is compiled or captured, and PyTorch takes a slower kernel for it than without
        transformers.AttentionInterface.register("sdpa_unmasked", sdpa_attention_forward)
        sizes = {**vars(self.config), "image_size": self.config.image_size[0], "patch_size": self.config.patch_size[0]}
        config = transformers.ViTConfig(**sizes, attn_implementation="sdpa_unmasked")
        return transformers.ViTForImageClassification(config).eval()

    @functools.cached_property
    def weights(self):
        """The original's, under the names that course.vit gives them."""
        with tempfile.TemporaryDirectory() as folder:
            self.original.save_pretrained(folder)
            return load_weights.load_vit(folder, layers=torch.nn).state_dict()

    def course_model(self, layers):
        with torch.device("meta"):  # no random weights: they take seconds
            model = ViT(self.config, layers)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()

    def transformers_model(self):
        return Logits(copy.deepcopy(self.original))

    def timm_model(self):
        import timm

        c = self.config
        with torch.device("meta"):
            model = timm.models.VisionTransformer(
                img_size=c.image_size, patch_size=c.patch_size[0], embed_dim=c.hidden_size, depth=c.num_hidden_layers,
                num_heads=c.num_attention_heads, mlp_ratio=c.intermediate_size / c.hidden_size,
                num_classes=c.num_labels, weight_init="skip",
            )
        model.load_state_dict({timm_name(name): tensor for name, tensor in self.weights.items()}, assign=True)
        return model.eval()


class Logits(torch.nn.Module):
    """transformers' model, without what its result wraps around the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


TIMM = [
    (r"embeddings\.class_token", "cls_token"), (r"embeddings\.positions", "pos_embed"),
    (r"embeddings\.patches", "patch_embed.proj"), (r"attention\.qkv", "attn.qkv"), (r"attention\.output", "attn.proj"),
    (r"mlp\.hidden", "mlp.fc1"), (r"mlp\.output", "mlp.fc2"),
]


def timm_name(name: str) -> str:
    """timm's name of one of course.vit's parameters."""
    for ours, theirs in TIMM:
        name = re.sub(ours, theirs, name)
    return name


class ResNet18(Family):
    """torchvision's ResNet-18, channels_last, with the statistics of random images in its batch norms."""

    memory_format = torch.channels_last

    def __init__(self, side: int = 224):
        self.image = (3, side, side)
        self.peers = {"torchvision": lambda: copy.deepcopy(self.original)}

    @functools.cached_property
    def original(self):
        import torchvision

        model = torchvision.models.resnet18()
        norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            torch.nn.init.normal_(norm.weight, 1.0, 0.1)
            torch.nn.init.normal_(norm.bias, 0.0, 0.1)
            norm.momentum = None  # the running statistics become this one batch's
        with torch.no_grad():
            model.train()(torch.randn(4, *self.image))
        return model.eval()

    def course_model(self, layers):
        return load_weights.load_resnet(self.original, layers=layers)


FAMILIES = {"vit-b16": ViTBase, "resnet18": ResNet18}
