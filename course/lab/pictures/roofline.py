"""`roofline`: every kernel under what the memory and the tensor cores allow."""
import math

from course import results
from course.lab.pictures.drawing import grid, headed, legend, style_axes
from course.lab.pictures.markdown import Markdown
from course.lab.pictures.palette import COLOURS, INK, MARKERS
from course.lab.pictures.picture import WIDTH, Picture
from course.results import Results, hardware_of, is_ours


def roofline(kernels: Results | None = None) -> Picture | Markdown:
    """Draws each kernel and size in `kernels`, by default what is stored: TFLOP/s over operations a byte.

    A kernel that only moves bytes can lie on the slope at best, one that computes enough for each byte on the
    flat part. The two limits are those stored of the GPU, and of one without them those of the last run. Nothing is
    timed here.
    """
    kernels = kernels or results.read("kernels")
    ours = [row for row in kernels.rows if is_ours(row["provider"]) and row["gbps"]]
    if not ours:
        return Markdown("*No result is stored for the kernels yet: `python -m course bench kernels` on a GPU.*")
    stored, limits = hardware_of(kernels.last), kernels.last["limits"]
    copy = stored.get("copy_gbps", limits["copy_gbps"]) / 1e3  # TB/s
    most = stored.get("matmul_bf16_tflops", limits["half_tflops"])  # TFLOP/s
    points = [(row["kernel"], 1e3 * row["tflops"] / row["gbps"], row["tflops"]) for row in ours]
    names = list(dict.fromkeys(name for name, _, _ in points))
    source = f"Medians. {kernels.source(ours)}"
    figure = Picture(WIDTH, 6.4, "\n".join([*(share_of_limit(name, points, copy, most) for name in names), source]))
    headed(figure, "Roofline: every kernel, every size", source)
    axes = figure.add_axes((0.085, 0.27, 0.895, 0.64))
    for i, name in enumerate(names):
        mine = [(x, y) for other, x, y in points if other == name]
        # seven markers and eight colours: 56 kernels could be told apart
        axes.plot(*zip(*mine), MARKERS[i % 7], color=COLOURS[i % len(COLOURS)], markeredgecolor=INK,
                  markeredgewidth=0.6, markersize=6.5, label=name, zorder=3)
    ridge = most / copy
    low, high = min(x for _, x, _ in points) / 2, 2 * max(ridge, *(x for _, x, _ in points))
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(y for _, _, y in points) / 2, 2 * most),
             xlabel="operations a byte", ylabel="TFLOP/s")
    axes.plot([low, ridge, high], [low * copy, most, most], color=INK, linewidth=1.6, zorder=2)
    ends = axes.transData.transform([(low, low * copy), (ridge, most)])
    slope = math.degrees(math.atan2(*(ends[1] - ends[0])[::-1]))
    middle = math.sqrt(low * ridge)
    axes.text(middle, 1.25 * middle * copy, f"copying: {1e3 * copy:,.0f} GB/s", color=INK, fontsize=9, rotation=slope,
              rotation_mode="anchor", ha="center")
    axes.text(high / 1.1, most * 1.12, f"matmul: {most:,.0f} TFLOP/s", color=INK, fontsize=9, ha="right")
    style_axes(axes)
    grid(axes)
    legend(axes, loc="upper center", bbox_to_anchor=(0.48, -0.13), ncols=5)
    return figure


def share_of_limit(name, points, copy, most) -> str:
    """A kernel in words: its rates as shares of the limit that the roofline sets."""
    shares = [y / min(x * copy, most) for other, x, y in points if other == name]
    return f"{name}, sizes: {len(shares)}, from {min(shares):.0%} to {max(shares):.0%} of the limit"
