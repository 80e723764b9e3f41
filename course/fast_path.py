"""The fast path: a loaded model's weights packed once, its layers fused, and each input shape one CUDA graph.

    fast = course.optimize(model, dtype=torch.bfloat16)
    logits = fast(images)

What a model does is left to `fast_vit` and `fast_resnet`, which say it again with the kernels' fused forms: batch norm
folded into the convolution before it, bias, activation and residual finished while the sums are in registers. Here is
what they have in common: packed weights that follow the model's, and graphs, which hand the GPU all kernels of a
forward pass at once. Launched one by one, a small batch's kernels take less time than launching them.
"""
from collections import OrderedDict
from collections.abc import Callable

import torch

from course.fast_resnet import FastResNet
from course.fast_vit import FastViT
from course.kernels._checks import FLOATS, check_device
from course.packing import Packing
from course.resnet import ResNet
from course.timing import Captured
from course.vit import ViT

PLANS = {ViT: FastViT, ResNet: FastResNet}


def optimize(model: ViT | ResNet, dtype: torch.dtype | None = None, graphs: int = 8) -> "Fast":
    """A callable that computes what `model` computes in eval mode, faster, in `dtype` (by default the model's).

    `model` is a ViT or ResNet of this course, on course.nn's layers or torch.nn's, on the GPU if there is one.
    The result keeps CUDA graphs for the `graphs` input shapes used last, and follows changes of the model's
    weights (an optimiser's step, load_state_dict). After the model itself was changed (another layer, another
    device), call `optimize` again. It does not keep the model: `model = course.optimize(model)` frees what the
    fast path does not need. Raises TypeError on other models and dtypes, ValueError on a model that
    kernels cannot reach; a call raises RuntimeError once a parameter was replaced by another.
    """
    plan = PLANS.get(type(model))
    if plan is None:
        raise TypeError(f"optimize: expected a course.vit.ViT or a course.resnet.ResNet, got {type(model).__name__}")
    first = next(model.parameters())
    if (dtype or first.dtype) not in FLOATS:
        raise TypeError(f"optimize: expected dtype float32, float16 or bfloat16, got {dtype or first.dtype}")
    check_device("optimize", "the model", first)
    return Fast(model, plan, dtype or first.dtype, graphs)


class Fast:
    """A model's fast path, called as the model itself: images (batch, channels, height, width) -> logits.

    Not for several threads at once: the graphs share their buffers.
    """

    def __init__(self, model: torch.nn.Module, plan: type, dtype: torch.dtype, graphs: int):
        self.dtype, self.most = dtype, graphs
        self.packing = Packing(model, dtype)
        self.plan = plan(model, self.packing)
        self.graphs: OrderedDict[tuple[int, ...], Graph] = OrderedDict()

    def __call__(self, images: torch.Tensor, reuse_output: bool = False) -> torch.Tensor:
        """Logits in the fast path's dtype; `images` of any floating-point dtype and strides, never written to.

        With `reuse_output` the result is the graph's own buffer, which the next call with this shape overwrites:
        it saves a copy.
        """
        # not in inference mode, whatever the caller's: a graph's buffers are written to in later calls of either kind
        with torch.inference_mode(False), torch.no_grad():
            self.packing.follow()
            self.plan.check(images)
            if not images.is_cuda:
                return self.plan(self.convert(images))
            graph = self.graphs.pop(tuple(images.shape), None)
            if graph is None:
                if len(self.graphs) >= self.most:
                    self.graphs.popitem(last=False)
                graph = Graph(self.plan, self.convert(images))
            self.graphs[tuple(images.shape)] = graph  # the last is the one used last
            logits = graph(images)
            return logits if reuse_output else logits.clone()

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        """A copy of `images` as the plan takes them."""
        return torch.empty_like(images, dtype=self.dtype, memory_format=self.plan.memory_format).copy_(images)


class Graph:
    """One input shape's forward pass as a CUDA graph between two buffers of its own."""

    def __init__(self, plan: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor):
        self.images = images
        self.captured = Captured([lambda: plan(images)])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.images.copy_(images)
        self.captured.replay()
        return self.captured.outputs[0]
