"""The results as pictures: each kernel over its sizes, a roofline with all of them, the models over batch sizes."""
import math
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.report import BATCHES, MODELS, MOVERS, moved_mib, ran_compiled
from course.files import whole
from course.lab.pictures.drawing import grid, headed, legend, style_axes
from course.lab.pictures.palette import CARD, COLOURS, FAINT, INK, MARKERS
from course.lab.pictures.picture import WIDTH
from course.lab.pictures.roofline import roofline
from course.results import Results, is_ours, median


def style(provider: str, order: Iterable[str]) -> dict:
    """The same colour and marker for a provider in every picture of a table; ours is the dark one."""
    if is_ours(provider):
        return dict(color=INK, marker="o", linewidth=2.2, markersize=6, zorder=5)
    i = [name for name in order if not is_ours(name)].index(provider)
    return dict(color=COLOURS[3 * i % len(COLOURS)], marker=MARKERS[1 + i % 7], linewidth=1.8, markersize=6,
                markeredgecolor=INK, markeredgewidth=0.6)


def draw_all(kernels: Results, models: Results, folder: Path) -> list[Path]:
    """Draws what there is results for, as PNG files in `folder`."""
    files = []
    if kernels.rows:
        for kernel in dict.fromkeys(row["kernel"] for row in kernels.rows):
            files.append(saved(kernel_figure(kernels, kernel), folder / f"kernel_{kernel}.png"))
        if any(is_ours(row["provider"]) for row in kernels.rows):
            files.append(saved(roofline(kernels), folder / "roofline.png"))
    if models.rows:
        files.append(saved(models_figure(models), folder / "models.png"))
    return files


def saved(figure: Figure, file: Path) -> Path:
    with whole(file) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return file


def new_figure(height: float, title: str, source: str) -> Figure:
    figure = Figure(figsize=(WIDTH, height), facecolor=CARD)
    headed(figure, title, source)
    return figure


def kernel_figure(kernels: Results, kernel: str) -> Figure:
    """GB/s over bytes for what only moves them; TFLOP/s of each shape for the others. The limit drawn in."""
    rows = [row for row in kernels.rows if row["kernel"] == kernel]
    draw = bytes_figure if kernel in MOVERS else shapes_figure
    return draw(rows, kernel, f"Medians. {kernels.source(rows)}")


def bytes_figure(rows: list[dict], kernel: str, source: str) -> Figure:
    dtypes = sorted({row["dtype"] for row in rows})
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    figure = new_figure(4.2, f"{kernel}: bytes moved a second", source)
    widths = [max(2, len({row["shape"] for row in rows if row["dtype"] == dtype})) for dtype in dtypes]
    panels = figure.subplots(1, len(dtypes), sharey=True, squeeze=False, width_ratios=widths)[0]
    figure.subplots_adjust(left=0.085, right=0.985, top=0.86, bottom=0.2, wspace=0.06)
    for axes, dtype in zip(panels, dtypes):
        mine = [row for row in rows if row["dtype"] == dtype]
        for provider in providers:
            line = sorted((row for row in mine if row["provider"] == provider), key=moved_mib)
            if line:
                axes.plot([moved_mib(row) for row in line], [row["gbps"] for row in line], label=provider,
                          **style(provider, providers))
        limits = sorted((moved_mib(row), row["gbps"] * row["median_ms"] / row["limit_ms"]) for row in mine)
        axes.plot(*zip(*limits), color=INK, linestyle="--", linewidth=1, label="limit: copying")
        # one a shape: the bytes come from rounded rates, and differ in their last digits
        ticks = sorted({row["shape"]: float(f"{moved_mib(row):.3g}") for row in mine}.values())
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:,.3g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(min(ticks) / 1.6, max(ticks) * 1.6)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"MiB read and written, {dtype}")
        style_axes(axes)
        grid(axes)
    panels[0].set_ylabel("GB/s")
    legend(panels[0], loc="best")
    return figure


def shapes_figure(rows: list[dict], kernel: str, source: str) -> Figure:
    """A row of markers for each shape, with a bar up to the limit behind them."""
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    shapes = list(dict.fromkeys((row["shape"], row["dtype"]) for row in rows))
    height = 1.4 + 0.27 * len(shapes)
    figure = new_figure(height, f"{kernel}: operations a second", source)
    axes = figure.subplots()
    label = max(len(shape) for shape, _ in shapes)
    figure.subplots_adjust(left=0.03 + 0.0098 * label, right=0.985, top=1 - 0.5 / height, bottom=0.75 / height)
    limits = []
    for y, cell in enumerate(shapes):
        mine = [row for row in rows if (row["shape"], row["dtype"]) == cell]
        limits.append(mine[0]["tflops"] * mine[0]["median_ms"] / mine[0]["limit_ms"])
        axes.barh(y, limits[-1], height=0.72, color=FAINT, alpha=0.22, label="limit" if y == 0 else None, zorder=1)
        for row in mine:
            look = style(row["provider"], providers) | {"linewidth": 0}
            axes.plot(row["tflops"], y, label=row["provider"], **look)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    legend(axes, handles=handles.values(), labels=handles.keys(), loc="lower right", ncols=5, bbox_to_anchor=(1, 1))
    axes.set_yticks(range(len(shapes)), [shape for shape, _ in shapes])
    axes.set_ylim(len(shapes) - 0.4, -0.6)
    figures = [row["tflops"] for row in rows]
    axes.set(xscale="log", xlim=(min(figures) / 1.6, 1.25 * max(limits)), xlabel=f"TFLOP/s, {shapes[0][1]}")
    axes.xaxis.set_major_formatter("{x:g}")
    digits = "25" if max(limits) > 10 * min(figures) else "2345678"  # of the minor ticks that have room for a label
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in digits else "")
    style_axes(axes)
    grid(axes, axis="x", which="both")
    axes.tick_params(which="minor", colors=INK, labelsize=8)
    return figure


def models_figure(models: Results) -> Figure:
    """Milliseconds over batch size, each provider's better mode; below, the best peer's time over ours.

    A line joins neighbouring batch sizes that were both measured. Below, a ratio is joined, and its marker filled, only
    where the best peer ran compiled as well; elsewhere a better peer might have won.
    """
    providers = list(dict.fromkeys(row["provider"] for row in models.rows))
    source = f"Medians; open circles: the best peer has not run compiled. {models.source(models.rows)}"
    figure = new_figure(6.6, "Whole models, each provider at its best", source)
    panels = figure.subplots(2, len(MODELS), sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.07, right=0.985, top=0.9, bottom=0.2, wspace=0.2, hspace=0.1)
    races, cells = models.races(), models.cells()
    for (model, dtype), (upper, lower) in zip(MODELS, panels.T):
        rows = [row for row in models.rows if (row["model"], row["dtype"]) == (model, dtype)]
        for provider in providers:
            best = {}
            for row in sorted((row for row in rows if row["provider"] == provider), key=median, reverse=True):
                best[row["batch"]] = median(row)
            if best:  # what is not a number interrupts a line
                upper.plot(BATCHES, [best.get(batch, math.nan) for batch in BATCHES], label=provider,
                           **style(provider, providers))
        ratios = {b: races[model, dtype, b].ratio for b in BATCHES if (model, dtype, b) in races}
        sure = {b: ratio for b, ratio in ratios.items() if ran_compiled(races[model, dtype, b], cells[model, dtype, b])}
        lower.axhline(1, color=FAINT, linewidth=1)
        if ratios:
            alone = style("course", providers) | {"linewidth": 0, "markerfacecolor": CARD}
            lower.plot(ratios.keys(), ratios.values(), **alone)
            lower.plot(BATCHES, [sure.get(batch, math.nan) for batch in BATCHES], **style("course", providers))
            heights = list(ratios.values())
            for i, (batch, ratio) in enumerate(ratios.items()):
                # above peaks and below dips, clear of the line; elsewhere in turn, since 8 and 16 are close
                higher = [other > ratio for other in heights[max(i - 1, 0) : i] + heights[i + 1 : i + 2]]
                place = (0, -14 if all(higher) or any(higher) and i % 2 else 7)
                lower.annotate(f"{ratio:.2f}", (batch, ratio), place, textcoords="offset points", ha="center",
                               color=INK, fontsize=8.5)
        upper.set_title(MODELS[model, dtype], color=INK, fontsize=10)
        upper.set_xscale("log", base=2)
        upper.set_yscale("log")
        lower.set_xticks(BATCHES, BATCHES)
        lower.set_xlim(0.55, 480)
        lower.set_ylim(0, max([1.5, *ratios.values()]) * 1.25)
        lower.minorticks_off()
        lower.set_xlabel("images a batch")
        for axes in (upper, lower):
            style_axes(axes)
            grid(axes)
    panels[0, 0].set_ylabel("ms a batch")
    panels[1, 0].set_ylabel("best peer's / ours")
    handles = {}
    for axes in panels[0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    legend(figure, handles=handles.values(), labels=handles.keys(), loc="lower center", ncols=4,
           bbox_to_anchor=(0.5, 0.04))
    return figure
