"""The pictures of how_a_gpu_works.md."""
from matplotlib.patches import Rectangle

from course import lab
from course.lab.pictures.drawing import style_axes
from course.lab.pictures.palette import COLOURS, FAINT, INK, LIGHT_GREY
from course.lab.pictures.picture import WIDTH, Picture

WAITING, IDLE = LIGHT_GREY, "#f3f1ea"


def cell(axes, x, y, width, height, colour, **style):
    style = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.4, **style}
    axes.add_patch(Rectangle((x, y), width, height, **style))


def key(axes, x, colours):
    """What the colours mean, in the lowest line."""
    for text, colour in colours.items():
        cell(axes, x, 0.14, 0.2, 0.2, colour, linewidth=0.8)
        axes.text(x + 0.3, 0.24, text, fontsize=9, color=INK, va="center")
        x += 0.7 + 0.075 * len(text)


CYCLES, LATENCY, WORK = 48, 20, 4


def schedule(warps: int) -> list[list[int]]:
    """The cycles in which each warp issues an instruction: WORK of them, then LATENCY cycles without, and again.

    One warp issues a cycle, the one that has been ready for longest.
    """
    ready = [0] * warps
    left = [WORK] * warps
    issued: list[list[int]] = [[] for _ in range(warps)]
    for now in range(CYCLES):
        able = [w for w in range(warps) if ready[w] <= now]
        if not able:
            continue
        warp = min(able, key=lambda w: (left[w] == WORK, ready[w], w))
        issued[warp].append(now)
        left[warp] -= 1
        ready[warp] = now + 1
        if left[warp] == 0:
            left[warp], ready[warp] = WORK, now + 1 + LATENCY
    return issued


def draw_warps() -> Picture:
    """One, three and six warps on a scheduler: the more there are, the less it waits."""
    numbers = (1, 3, 6)
    busy = {n: sum(map(len, schedule(n))) / CYCLES for n in numbers}
    alt = "A scheduler over 48 cycles. " + " ".join(
        f"With {n} warp{'s' * (n > 1)} it issues in {100 * busy[n]:.0f} % of them." for n in numbers
    )
    row, gap, left, size = 0.2, 0.62, 1.05, (WIDTH - 1.3) / CYCLES
    height = sum(n * row + gap for n in numbers) + 0.62
    figure = Picture(WIDTH, height, alt)
    axes = figure.sheet()
    y = height - 0.1
    for n in numbers:
        issued = schedule(n)
        title = f"{n} warp{'s' * (n > 1)}: the scheduler is busy in {100 * busy[n]:.0f} % of the cycles"
        axes.text(left, y - 0.17, title, fontsize=10, color=INK, weight="bold", va="center")
        y -= 0.32
        for warp, cycles in enumerate(issued):
            y -= row
            axes.text(left - 0.1, y + row / 2, f"warp {warp}", fontsize=8, color=INK, ha="right", va="center")
            for now in range(CYCLES):
                since = [now - c for c in cycles if c <= now]
                colour = COLOURS[warp] if now in cycles else WAITING if since else IDLE
                cell(axes, left + now * size, y, size, row - 0.03, colour, linewidth=0.3)
        y -= gap - 0.32
    key(axes, left, {"issues an instruction": COLOURS[0], "waits, for memory or its turn": WAITING, "not begun": IDLE})
    return figure


def draw_waves() -> Picture:
    """How much of the GPU works, by how many equal programs there are, one on each multiprocessor at a time."""
    slots = lab.hardware("nvidia-h200")["multiprocessors"]
    numbers = list(range(1, 5 * slots + 1))
    shares = [100 * n / (-(-n // slots) * slots) for n in numbers]
    worst = 100 * (slots + 1) / (2 * slots)
    alt = (
        f"The share of {slots} multiprocessors that works, over the number of equal programs: it rises to 100 % at "
        f"{slots}, falls to {worst:.0f} % at {slots + 1}, where one program has a wave to itself, and saws on with "
        "smaller teeth."
    )
    figure = Picture(WIDTH, 3.2, alt)
    axes = figure.add_axes((0.08, 0.19, 0.89, 0.73))
    axes.plot(numbers, shares, color=INK, linewidth=3.0)
    axes.plot(numbers, shares, color=COLOURS[0], linewidth=1.8)
    for wave in range(1, 5):
        axes.axvline(wave * slots, color=FAINT, linewidth=0.8, linestyle=":")
        axes.text(wave * slots - 4, 6, f"{wave} wave{'s' * (wave > 1)}", fontsize=8.5, color=INK, ha="right")
    arrow = dict(arrowstyle="-|>", color=INK, linewidth=1)
    text = f"{slots + 1} programs: {worst:.0f} %"
    axes.annotate(text, (slots + 1, worst), (slots + 20, worst - 16), fontsize=9, color=INK, arrowprops=arrow)
    axes.set(xlim=(0, numbers[-1]), ylim=(0, 105))
    axes.set(xlabel="programs of the launch", ylabel="% of the GPU at work")
    style_axes(axes)
    return figure


def draw_branch() -> Picture:
    """A warp whose lanes go two ways at an if: both ways take their time, one after the other."""
    alt = (
        "A warp of 32 lanes at an if. While the lanes with x > 0 compute one way, the others wait; then the others "
        "compute, and the first wait. A warp whose lanes all go one way takes that way only."
    )
    figure = Picture(WIDTH, 2.75, alt)
    axes = figure.sheet()
    taken = [(lane * 7) % 32 < 13 for lane in range(32)]
    size, x0 = 0.15, 1.95
    rows = [("if x > 0:", None), ("    y = f(x)", True), ("else:", None), ("    y = g(x)", False), ("store y", None)]
    ways = ("lanes go both ways", taken, x0), ("all go one way", [True] * 8, x0 + 32 * size + 0.35)
    for title, lanes, x in ways:
        axes.text(x, 2.52, title, fontsize=9.5, color=INK, weight="bold")
        for i, (_, way) in enumerate(rows):
            y = 2.05 - 0.36 * i
            if way is False and all(lanes):
                axes.text(x, y + 0.11, "left out", fontsize=8.5, color=INK, va="center")
                continue
            for lane, mine in enumerate(lanes):
                works = way is None or way == mine
                colour = (COLOURS[0] if mine else COLOURS[1]) if works else WAITING
                cell(axes, x + lane * size, y, size, 0.26, colour)
            if len(lanes) < 32:
                axes.text(x + len(lanes) * size + 0.06, y + 0.12, "…", fontsize=9, color=INK, va="center")
    for i, (code, _) in enumerate(rows):
        axes.text(0.3, 2.17 - 0.36 * i, code, fontsize=10, color=INK, family="monospace", va="center")
    key(axes, 0.3, {"x > 0": COLOURS[0], "x ≤ 0": COLOURS[1], "switched off": WAITING})
    return figure


FIGURES = {
    "gpu.png": lab.draw_gpu,
    "gpu_warps.png": draw_warps,
    "gpu_branch.png": draw_branch,
    "gpu_waves.png": draw_waves,
}
