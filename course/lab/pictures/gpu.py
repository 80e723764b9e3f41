"""`draw_gpu`: what a GPU is made of, with the sizes of the one that the course was measured on."""
from matplotlib.patches import Rectangle

from course.lab.pictures.drawing import rounded_box
from course.lab.pictures.palette import CARD, COLOURS, FAINT, INK, LIGHT_GREY
from course.lab.pictures.picture import WIDTH, Picture
from course.results import hardware

HEIGHT = 4.9

# NVIDIA: H100 Tensor Core GPU Architecture (2022), Hopper Tuning Guide, H200 datasheet (2023); the L2 cache as PyTorch
# reports it of an H200, 62,914,560 bytes. A KiB is 1,024 bytes, MB and GB are powers of ten. The number of
# multiprocessors and the speed of copying are measured: hardware.json.
REGISTERS_KIB, SHARED_KIB, L2_MB, MEMORY_GB = 256, 256, 62.9, 141
QUARTERS, LANES = 4, 32

SM, LANE, CACHE, MEMORY, REGISTER, UNIT = COLOURS[0], COLOURS[4], COLOURS[1], LIGHT_GREY, COLOURS[2], COLOURS[3]
ROWS = 6  # of multiprocessors, half of them above the cache


def draw_gpu() -> Picture:
    """An H200 on the left, one of its multiprocessors enlarged on the right; every part with its size."""
    h200 = hardware("nvidia-h200")
    number, copied = h200["multiprocessors"], h200["copy_gbps"]
    alt = (
        f"The GPU: {number} multiprocessors around an L2 cache of {L2_MB} MB, and {MEMORY_GB} GB of memory beside the "
        f"chip, which copies {copied:,} GB/s. One multiprocessor: {QUARTERS} quarters, each with a scheduler, "
        f"{REGISTERS_KIB // QUARTERS} KiB of registers, {LANES} lanes and a tensor core; and {SHARED_KIB} KiB of "
        "shared memory and L1 cache for all of them."
    )
    figure = Picture(WIDTH, HEIGHT, alt)
    axes = figure.sheet()
    chosen = draw_chip(axes, number, copied)
    draw_multiprocessor(axes)
    for start, end in zip(chosen, ((4.55, 4.45), (4.55, 0.3))):  # the lines of the magnifying glass
        axes.plot(*zip(start, end), color=FAINT, linewidth=0.9)
    return figure


def box(axes, x, y, width, height, colour, text="", size=9, **style):
    style = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.8, **style}
    axes.add_patch(Rectangle((x, y), width, height, **style))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def draw_chip(axes, number, copied, left=0.3, width=3.7):
    """The whole GPU. Returns two corners of the multiprocessor that is enlarged."""
    axes.text(left, 4.62, f"a GPU: {number} multiprocessors", fontsize=10.5, color=INK, weight="bold")
    rounded_box(axes, left, 1.2, width, 3.25, CARD, radius=0.08, linewidth=1.4)
    columns = -(-number // ROWS)
    pitch = (width - 0.2) / columns
    for i in range(number):
        row, column = divmod(i, columns)
        x, y = left + 0.1 + column * pitch, 4.03 - row * 0.4 - (0.62 if row >= ROWS / 2 else 0)
        box(axes, x, y, pitch * 0.8, 0.32, SM, linewidth=0.6, label="multiprocessor")
        if (row, column) == (1, columns - 1):
            chosen = (x + pitch * 0.8, y + 0.32), (x + pitch * 0.8, y)
    box(axes, left + 0.1, 2.63, width - 0.2, 0.5, CACHE, f"L2 cache, {L2_MB} MB, for all of them")
    box(axes, left, 0.3, width, 0.5, MEMORY, f"memory, {MEMORY_GB} GB: your tensors")
    axes.annotate("", (left + 0.5, 1.18), (left + 0.5, 0.82),
                  arrowprops=dict(arrowstyle="<|-|>", color=INK, linewidth=1.4, shrinkA=0, shrinkB=0))
    axes.text(left + 0.7, 1.0, f"{copied:,} GB/s, reading and writing", fontsize=9, color=INK, va="center")
    return chosen


def draw_multiprocessor(axes, left=4.7, width=4.0):
    axes.text(left, 4.62, "one multiprocessor, enlarged", fontsize=10.5, color=INK, weight="bold")
    rounded_box(axes, left - 0.1, 0.3, width + 0.2, 4.15, CARD, radius=0.08, linewidth=1.4)
    half = width / 2 - 0.05
    for i in range(QUARTERS):
        x, y = left + (i % 2) * (half + 0.1), 2.72 - (i // 2) * 1.72
        axes.add_patch(Rectangle((x, y), half, 1.62, facecolor="#ffffff", edgecolor=INK, linewidth=0.8))
        box(axes, x + 0.1, y + 1.28, half - 0.2, 0.26, CARD, "scheduler: a warp at a time", 7.5)
        box(axes, x + 0.1, y + 0.9, half - 0.2, 0.3, REGISTER, f"registers, {REGISTERS_KIB // QUARTERS} KiB", 8.5)
        lane = (half - 0.8) / 16
        for j in range(LANES):
            box(axes, x + 0.1 + (j % 16) * lane, y + 0.5 - 0.18 * (j // 16), lane, 0.16, LANE, linewidth=0.5)
        axes.text(x + 0.1 + 8 * lane, y + 0.12, f"{LANES} lanes", fontsize=7.5, color=INK, ha="center")
        box(axes, x + half - 0.6, y + 0.1, 0.5, 0.7, UNIT, "tensor\ncore", 7.5)
    box(axes, left, 0.4, width, 0.48, CACHE, f"shared memory and L1 cache, {SHARED_KIB} KiB")
