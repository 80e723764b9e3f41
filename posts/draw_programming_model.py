"""The pictures of programming_model.md."""
from matplotlib.patches import Rectangle

from course.lab.pictures.palette import COLOURS, FAINT, INK, LIGHT_GREY
from course.lab.pictures.picture import WIDTH, Picture

WARP = 32  # threads
IDLE = dict(facecolor="#ffffff", edgecolor="#77777f", hatch="////")


def cell(axes, x, y, width, height, text="", size=7.0, **style):
    axes.add_patch(Rectangle((x, y), width, height, **{"edgecolor": INK, "linewidth": 0.6, **style}))
    axes.text(x + width / 2, y + height * 0.47, text, ha="center", va="center", fontsize=size, color=INK)


def words(axes, x, y, text, size=9.0, **style):
    axes.text(x, y, text, **{"fontsize": size, "color": INK, "va": "center", **style})


def code(axes, x, y, text, size=9.0, **style):
    words(axes, x, y, text, size, family="monospace", **style)


def draw_vector_add() -> Picture:
    """128 elements: each a thread of its own, and together one block, with the threads that the compiler gives them.

    The layout is that of `#ttg.blocked<{sizePerThread = [4], threadsPerWarp = [32], warpsPerCTA = [1]}>`.
    """
    alt = (
        "128 elements in four rows of 32. In CUDA, element i belongs to thread i, and the rows are four warps. In "
        "Triton all are one block of one program; with num_warps=1 the compiler gives each of 32 threads four elements."
    )
    figure = Picture(WIDTH, 3.95, alt)
    axes = figure.sheet()
    side, left = 0.255, 0.72
    for title, said, top, threads, per_thread in [
        ("CUDA: 128 threads", "if (i < n) out[i] = x[i] + y[i];", 3.72, 128, 1),
        ("Triton: one block", "tl.store(out_ptr + offs, x + y, mask=offs < n)", 1.82, 32, 4),
    ]:
        words(axes, left, top, title, 10.5, weight="bold")
        code(axes, left + 1.75, top, said)
        for i in range(128):
            thread = i // per_thread % threads
            row, column = divmod(i, WARP)
            shade = COLOURS[row] if per_thread == 1 else (COLOURS[0], "#d6ecf9")[thread % 2]
            cell(axes, left + side * column, top - 0.45 - side * row, side, side, thread, facecolor=shade)
        if per_thread == 1:
            for row in range(4):
                words(axes, left - 0.1, top - 0.32 - side * row, f"warp {row}", 8.5, ha="right")
        else:
            axes.add_patch(Rectangle((left, top - 0.45 - 3 * side), WARP * side, 4 * side, fill=False, edgecolor=INK,
                                     linewidth=2.4))
    words(axes, left, 2.3, "written for one thread; the numbers are the threads", 8.5)
    words(axes, left, 0.32, "written for all 128; the compiler picks the threads: here 32, with four neighbours each, "
          "which it loads at once", 8.5)
    return figure


def draw_divergence() -> Picture:
    """What each of 32 lanes does, instruction by instruction: at an if in CUDA, and in a masked block with tl.where."""
    positive = [i * 7 % 16 < 9 for i in range(WARP)]
    inside = [i < 26 for i in range(WARP)]
    everyone = [True] * WARP
    alt = (
        "Two tables, a row an instruction, a column one of 32 lanes. CUDA: at the if, the lanes with v > 0 run f while "
        "the rest wait, then the rest run g. Triton: all lanes run f and g, tl.where picks, and six lanes past n are "
        "off at the load and the store only."
    )
    figure = Picture(WIDTH, 4.35, alt)
    axes = figure.sheet()
    left, side, pitch = 3.0, 0.178, 0.27
    colours = [COLOURS[0] if p else COLOURS[1] for p in positive]

    def table(top, rows):
        for line, (text, works, kept) in enumerate(rows):
            y = top - pitch * line
            code(axes, 0.3, y + 0.11, text, 8.5)
            for i in range(WARP):
                style = dict(facecolor=colours[i]) if works[i] and kept[i] else dict(facecolor=LIGHT_GREY)
                cell(axes, left + side * i, y, side, 0.22, **(style if works[i] else IDLE))

    others = [not p for p in positive]
    words(axes, 0.3, 4.12, "CUDA: the 32 threads of a warp at an if", 10.5, weight="bold")
    table(3.65, [("v = x[i];", everyone, everyone), ("if (v > 0) r = f(v);", positive, positive),
                 ("else       r = g(v);", others, others), ("out[i] = r;", everyone, everyone)])
    words(axes, 0.3, 2.4, "Triton: 32 lanes of a block, 26 of them inside the tensor", 10.5, weight="bold")
    table(1.93, [("v = tl.load(…, mask=inside)", inside, everyone), ("f(v)", everyone, both_of(positive, inside)),
                 ("g(v)", everyone, both_of(others, inside)),
                 ("r = tl.where(v > 0, f(v), g(v))", everyone, inside),
                 ("tl.store(…, r, mask=inside)", inside, everyone)])
    x = left
    for style, text in [(dict(facecolor=COLOURS[0]), "v > 0"), (dict(facecolor=COLOURS[1]), "the others"),
                        (dict(facecolor=LIGHT_GREY), "computed, thrown away"), (IDLE, "switched off")]:
        cell(axes, x, 0.3, 0.22, 0.2, **style)
        words(axes, x + 0.3, 0.4, text, 8.5)
        x += 0.62 + 0.075 * len(text)
    return figure


def draw_row_sum() -> Picture:
    """How a block becomes one number, drawn with two warps of eight threads and four elements a thread."""
    alt = (
        "A row sum in four steps: each thread adds its own elements in registers; the threads of a warp add theirs by "
        "shuffles; each warp puts its sum into shared memory; after a barrier these are added. All of it is tl.sum."
    )
    figure = Picture(WIDTH, 4.3, alt)
    axes = figure.sheet()
    threads, side, left, gap = 8, 0.26, 0.45, 0.35
    starts = [left + warp * (threads * side + gap) for warp in range(2)]
    middle = [start + threads * side / 2 for start in starts]
    for warp, start in enumerate(starts):
        colour = COLOURS[warp]
        words(axes, middle[warp], 4.08, f"warp {warp}", 9, ha="center")
        for thread in range(threads):
            x = start + thread * side
            for element in range(4):
                cell(axes, x, 3.76 - 0.17 * element, side, 0.17, facecolor=colour)
            arrow(axes, (x + side / 2, 3.23), (x + side / 2, 2.87))
            cell(axes, x, 2.6, side, 0.26, facecolor=colour)
            arrow(axes, (x + side / 2, 2.58), (middle[warp], 1.92))
        cell(axes, middle[warp] - side / 2, 1.64, side, 0.26, facecolor=colour)
        slot = sum(middle) / 2 + (warp - 0.5) * side
        arrow(axes, (middle[warp], 1.62), (slot, 1.26))
        cell(axes, slot - side / 2, 0.98, side, 0.26, facecolor=colour, linewidth=1.6)
        arrow(axes, (slot, 0.96), (sum(middle) / 2, 0.46))
    cell(axes, sum(middle) / 2 - side / 2, 0.18, side, 0.26, facecolor=COLOURS[2])
    axes.plot([left, starts[1] + threads * side], [0.74, 0.74], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    for y, text in [(3.5, "elements, in registers"), (2.73, "one sum a thread"), (1.77, "one sum a warp"),
                    (1.11, "in shared memory"), (0.31, "one sum a block")]:
        words(axes, 5.1, y, text, 9.5, weight="bold")
    for y, text in [(3.08, "sum += row[j];"), (2.27, "sum += __shfl_xor_sync(…);"), (1.44, "part[warp] = sum;"),
                    (0.74, "__syncthreads();")]:
        code(axes, 5.1, y, text, 9)
    axes.plot([7.65, 7.75, 7.75, 7.65], [3.93, 3.93, 0.18, 0.18], color=INK, linewidth=1.2)
    code(axes, 8.0, 2.05, "tl.sum(x, axis=0)", 9.5, rotation=90)
    return figure


def both_of(first, second):
    return [a and b for a, b in zip(first, second)]


def arrow(axes, start, end):
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=FAINT, linewidth=0.9, shrinkA=0, shrinkB=0))


FIGURES = {
    "vector_add_threads.png": draw_vector_add,
    "divergence.png": draw_divergence,
    "row_sum.png": draw_row_sum,
}
