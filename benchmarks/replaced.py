"""Times other people's models before and after `course.nn.replace_layers`, from CUDA graphs.

Results are checked before they are timed. Both run in PyTorch's default format and in channels_last; the faster one of
each counts.
"""
import copy
import functools
import math
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import torch

from benchmarks.contenders import Logits
from benchmarks.session import Session, choose, said
from course import nn, verify
from course.graphs import Captured
from course.precision import full_precision
from course.timing import time_in_turn

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

SECONDS = 2.0
"""For timing one model."""


class Cell(NamedTuple):
    """One model on a batch of images, in float16."""

    model: str
    batch: int


def torchvision_model(name: str) -> torch.nn.Module:
    import torchvision

    return getattr(torchvision.models, name)()


def timm_model(name: str) -> torch.nn.Module:
    import timm

    return timm.create_model(name)


def transformers_model(name: str) -> torch.nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(attn_implementation="sdpa")
    return Logits(getattr(transformers, f"{name}ForImageClassification")(config))


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    **{f"torchvision {name}": functools.partial(torchvision_model, name) for name in (
        "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnext50_32x4d", "convnext_tiny", "swin_t",
        "vit_b_16",
    )},
    **{f"timm {name}": functools.partial(timm_model, name) for name in ("mixer_s32_224", "resnet26d")},
    **{f"transformers {name}": functools.partial(transformers_model, name) for name in ("ViT", "Dinov2")},
}

CELLS = [Cell(name, 16) for name in MODELS]
QUICK_CELLS = [Cell("torchvision resnet50", 16), Cell("torchvision mobilenet_v2", 16)]


def made(name: str) -> torch.nn.Module:
    """The model with random weights, in eval mode, its running statistics those of one batch of random images.

    Without that, activations grow from layer to layer until float16 cannot hold them.
    """
    torch.manual_seed(0)
    model = MODELS[name]()
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # a plain average over all batches, of which there is one
        with torch.no_grad():
            model.train()(torch.randn(4, 3, 224, 224))
    return model.eval()


def contender(model: torch.nn.Module, provider: str, layout: str) -> torch.nn.Module:
    """A copy of `model` on the GPU, in float16 and a memory format; the layers of provider "course" are replaced."""
    copied = copy.deepcopy(model).to("cuda", torch.float16).to(memory_format=LAYOUTS[layout])
    if provider == "course":
        nn.replace_layers(copied)
    return copied


def run(session: Session, cells: Iterable[Cell], providers: Collection[str]) -> None:
    """Measures what the session's time allows; results are stored model by model."""
    torch.backends.cudnn.benchmark = True
    stored = session.results.cells()
    for cell, _ in session.in_turn([(cell, None) for cell in cells]):
        names = choose(["course", "torch"], providers, stored.get(cell, []))
        try:
            rows, errors = race(cell, names)
        except Exception as error:  # a library that is not installed: the other models still run
            rows, errors = [], {cell: said(error)}
        session.add(rows, errors)


@torch.inference_mode()
def race(cell: Cell, names: Iterable[str]) -> tuple[list[dict], dict[tuple, str]]:
    """(a row for each provider and layout, what went wrong for the others by the row's key)."""
    model = made(cell.model)
    images = torch.randn(cell.batch, 3, 224, 224, device="cuda", dtype=torch.float16)
    with full_precision():
        exact = copy.deepcopy(model).cuda()(images.float())
    graphs, errors = {}, {}
    for name in names:
        for layout, memory_format in LAYOUTS.items():
            try:
                ready = contender(model, name, layout)
                inputs = images.contiguous(memory_format=memory_format)
                graph = Captured([functools.partial(ready, inputs)])
                graph.outputs[0].fill_(math.nan)
                graph.replay()
                error = verify.layer_error("logits", exact, graph.outputs[0])
                wrong = None if error.within(torch.float16) else f"wrong result: {error}"
            except Exception as error:  # out of memory: the others still run
                wrong = said(error)
            if wrong:
                errors[*cell, name, layout] = wrong
            else:
                graphs[name, layout] = graph
    timings = time_in_turn({key: graph.replay for key, graph in graphs.items()}, rounds=100, budget_s=SECONDS)
    rows = [
        {**cell._asdict(), "provider": name, "layout": layout, "median_ms": t.median, "q20_ms": t.q20, "q80_ms": t.q80}
        for (name, layout), t in timings.items()
    ]
    return rows, errors
