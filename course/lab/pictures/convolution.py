"""Pictures of a convolution as a matrix product: windows as rows of a matrix, and the order of a sum's terms."""
from collections.abc import Sequence

from matplotlib.patches import ConnectionPatch, Rectangle

from course.lab.pictures.palette import CARD, COLOURS, GRID, INK, MASKED
from course.lab.pictures.picture import WIDTH, Picture

PADDING = {**MASKED, "edgecolor": "#9a9aa2"}
TAPS = [*COLOURS, "#cfd3d8"]
"""Colours of a filter's taps, from left to right and row by row; they repeat in filters of more than nine."""


def draw_im2col(
    size: tuple[int, int], kernel_size: tuple[int, int], *, stride: int = 1, padding: int = 0, filters: int = 3,
    pixel: tuple[int, int] = (0, 0),
) -> Picture:
    """An image of one channel, the matrix of its windows, the filters as columns, and the result as their product.

    `size` is (H, W), `kernel_size` (R, S). The window of the output pixel `pixel`, (p, q), is shown in colours, one a
    tap: in the image, in its row of the matrix, and in the first filter. Elements bear their place in the image's
    memory; the padding, which has none, is hatched.
    """
    view = Im2col(size, kernel_size, stride, padding, filters)
    R, S, m = *kernel_size, pixel[0] * view.Q + pixel[1]
    taps = {tap: TAPS[tap % len(TAPS)] for tap in range(R * S)}
    figure = view.draw(
        f"Row {m} of the windows belongs to output pixel {pixel}.",
        image={view.pixel_at(m, tap): colour for tap, colour in taps.items()},
        windows={(m, tap): colour for tap, colour in taps.items()},
        filters={(tap, 0): colour for tap, colour in taps.items()},
        result={(m, 0): COLOURS[0]},
    )
    image, windows, weights, result = figure.axes
    corner = pixel[1] * stride, pixel[0] * stride
    outline(image, corner, S, R)
    outline(windows, (0, m), R * S, 1)
    outline(weights, (0, 0), 1, R * S)
    outline(result, (0, m), 1, 1)
    style = dict(arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1.1, shrinkB=1)
    side = corner[0] + S, corner[1] + R / 2
    figure.add_artist(ConnectionPatch(side, (0, m + 0.5), "data", axesA=image, axesB=windows, **style))
    return figure


def draw_step(
    size: tuple[int, int], kernel_size: tuple[int, int], *, pixels: range, terms: range, stride: int = 1,
    padding: int = 0, filters: int = 3,
) -> Picture:
    """What one step of the product needs, in the picture of `draw_im2col`: its tile of the matrix of windows, `pixels`
    by `terms`, the elements of the image that stand in it, the filters' terms, and the sums it adds to."""
    view = Im2col(size, kernel_size, stride, padding, filters)
    tile = {(m, term): COLOURS[0] for m in pixels for term in terms}
    needed = {view.pixel_at(m, term) for m, term in tile}
    inside = [(h, w) for h, w in needed if 0 <= h < size[0] and 0 <= w < size[1]]
    figure = view.draw(
        f"A step with pixels {pixels.start} to {pixels.stop - 1} and terms {terms.start} to {terms.stop - 1}: "
        f"a tile of {len(tile)} made of {len(inside)} elements of the image.",
        image={place: COLOURS[0] for place in inside},
        windows=tile,
        filters={(term, k): COLOURS[1] for term in terms for k in range(filters)},
        result={(m, k): COLOURS[2] for m in pixels for k in range(filters)},
    )
    _, windows, weights, result = figure.axes
    outline(windows, (terms.start, pixels.start), len(terms), len(pixels))
    outline(weights, (0, terms.start), filters, len(terms))
    outline(result, (0, pixels.start), filters, len(pixels))
    return figure


class Im2col:
    """The image, the matrix of its windows, the filters and the result, side by side."""

    def __init__(self, size, kernel_size, stride, padding, filters):
        (self.H, self.W), (self.R, self.S) = size, kernel_size
        self.stride, self.padding, self.filters = stride, padding, filters
        self.P, self.Q = ((n + 2 * padding - taps) // stride + 1 for n, taps in zip(size, kernel_size))

    def pixel_at(self, m, tap):
        """Row and column of the image that output pixel m meets at a tap; outside of it in the padding."""
        h, w = m // self.Q * self.stride + tap // self.S, m % self.Q * self.stride + tap % self.S
        return h - self.padding, w - self.padding

    def draw(self, alt, image, windows, filters, result) -> Picture:
        """All four, with the colours of some of their cells, by (row, column)."""
        P, Q, terms, padding = self.P, self.Q, self.R * self.S, self.padding
        names = {
            f"image, {self.H} × {self.W}": (self.H + 2 * padding, self.W + 2 * padding),
            f"windows, {P * Q} × {terms}": (P * Q, terms),
            f"filters, {terms} × {self.filters}": (terms, self.filters),
            f"result, {P * Q} × {self.filters}": (P * Q, self.filters),
        }
        gap, top, under = 0.5, 0.62, 0.25
        across = sum(columns for _, columns in names.values())
        cell = min(0.3, (WIDTH - 0.7 - 3 * gap) / across)
        height = top + cell * max(rows for rows, _ in names.values()) + under
        figure = Picture(WIDTH, height, (
            f"An image of {self.H} × {self.W}, its {P * Q} windows of {self.R} × {self.S} as the rows of a matrix, "
            f"{self.filters} filters as columns, and the result; stride {self.stride}, padding {padding}. {alt}"
        ))
        panels, x = [], (WIDTH - cell * across - 3 * gap) / 2
        for name, (rows, columns) in names.items():
            place = figure.place(x, height - top - cell * rows, cell * columns, cell * rows)
            panels.append(figure.add_axes(place, xlim=(0, columns), ylim=(rows, 0)))
            panels[-1].axis("off")
            panels[-1].text(columns / 2, -0.35, name, ha="center", va="bottom", fontsize=9, color=INK)
            x += cell * columns + gap
        fontsize = min(8.0, 72 * 0.45 * cell)

        def draw_cell(panel, row, column, colour, pixel=None):
            hit = pixel is None or 0 <= pixel[0] < self.H and 0 <= pixel[1] < self.W
            style = dict(facecolor=CARD, edgecolor=GRID) if hit else PADDING
            style = {**style, "facecolor": colour} if colour else style
            panel.add_patch(Rectangle((column, row), 1, 1, linewidth=0.7, clip_on=False, **style))
            text = str(pixel[0] * self.W + pixel[1]) if pixel and hit else ""
            panel.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=fontsize, color=INK)

        for h in range(-padding, self.H + padding):
            for w in range(-padding, self.W + padding):
                draw_cell(panels[0], h + padding, w + padding, image.get((h, w)), (h, w))
        for m in range(P * Q):
            for tap in range(terms):
                draw_cell(panels[1], m, tap, windows.get((m, tap)), self.pixel_at(m, tap))
            for k in range(self.filters):
                draw_cell(panels[3], m, k, result.get((m, k)))
        for tap in range(terms):
            for k in range(self.filters):
                draw_cell(panels[2], tap, k, filters.get((tap, k)))
        outline(panels[0], (padding, padding), self.W, self.H, 1.2)
        for left, right, sign in ((panels[1], panels[2], "×"), (panels[2], panels[3], "=")):
            x = (left.get_position().x1 + right.get_position().x0) / 2
            y = 1 - (top + cell * terms / 2) / height
            figure.text(x, y, sign, ha="center", va="center", fontsize=15, color=INK)
        return figure


def outline(panel, corner, width, height, linewidth=1.8):
    box = Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=linewidth, clip_on=False)
    panel.add_patch(box)


def draw_terms(kernel_size: tuple[int, int], channels: int, block: int, order: Sequence[str] = "rsc") -> Picture:
    """The terms of one output element's sum in a row, each with its r, s and c, in the colour of its tap.

    `order` names the three from the outermost to the innermost. A bracket below marks each step of `block` terms.
    """
    (R, S), terms = kernel_size, kernel_size[0] * kernel_size[1] * channels
    sizes = {"r": R, "s": S, "c": channels}
    steps = -(-terms // block)
    line, top, left = 0.3, 0.2, 0.75
    cell, height = (WIDTH - 1.0) / terms, top + line * 4 + 0.55
    figure = Picture(WIDTH, height, (
        f"{terms} terms of a filter of {R} × {S} taps and {channels} channels in the order {', '.join(order)}, "
        f"in {steps} steps of {block}"
    ))
    panel = figure.sheet(down=True)
    for i, name in enumerate(["term", *order]):
        y = top + line * (i + 0.5)
        panel.text(left - 0.12, y, name, ha="right", va="center", fontsize=9, color=INK, family="monospace")
    for term in range(terms):
        index, rest = {}, term
        for name in reversed(order):
            rest, index[name] = divmod(rest, sizes[name])
        colour = TAPS[(index["r"] * S + index["s"]) % len(TAPS)]
        for i, value in enumerate([term, *(index[name] for name in order)]):
            x, y = left + term * cell, top + line * i
            box = Rectangle((x, y), cell, line, facecolor=colour if i else CARD, edgecolor=GRID, linewidth=0.7)
            panel.add_patch(box)
            panel.text(x + cell / 2, y + line * 0.52, value, ha="center", va="center", fontsize=min(8.0, 45 * cell),
                       color=INK)
    y = top + 4 * line + 0.1
    for step in range(steps):
        start, end = left + step * block * cell + 0.03, left + min((step + 1) * block, terms) * cell - 0.03
        panel.plot([start, start, end, end], [y, y + 0.08, y + 0.08, y], color=INK, linewidth=1.2)
        panel.text((start + end) / 2, y + 0.14, f"step {step}", ha="center", va="top", fontsize=8.5, color=INK)
    return figure


def draw_boxes(
    size: tuple[int, int], box: tuple[int, int], corner: tuple[int, int], taps: Sequence[tuple[int, int]],
    padding: int = 1,
) -> Picture:
    """What each of `taps`, (r, s), needs of an image for one tile of output pixels, stride 1: a panel a tap.

    The tile has the size `box` and begins at the output pixel `corner`. It is outlined with a broken line; filled is
    what it meets in the image at the tap, hatched what lies outside and counts as 0.
    """
    (H, W), (p, q) = size, corner
    gap, top, under = 0.4, 0.55, 0.2
    cell = min(0.26, ((WIDTH - gap) / len(taps) - gap) / (W + 2 * padding))
    height = top + cell * (H + 2 * padding) + under
    starts = {(r, s): (p + r - padding, q + s - padding) for r, s in taps}
    places = ", ".join(f"tap {tap} from row {h}, column {w} on" for tap, (h, w) in starts.items())
    figure = Picture(WIDTH, height, (
        f"An image of {H} × {W}. For the {box[0]} × {box[1]} output pixels from {corner} on, "
        f"each tap needs a box of that size: {places}"
    ))
    wide = cell * (W + 2 * padding)
    x = (WIDTH - len(taps) * (wide + gap) + gap) / 2
    for (r, s), (h, w) in starts.items():
        place = figure.place(x, under, wide, cell * (H + 2 * padding))
        panel = figure.add_axes(place, xlim=(-padding, W + padding), ylim=(H + padding, -padding))
        panel.axis("off")
        panel.text(W / 2, -padding - 0.4, f"tap ({r}, {s}): box at ({h}, {w})", ha="center", va="bottom", fontsize=9,
                   color=INK)
        for i in range(-padding, H + padding):
            for j in range(-padding, W + padding):
                covered, hit = 0 <= i - h < box[0] and 0 <= j - w < box[1], 0 <= i < H and 0 <= j < W
                style = dict(facecolor=COLOURS[0] if covered else CARD, edgecolor=GRID)
                if covered and not hit:
                    style = PADDING
                panel.add_patch(Rectangle((j, i), 1, 1, linewidth=0.7, clip_on=False, **style))
        outline(panel, (0, 0), W, H, 1.2)
        outline(panel, (w, h), box[1], box[0])
        tile = dict(fill=False, edgecolor=INK, linewidth=1.1, linestyle=(0, (3, 2)))
        panel.add_patch(Rectangle((q, p), box[1], box[0], **tile))
        x += wide + gap
    return figure
