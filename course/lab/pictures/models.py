"""Pictures of models: images, layers in a row, where two models part, how long they take."""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.patches import Circle, FancyArrowPatch

from course import results
from course.lab.pictures.drawing import caption, curve, legend, legend_above, rounded_box, style_axes
from course.lab.pictures.markdown import Markdown
from course.lab.pictures.palette import CARD, COLOURS, INK
from course.lab.pictures.picture import WIDTH, Picture
from course.verify import TOLERANCE, LayerError


def gallery(images: Sequence, captions: Sequence[str], columns: int = 8) -> Picture:
    """Images in rows, each over its caption; the captions are the alternative text.

    An image is a PIL image or a tensor (H, W) or (H, W, 3). The numbers of an (H, W) one are shown in greys, from 0
    in black to its largest in white. Raises ValueError unless there is one caption an image.
    """
    if len(images) != len(captions):
        raise ValueError(f"gallery: expected a caption for each of {len(images)} images, got {len(captions)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    gap, under = 0.15, 0.12 + 0.17 * max(caption.count("\n") + 1 for caption in captions)
    side = min((WIDTH - gap) / columns - gap, 2.2)
    height = rows * (side + under) + gap
    figure = Picture(WIDTH, height, "; ".join(caption.replace("\n", ", ") for caption in captions))
    for i, (image, title) in enumerate(zip(images, captions)):
        pixels = image.cpu().numpy() if torch.is_tensor(image) else np.asarray(image)
        row, column = divmod(i, columns)
        left, top = gap + column * (side + gap), height - gap - row * (side + under)
        axes = figure.add_axes(figure.place(left, top - side, side, side))
        axes.imshow(pixels, cmap="gray", vmin=0 if pixels.ndim == 2 else None)
        axes.axis("off")
        axes.set_title(title, y=0, va="top", pad=-5, fontsize=9, color=INK)
    return figure


def draw_chain(steps: Sequence[tuple[str, str]], skips: Sequence[tuple[int, int]] = ()) -> Picture:
    """Layers in a row, (name, note below) each, equal names in one colour; a "+" is drawn as a circle.

    A skip (i, j) is a line from before step i, over all in between, to step j.
    """
    chain = " → ".join(f"{name} ({note})" if note else name for name, note in steps)
    lines = [f"what enters step {i + 1}, {steps[i][0]}, also reaches step {j + 1}, {steps[j][0]}" for i, j in skips]
    figure = Picture(WIDTH, 1.75, "; ".join([chain, *lines]))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0.1, 1.85))
    axes.axis("off")
    names = list(dict.fromkeys(name for name, _ in steps if name != "+"))
    widths = [0.6 if name == "+" else 1.0 for name, _ in steps]
    pitch = (WIDTH - 0.9) / sum(widths)
    middle = [0.45 + pitch * (sum(widths[:i]) + width / 2) for i, width in enumerate(widths)]
    half, y = 0.5 * pitch - 0.1, 0.85
    edges = [(x - 0.15, x + 0.15) if name == "+" else (x - half, x + half) for x, (name, _) in zip(middle, steps)]

    def arrow(start, end, bend="arc3"):
        style = dict(arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1.2, shrinkA=0, shrinkB=0)
        axes.add_patch(FancyArrowPatch(start, end, connectionstyle=bend, **style))

    ends = [0.1, *(right for _, right in edges)]
    for start, (left, _) in zip(ends, edges):
        arrow((start, y), (left, y))
    arrow((ends[-1], y), (WIDTH - 0.1, y))
    for (name, note), x in zip(steps, middle):
        if name == "+":
            axes.add_patch(Circle((x, y), 0.15, facecolor=CARD, edgecolor=INK, linewidth=1.2))
        else:
            rounded_box(axes, x - half, y - 0.25, 2 * half, 0.5, COLOURS[names.index(name) % len(COLOURS)])
        axes.text(x, y, name, ha="center", va="center", fontsize=9, color=INK)
        axes.text(x, y - 0.36, note, ha="center", va="top", fontsize=8, color=INK)
    for i, j in skips:
        x = (ends[i] + edges[i][0]) / 2
        axes.plot([x, x, middle[j]], [y, 1.6, 1.6], color=INK, linewidth=1.2)
        arrow((middle[j], 1.61), (middle[j], y + 0.15))
    return figure


def plot_errors(runs: Mapping[str, Sequence[LayerError]], dtype: torch.dtype) -> Picture:
    """The relative error of each layer of `course.verify.compare_layers`, a line a run; dashed, what is tolerated."""
    first = next(iter(runs.values()))
    names = [row.name for row in first]
    worst = {label: max(rows, key=lambda row: row.relative) for label, rows in runs.items()}
    alt = "; ".join(f"{label}: at most {row.relative:.1e}, in {row.name}" for label, row in worst.items())
    below = 0.25 + 0.05 * max(map(len, names))  # the names stand upright
    height = 2.7 + below
    figure = Picture(WIDTH, height, f"relative error of {len(names)} layers. {alt}")
    axes = figure.add_axes((0.09, below / height, 0.89, 1 - (below + 0.45) / height))
    for i, (run, rows) in enumerate(runs.items()):
        errors = [max(row.relative, 1e-9) for row in rows]
        curve(axes, range(len(errors)), errors, i, run, outline=2.4, linewidth=1.6, markersize=5, markeredgewidth=0.6)
    axes.axhline(TOLERANCE[dtype][0], color=INK, linestyle="--", linewidth=1, label="tolerance")
    axes.set_yscale("log")
    axes.set_ylim(1e-8, 10)
    axes.set_xlim(-0.8, len(names) - 0.2)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_ylabel("relative error")
    legend_above(axes, columnspacing=1.0)
    style_axes(axes)
    axes.tick_params(axis="x", labelsize=7)
    return figure


def measured(model: str, dtype: str) -> Picture | Markdown:
    """Milliseconds a batch of a model ("vit-b16", "resnet18") as stored in benchmarks/results, a line a provider.

    A provider's line is its faster mode, called as a function or replayed as a CUDA graph; it is interrupted where a
    batch size was not measured. Nothing is timed here.
    """
    stored = results.read("models")
    rows = [row for row in stored.rows if (row["model"], row["dtype"]) == (model, dtype)]
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["provider"], row["batch"]
        best[key] = min(row["median_ms"], best.get(key, float("inf")))
    if not best:
        return Markdown(f"*No result is stored for {model} in {dtype} yet: `python -m course bench models` on a GPU.*")
    source = stored.source(rows)
    lines = [f"{provider}, batch {batch}: {ms:.3f} ms" for (provider, batch), ms in sorted(best.items())]
    figure = Picture(WIDTH, 4.4, "\n".join([*lines, source]))
    axes = figure.add_axes((0.09, 0.2, 0.89, 0.77))
    every = sorted({batch for _, batch in best})
    for i, provider in enumerate(sorted({provider for provider, _ in best}, key=lambda name: (name != "course", name))):
        ms = [best.get((provider, batch), math.nan) for batch in every]
        curve(axes, every, ms, i, provider, outline=2.4, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(every, every)
    axes.set(xlabel=f"images in a batch, {dtype}", ylabel="milliseconds")
    legend(axes, fontsize=9)
    style_axes(axes)
    caption(figure, f"Stored result, medians. {source}")
    return figure
