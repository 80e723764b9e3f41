"""The fast path: a loaded model's weights packed once, its layers fused, and each input shape one CUDA graph.

    fast = course.optimize(model, dtype=torch.bfloat16)
    logits = fast(images)

Each architecture has a plan, in `course.fast.vit` and `course.fast.resnet`: its forward pass written again in the
kernels' fused forms, with batch norm folded into the convolution before it, and bias, activation and residual applied
while the sums are in registers. This module has what the plans share: packed weights that follow the model's, and CUDA
graphs, which launch all kernels of a forward pass at once. Launching a small batch's kernels one by one takes longer
than the kernels do. Before the first pass for a shape, its kernels are compiled, several at a time.
"""
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch

from course.compiling import compile_ahead
from course.fast.packing import Packing
from course.fast.resnet import FastResNet
from course.fast.vit import FastViT
from course.graphs import ALONE, Captured
from course.kernels.parts.checks import FLOATS, check_device
from course.resnet import ResNet
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

    PyTorch counts what is written to a parameter, but not what is written to its `.data`, as an exponential moving
    average of weights often is: after that, `fast.refresh()` reads the weights again.

        for name, parameter in model.named_parameters():
            parameter.data.lerp_(trained[name].data, 0.001)
        fast.refresh()
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

    It computes on the model's device, whichever is current, and on the caller's stream there. Several threads and
    streams may call it: they take turns, as its graphs have one set of buffers.
    """

    def __init__(self, model: torch.nn.Module, plan: type, dtype: torch.dtype, graphs: int):
        self.dtype, self.max_graphs = dtype, graphs
        self.device = next(model.parameters()).device
        self.stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        with self.turn():
            self.packing = Packing(model, dtype)
            self.plan = plan(model, self.packing)
        self.graphs: OrderedDict[tuple[int, ...], Graph] = OrderedDict()

    def __call__(self, images: torch.Tensor, reuse_output: bool = False) -> torch.Tensor:
        """Logits in the fast path's dtype; `images` of any floating-point dtype and strides, never written to.

        With `reuse_output` the result is the graph's own buffer, which the next call with this shape overwrites,
        from any thread: it saves a copy.
        """
        with self.turn():
            self.check(images)
            self.packing.follow()
            if not images.is_cuda:
                return self.compute(self.convert(images))
            graph = self.graphs.pop(tuple(images.shape), None)
            if graph is None:
                if len(self.graphs) >= self.max_graphs:
                    self.graphs.popitem(last=False)
                converted = self.convert(images)
                compile_ahead(lambda: self.compute(converted))
                graph = Graph(self.compute, converted)
            self.graphs[tuple(images.shape)] = graph  # the last is the one used last
            logits = graph(images)
            return logits if reuse_output else logits.clone()

    def without_graph(self, images: torch.Tensor) -> torch.Tensor:
        """The logits, launch by launch."""
        with self.turn():
            self.check(images)
            self.packing.follow()
            return self.compute(self.convert(images))

    def check(self, images: torch.Tensor) -> None:
        self.plan.check(images)
        if images.device != self.device:
            raise ValueError(f"optimize: expected images on {self.device}, as the model is, got {images.device}")

    def refresh(self) -> None:
        """Reads the model's weights again: for changes that PyTorch does not count, such as those of `weight.data`.

        Raises RuntimeError if the model is gone, or has its weights in other memory now (`weight.data = other`).
        """
        with self.turn():
            self.packing.refresh()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Alone with the buffers and the packed weights, behind what was done with them before, on any stream.

        Alone among all fast models: what one of them launches while another one is captured would end the capture. Not
        in inference mode, whatever the caller's: buffers are written to in later calls of either kind.
        """
        with torch.inference_mode(False), torch.no_grad(), ALONE:
            if self.stream is None:
                yield
                return
            with torch.cuda.device(self.device):
                stream = torch.cuda.current_stream()
                if stream != self.stream:
                    stream.wait_stream(self.stream)
                    self.stream = stream
                yield

    def compute(self, images: torch.Tensor) -> torch.Tensor:
        """The plan's forward pass, in the dtype it was made for, whatever torch.autocast asks for outside."""
        with torch.autocast(self.device.type, enabled=False):
            return self.plan(images)

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
