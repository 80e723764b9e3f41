"""The pictures of memory_and_roofline.md."""
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.patches import Rectangle

from benchmarks.products import CONVS, conv_operations
from course.lab.pictures.drawing import style_axes
from course.lab.pictures.palette import CARD, COLOURS, FAINT, INK
from course.lab.pictures.picture import WIDTH, Picture
from course.results import hardware

SECTOR, LINE, LANES = 32, 128, 32  # bytes, bytes, threads of a warp
USED, FETCHED = COLOURS[0], COLOURS[1]

FP32_TFLOPS = 67  # NVIDIA, H200 data sheet: without tensor cores
LATENCY_CYCLES = 690  # from a GH200's memory: github.com/markdewing/AI_kernels, latency/README.md
CLOCK_GHZ = 1.98  # the highest of the same chip


def sectors(addresses: Sequence[int]) -> list[int]:
    """The sectors that hold the 4 bytes at each of `addresses`, in order."""
    return sorted({address // SECTOR for address in addresses})


def draw_coalescing() -> Picture:
    """What one load of 4 bytes a lane moves, for four ways in which a warp's lanes may lie in memory."""
    ways = {
        "neighbours": [4 * lane for lane in range(LANES)],
        "neighbours, one element further on": [4 * lane + 4 for lane in range(LANES)],
        "every second element": [8 * lane for lane in range(LANES)],
        "every eighth element, or a column of a matrix": [32 * lane for lane in range(LANES)],
    }
    counts = {name: len(sectors(addresses)) for name, addresses in ways.items()}
    alt = "; ".join(f"{name}: {in_words(count)}" for name, count in counts.items())
    lane_height, shown = 0.92, 2 * LINE + SECTOR  # inches, bytes
    height = lane_height * len(ways) + 0.55
    figure = Picture(WIDTH, height, f"A warp's 32 lanes load 4 bytes each. {alt}")
    axes = figure.sheet()
    left, cell = 0.3, (WIDTH - 0.85) / (shown // 4)
    legend(axes, left, height - 0.38)
    for i, (name, addresses) in enumerate(ways.items()):
        y = height - 0.55 - lane_height * (i + 1) + 0.22
        axes.text(left, y + 0.43, name, color=INK, fontsize=10, weight="bold")
        axes.text(WIDTH - 0.55, y + 0.43, in_words(counts[name]), color=INK, fontsize=10, ha="right")
        fetched = sectors(addresses)
        for address in range(0, shown, 4):
            colour = USED if address in addresses else FETCHED if address // SECTOR in fetched else CARD
            axes.add_patch(Rectangle((left + address // 4 * cell, y), cell, 0.3, facecolor=colour, edgecolor="#ffffff",
                                     linewidth=0.6))
        for address in range(0, shown + 1, SECTOR):  # thin lines between sectors, thick ones between lines
            x, width = left + address // 4 * cell, 2.2 if address % LINE == 0 else 0.8
            axes.plot([x, x], [y - (0.05 if width > 1 else 0), y + 0.3], color=INK, linewidth=width)
        axes.plot([left, left + shown // 4 * cell], [y, y], color=INK, linewidth=0.8)
        axes.plot([left, left + shown // 4 * cell], [y + 0.3, y + 0.3], color=INK, linewidth=0.8)
        if max(addresses) >= shown:
            axes.text(left + shown // 4 * cell + 0.1, y + 0.13, "…", color=INK, fontsize=13, va="center")
    return figure


def in_words(count: int) -> str:
    return f"{count} sectors, {count * SECTOR:,} bytes for {4 * LANES}"


def legend(axes, x, y):
    for colour, label in ((USED, "asked for"), (FETCHED, "moved with it"), (CARD, "not touched")):
        axes.add_patch(Rectangle((x, y), 0.2, 0.2, facecolor=colour, edgecolor=INK, linewidth=0.8))
        axes.text(x + 0.28, y + 0.1, label, color=INK, fontsize=9.5, va="center")
        x += 0.5 + 0.072 * len(label)
    axes.text(WIDTH - 0.55, y + 0.1, "4 bytes a cell; thin lines part sectors, thick ones cache lines", color=INK,
              fontsize=9.5, va="center", ha="right")


class Work(NamedTuple):
    """What a kernel does in float16 or bfloat16, and what it moves if everything moves once."""

    name: str
    operations: int
    moved: int
    tensor_cores: bool

    @property
    def intensity(self) -> float:
        return self.operations / self.moved

    def roof(self, gpu: dict) -> float:
        """TFLOP/s that memory and arithmetic allow."""
        most = gpu["matmul_bf16_tflops"] if self.tensor_cores else FP32_TFLOPS
        return min(most, self.intensity * gpu["copy_gbps"] / 1e3)


def matmul(n: int) -> Work:
    return Work(f"matmul, {n}³", 2 * n**3, 2 * 3 * n**2, True)


def conv2d(batch: int, layer: tuple) -> Work:
    c, k, size, stride, hw = layer
    elements = batch * c * hw**2 + k * c * size**2 + batch * k * (hw // stride) ** 2
    return Work(f"conv2d {c}→{k}, {hw}², batch {batch}", conv_operations(batch, layer), 2 * elements, True)


def works() -> dict[str, list[Work]]:
    """The kernels of the post, those of one kind and different sizes together."""
    n = 2**24
    few, many = CONVS[1], CONVS[-1]  # channels, weights
    return {
        "add": [Work("add", n, 6 * n, False)],
        "softmax": [Work("softmax", 5 * n, 4 * n, False)],
        "layer_norm": [Work("layer norm", 7 * n, 4 * n, False)],
        "matmul": [matmul(128), matmul(512), matmul(4096)],
        "few": [conv2d(1, few), conv2d(256, few)],
        "many": [conv2d(1, many), conv2d(256, many)],
    }


def draw_roofline() -> Picture:
    """The limits of an H200, and where the course's kernels would stand at best."""
    gpu = hardware("nvidia-h200")
    copy, most = gpu["copy_gbps"] / 1e3, gpu["matmul_bf16_tflops"]
    kinds = works()
    alt = "; ".join(
        f"{work.name}: {short(work.intensity)} operations a byte, at most {short(work.roof(gpu))} TFLOP/s"
        for kind in kinds.values() for work in kind
    )
    figure = Picture(WIDTH, 5.6, f"The roofline of an H200, ridge at {most / copy:.0f} operations a byte. {alt}")
    axes = figure.add_axes((0.085, 0.115, 0.895, 0.85))
    low, high, bottom, top = 0.08, 5000, 0.25, 9000
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, top))
    axes.set(xlabel="operations a byte", ylabel="TFLOP/s at most")
    axes.axvspan(low, most / copy, color=COLOURS[0], alpha=0.16, linewidth=0)
    axes.axvspan(most / copy, high, color=COLOURS[2], alpha=0.16, linewidth=0)
    axes.plot([low, most / copy, high], [low * copy, most, most], color=INK, linewidth=1.8)
    axes.plot([FP32_TFLOPS / copy, high], [FP32_TFLOPS] * 2, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.plot([most / copy] * 2, [bottom, most], color=FAINT, linewidth=0.9, linestyle=":")
    ends = axes.transData.transform([(low, low * copy), (most / copy, most)])
    slope = math.degrees(math.atan2(*(ends[1] - ends[0])[::-1]))
    axes.text(7, 7 * copy * 1.3, f"memory: {gpu['copy_gbps']:,} GB/s", color=INK, fontsize=9.5, ha="center",
              rotation=slope, rotation_mode="anchor")
    axes.text(high / 1.15, top / 3.6, f"tensor cores, bfloat16: {most:,} TFLOP/s", color=INK, fontsize=9.5, ha="right")
    axes.text(high / 1.15, FP32_TFLOPS / 1.45, f"without tensor cores, float32: {FP32_TFLOPS} TFLOP/s", color=INK,
              fontsize=9.5, ha="right")
    axes.text(low * 1.2, top / 1.9, "memory-bound", color=INK, fontsize=11, weight="bold")
    axes.text(high / 1.15, top / 1.9, "compute-bound", color=INK, fontsize=11, weight="bold", ha="right")
    axes.text(most / copy / 1.08, bottom * 1.25, f"ridge: {most / copy:.0f}", color=INK, fontsize=9.5, ha="right")
    place(axes, kinds, gpu)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.12g}")
    style_axes(axes)
    return figure


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def place(axes, kinds, gpu):
    """The kernels on the roof, with their names beside them."""
    below, above, middle = dict(ha="left", va="top"), dict(ha="right", va="bottom"), dict(ha="center", va="bottom")
    labels = {  # of each point: the offset in points, how the text is aligned to it, and the text
        "add": [((7, -5), below, "add")],
        "softmax": [((-6, 4), above, "softmax")],
        "layer_norm": [((7, -5), below, "layer norm")],
        "matmul": [
            ((-6, 4), above, "matmul, 128³"), ((-7, 5), above, "matmul, 512³"), ((0, 8), middle, "matmul, 4096³"),
        ],
        "few": [((4, -18), below, "conv2d 64→64, 56²,\nbatch 1 and 256"), ((4, -18), below, "")],
        "many": [
            ((7, -5), below, "conv2d\n512→512, 7²,\nbatch 1"),
            ((-8, -56), dict(ha="center", va="top"), "conv2d 512→512, 7²,\nbatch 256"),
        ],
    }
    for i, (kind, group) in enumerate(kinds.items()):
        for work, (offset, aligned, text) in zip(group, labels[kind]):
            x, y = work.intensity, work.roof(gpu)
            axes.plot(x, y, "o", color=COLOURS[i], markeredgecolor=INK, markeredgewidth=0.8, markersize=9, zorder=3)
            arrow = dict(arrowstyle="-", color=FAINT, linewidth=0.8, shrinkB=5) if offset[1] < -10 else None
            axes.annotate(text, (x, y), offset, textcoords="offset points", color=INK, fontsize=9, arrowprops=arrow,
                          **aligned)


def draw_under_way() -> Picture:
    """Little's law: the bandwidth that so many bytes under way in each multiprocessor can keep up."""
    gpu = hardware("nvidia-h200")
    copy, number = gpu["copy_gbps"], gpu["multiprocessors"]
    latency = LATENCY_CYCLES / CLOCK_GHZ  # ns; a byte in a nanosecond is a GB/s
    enough = copy * latency / number
    ways = {
        "one warp, 4 bytes a thread": 32 * 4,
        "8 warps, 4 bytes a thread": 8 * 32 * 4,
        "64 warps, 4 bytes a thread": 64 * 32 * 4,
        "64 warps, 16 bytes a thread": 64 * 32 * 16,
    }
    reached = {name: min(copy, number * under_way / latency) for name, under_way in ways.items()}
    alt = "; ".join(f"{name}: {ways[name]:,} bytes, {round(gbps, -1):,.0f} GB/s" for name, gbps in reached.items())
    figure = Picture(WIDTH, 3.7, f"Bandwidth over bytes under way, level from {enough / 1000:.1f} KB on. {alt}")
    axes = figure.add_axes((0.095, 0.17, 0.885, 0.78))
    low, high = 8, 2**17.5
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(3, 9000))
    axes.set(xlabel="bytes under way in each multiprocessor", ylabel="GB/s at most")
    ticks = [2**k for k in range(5, 18, 2)]
    axes.set_xticks(ticks, [f"{t}" if t < 1024 else f"{t // 1024} K" for t in ticks])
    axes.set_yticks([10, 100, 1000], ["10", "100", "1,000"])
    axes.minorticks_off()
    axes.plot([low, enough, high], [low * number / latency, copy, copy], color=INK, linewidth=1.8)
    axes.text(high / 1.05, copy * 1.25, f"memory: {copy:,} GB/s", color=INK, fontsize=9.5, ha="right")
    for i, (name, under_way) in enumerate(ways.items()):
        beside = (0, -8) if reached[name] == copy else (-8, 4)
        axes.plot(under_way, reached[name], "o", color=COLOURS[i], markeredgecolor=INK, markeredgewidth=0.8,
                  markersize=9, zorder=3)
        axes.annotate(name, (under_way, reached[name]), beside, textcoords="offset points", color=INK, fontsize=9.5,
                      ha="right" if beside[0] else "center", va="bottom" if beside[0] else "top")
    style_axes(axes)
    return figure


FIGURES = {
    "memory_coalescing.png": draw_coalescing,
    "memory_roofline.png": draw_roofline,
    "memory_under_way.png": draw_under_way,
}
