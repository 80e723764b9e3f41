"""The pictures and the counts of convolution_as_matmul.md."""
import numpy as np
from matplotlib.patches import Rectangle

from course.lab.pictures.convolution import draw_boxes, draw_im2col, draw_step, draw_terms
from course.lab.pictures.drawing import style_axes
from course.lab.pictures.palette import CARD, COLOURS, GRID, INK
from course.lab.pictures.picture import WIDTH, Picture
from course.results import hardware


def counts() -> dict[str, float]:
    """Of the layer that the post follows: 64 images of 56 × 56, 64 channels to 64, filters of 3 × 3, float16."""
    gpu = hardware("nvidia-h200")
    N, C, H, W, K, R, S = 64, 64, 56, 56, 64, 3, 3
    pixels, terms, itemsize = N * H * W, C * R * S, 2
    image, weights = itemsize * N * C * H * W, itemsize * K * terms
    matrix, result = itemsize * pixels * terms, itemsize * pixels * K
    products = pixels * K * terms
    alone = image + weights + result
    bytes_moved = {
        "alone": alone,
        "im2col": alone + 2 * matrix,
        "one_by_one": alone + 7 * result,  # norm: read, write; sum: read, read, write; ReLU: read, write
        "fused": alone + result,  # the residual, read
    }
    return gpu | {
        "pixels": pixels, "terms": terms, "gflop": 2 * products / 1e9, "products_e9": products / 1e9,
        "image_mb": image / 1e6, "weights_kb": weights / 1e3, "result_mb": result / 1e6, "matrix_mb": matrix / 1e6,
        "matrix_256_mb": 4 * matrix / 1e6, "loaded_gb": itemsize * products / 1e9, "uses": K * R * S,
        "operations_per_byte": 2 * products / alone,
        "balance": 1e3 * gpu["matmul_bf16_tflops"] / gpu["copy_gbps"],
        "operations_us": 2 * products / gpu["matmul_bf16_tflops"] / 1e6,
        **{f"{way}_mb": moved / 1e6 for way, moved in bytes_moved.items()},
        **{f"{way}_us": moved / gpu["copy_gbps"] / 1e3 for way, moved in bytes_moved.items()},
    }


def draw_times() -> Picture:
    """What memory needs for four ways to compute the layer, beside what the multiplications need."""
    count = counts()
    ways = {
        "the convolution alone": "alone",
        "with im2col's matrix,\nwritten and read": "im2col",
        "the convolution, then norm,\nresidual, ReLU one by one": "one_by_one",
        "all four in one kernel": "fused",
    }
    times = {name: count[f"{way}_us"] for name, way in ways.items()}
    line = count["operations_us"]
    figure = Picture(WIDTH, 3.1, "; ".join(
        [f"{' '.join(name.split())}: {us:.0f} microseconds" for name, us in times.items()]
        + [f"dashed, the multiplications: {line:.0f}"]
    ))
    axes = figure.add_axes((0.25, 0.2, 0.71, 0.74))
    for i, us in enumerate(times.values()):
        axes.barh(i, us, color=COLOURS[i], edgecolor=INK, linewidth=0.6, height=0.62)
        axes.text(us + 1.5, i, f"{us:.0f}", va="center", color=INK, fontsize=10)
    axes.axvline(line, color=INK, linestyle="--", linewidth=1.1)
    axes.text(line + 1.5, -0.62, f"the multiplications: {line:.0f}", color=INK, fontsize=9, va="center")
    axes.set_yticks(range(len(times)), times)
    axes.set_ylim(len(times) - 0.5, -0.85)
    axes.set_xlabel("microseconds that the bytes take at least, at an H200's measured bandwidth")
    style_axes(axes)
    axes.tick_params(labelsize=9.5)
    return figure


def draw_layouts() -> Picture:
    """Where in memory the elements lie that one step of two programs loads, in both layouts of an image.

    4 × 7 pixels of 16 channels in float16, 64 bytes a line; each program has eight pixels, all channels, at tap (1, 0).
    """
    C, H, W, pixels, line = 16, 4, 7, 8, 32
    layouts = {"N C H W, contiguous": (H * W, W, 1), "N H W C, channels_last": (1, W * C, C)}
    cell, gap, top = 0.128, 0.5, 0.5
    height = top + cell * 2 * (C * H * W // line) + 0.3
    figure = Picture(WIDTH, height, (
        "Two maps of the same memory, 14 lines of 64 bytes. Contiguous: what a step loads lies in pieces of one to six "
        "numbers, all over it. channels_last: in three solid stretches of whole pixels."
    ))
    for i, (name, (to_channel, to_row, to_column)) in enumerate(layouts.items()):
        left = (WIDTH - 2 * cell * line - gap) / 2 + i * (cell * line + gap)
        place = figure.place(left, 0.25, cell * line, height - top - 0.25)
        axes = figure.add_axes(place, xlim=(0, line), ylim=(C * H * W // line, 0))
        axes.axis("off")
        axes.text(0, -0.5, name, fontsize=10.5, color=INK, va="bottom", family="monospace")
        owner = np.full(C * H * W, -1)
        for m in range(2 * pixels):
            h, w = m // W, m % W - 1
            if w >= 0:
                owner[h * to_row + w * to_column + to_channel * np.arange(C)] = m // pixels
        for place, program in enumerate(owner):
            colour = CARD if program < 0 else COLOURS[program]
            at = place % line, place // line
            axes.add_patch(Rectangle(at, 1, 1, facecolor=colour, edgecolor=GRID, linewidth=0.5))
        frame = dict(fill=False, edgecolor=INK, linewidth=1.6, clip_on=False)
        axes.add_patch(Rectangle((0, 0), line, len(owner) // line, **frame))
    return figure


FIGURES = {
    "convolution_im2col.png": lambda: draw_im2col((4, 4), (3, 3), padding=1, pixel=(1, 2)),
    "convolution_terms.png": lambda: draw_terms((3, 3), channels=4, block=16),
    "convolution_step.png": lambda: draw_step((4, 4), (3, 3), pixels=range(4, 8), terms=range(3, 6), padding=1),
    "convolution_layouts.png": draw_layouts,
    "convolution_boxes.png": lambda: draw_boxes((8, 8), box=(4, 4), corner=(0, 4), taps=[(0, 0), (1, 1), (2, 2)]),
    "convolution_times.png": draw_times,
}
