"""Convolution for Hopper and later: a persistent grid, fed by the tensor memory accelerator (TMA).

    y[k, (n, p, q)] = sum over r, s, c of weight[k, (r, s, c)] * x[(r, s, c), (n, p, q)]

A tile's pixels are a box: some images by some rows by some columns of the result. At one filter tap their elements
of x are a box as well, the same one shifted by r rows and s columns, and the copy engine brings it to shared memory
on one instruction. What lies outside the image arrives as zeros: that is the padding, and no address and no mask is
left to compute. With a stride of 2 the box would have gaps; x is then seen as half as many columns of twice as many
channels, where it has none. Where there are many images, a box of one pixel each wastes nothing at the edges.

Taps that lie outside the image for the whole box are left out rather than multiplied by zeros (so an infinite
weight adds no NaN there). The product is taken filters by pixels: a tensor core wants 64 rows, of which a layer has
enough in its filters, and as few as 8 columns, so that small batches still give enough tiles; and the right
operand may be a box in shared memory as it is, where the left one would be copied through registers.

Where the tiles alone leave multiprocessors idle, SPLIT_K programs share a tile, each with a part of the sum. Each
writes its part to memory; the one that comes last adds them all, in the order of the parts and not as they
came, so that the result has the same bits every time.
"""
import triton
import triton.language as tl

from course.kernels._dot import dot
from course.kernels._early_start import wait_for_previous


@triton.jit(do_not_specialize=["n_filters", "boxes", "image", "padding", "dilation", "x_column"])
def conv2d_tma_kernel(
    x_desc, w_desc, bias_ptr, residual_desc, out_desc, parts_ptr, arrivals_ptr,
    n_filters, boxes, image, padding, dilation, x_column,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, IMAGES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr, SLICES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_for_previous(EARLY)
    PIXELS: tl.constexpr = IMAGES * ROWS * COLS
    C_STEPS: tl.constexpr = C // BLOCK_K
    # a box more than one pixel high reads every STRIDE-th row, and so sees x as STRIDE times fewer rows
    VIEW_H: tl.constexpr = STRIDE[0] if ROWS > 1 else 1
    VIEW_W: tl.constexpr = STRIDE[1] if COLS > 1 else 1
    programs = tl.num_programs(0)
    programs_needed = tl.cdiv(n_filters, BLOCK_N) * boxes[0] * boxes[1] * boxes[2] * SPLIT_K
    finished = tl.program_id(0) - programs  # counted apart from `program`, which the flattened loop runs ahead
    for program in tl.range(tl.program_id(0), programs_needed, programs, flatten=SPLIT_K == 1):
        k, n, p, q = tile_start(program // SPLIT_K, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N)
        h, w = p * STRIDE[0] - padding[0], q * STRIDE[1] - padding[1]
        first_r, n_r = taps_inside(h, (ROWS - 1) * STRIDE[0], image[0], dilation[0], R)
        first_s, n_s = taps_inside(w, (COLS - 1) * STRIDE[1], image[1], dilation[1], S)
        steps = n_r * n_s * C_STEPS
        part = program % SPLIT_K

        acc = tl.zeros((BLOCK_N, PIXELS), tl.float32)
        first, end = steps * part // SPLIT_K, steps * (part + 1) // SPLIT_K
        c = first % C_STEPS * BLOCK_K
        r, s = first_r + first // C_STEPS // n_s, first_s + first // C_STEPS % n_s
        for _ in range(first, end):
            weight = w_desc.load([k, (r * S + s) * C + c])
            # never negative, so that division rounds down
            tap_h, tap_w = h + r * dilation[0] + VIEW_H * padding[0], w + s * dilation[1] + VIEW_W * padding[1]
            x = x_desc.load([n, tap_h // VIEW_H - padding[0], tap_h % VIEW_H, tap_w // VIEW_W - padding[1],
                             tap_w % VIEW_W * x_column + c])  # fmt: skip
            acc = dot(weight, x.reshape(PIXELS, BLOCK_K).T, acc, PRECISION)
            # to the next channels, tap, row of taps: no division, which would take longer than a small product
            c += BLOCK_K
            s += (c == C).to(tl.int32)
            c = tl.where(c == C, 0, c)
            r += (s == first_s + n_s).to(tl.int32)
            s = tl.where(s == first_s + n_s, first_s, s)

        finished += programs
        tile = finished // SPLIT_K
        k, n, p, q = tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N)
        last = True
        if SPLIT_K > 1:
            acc, last = add_parts(acc, parts_ptr + tile.to(tl.int64) * (SPLIT_K * BLOCK_N * PIXELS), part,
                                  arrivals_ptr + tile, SPLIT_K)  # fmt: skip
        if last:
            if bias_ptr is not None:
                filters = k + tl.arange(0, BLOCK_N)
                acc += tl.load(bias_ptr + filters, mask=filters < n_filters).to(tl.float32)[:, None]
            finish_slices(acc, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES, 0)


@triton.jit
def tile_start(tile, n_filters, boxes, IMAGES, ROWS, COLS, BLOCK_N):
    """A tile's first filter, image, row and column.

    Tiles that run at the same time share their pixels, or take the same pixels of other images. The last row of boxes
    is followed by the first: those at the edge have the fewest taps, and what comes last decides how evenly the
    work is spread.
    """
    blocks_n = tl.cdiv(n_filters, BLOCK_N)
    box = tile // blocks_n
    p, q = (box // boxes[0] // boxes[2] + 1) % boxes[1], (box // boxes[0] + 1) % boxes[2]
    return tile % blocks_n * BLOCK_N, box % boxes[0] * IMAGES, p * ROWS, q * COLS


@triton.jit
def taps_inside(first, extent, size, dilation, TAPS: tl.constexpr):
    """The first tap that meets an image of `size`, and how many do: at least one, if only to find nothing but zeros.

    Tap 0 meets rows (or columns) from `first` to `first + extent`.
    """
    start = tl.minimum(tl.maximum(tl.cdiv(-first - extent, dilation), 0), TAPS - 1)
    end = tl.minimum(tl.cdiv(size - first, dilation), TAPS)
    return start, tl.maximum(end - start, 1)


@triton.jit
def add_parts(acc, parts_ptr, part, arrivals_ptr, SPLIT_K: tl.constexpr):
    """The tile's whole sum, and whether this program is the last to arrive and so has to finish it."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    offs = tl.arange(0, FILTERS)[:, None] * PIXELS + tl.arange(0, PIXELS)[None, :]
    tl.store(parts_ptr + part * (FILTERS * PIXELS) + offs, acc)
    tl.debug_barrier()  # all threads have stored before one of them says so
    last = tl.atomic_add(arrivals_ptr, 1) == SPLIT_K - 1
    if last:
        acc = tl.load(parts_ptr + offs, cache_modifier=".cg")  # from the L2 cache, where the others' parts are
        for i in tl.static_range(1, SPLIT_K):
            acc += tl.load(parts_ptr + i * (FILTERS * PIXELS) + offs, cache_modifier=".cg")
        tl.store(arrivals_ptr, 0)  # for the next launch
    return acc, last


@triton.jit
def finish_slices(
    acc, residual_desc, out_desc, k, n, p, q, ACTIVATION: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    SLICES: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Stores activation(acc + residual) slice by slice, each of some of the pixels, and so with less shared memory."""
    FILTERS: tl.constexpr = acc.shape[0]
    PIXELS: tl.constexpr = acc.shape[1]
    if SLICES > 1:
        left, right = acc.reshape(FILTERS, 2, PIXELS // 2).permute(0, 2, 1).split()
        finish_slices(left, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES // 2, OFFSET)
        finish_slices(right, residual_desc, out_desc, k, n, p, q, ACTIVATION, ROWS, COLS, SLICES // 2,
                      OFFSET + PIXELS // 2)  # fmt: skip
    else:
        corner = [n + OFFSET // (ROWS * COLS), p + OFFSET % (ROWS * COLS) // COLS, q + OFFSET % COLS, k]
        if residual_desc is not None:
            acc += residual_desc.load(corner).reshape(PIXELS, FILTERS).T.to(tl.float32)
        if ACTIVATION is not None:
            acc = ACTIVATION(acc)
        out_desc.store(corner, acc.to(out_desc.dtype).T.reshape(out_desc.block_shape))
