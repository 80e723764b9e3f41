"""Exercises of the chapter on layer norm (notebooks/layer_norm.ipynb)."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


def rows(n_rows, n_cols, mean=3.0, deviation=1.0, affine=2):
    """A case: a matrix whose mean is not 0, which would hide what padding does to a sum, and vectors beside it."""
    return lambda randn: (randn(n_rows, n_cols) * deviation + mean, *(randn(n_cols) for _ in range(affine)))


@triton.jit
def my_layer_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, eps, n_cols, stride_xm, stride_xn, stride_om, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n_cols
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=inside, other=0.0).to(tl.float32)
    #> mean = ...     # 1. the mean of the row
    #> centred = ...  # 2. x - mean in the row, 0 in the padding
    #> rstd = ...     # 3. one over the standard deviation, with eps added to the variance
    mean = tl.sum(x, axis=0) / n_cols
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / n_cols
    rstd = tl.rsqrt(variance + eps)
    #<
    weight = tl.load(weight_ptr + cols, mask=inside)
    bias = tl.load(bias_ptr + cols, mask=inside)
    tl.store(out_ptr + row * stride_om + cols, centred * rstd * weight + bias, mask=inside)


def my_layer_norm(x, weight, bias, out):
    n_rows, n_cols = x.shape
    my_layer_norm_kernel[(n_rows,)](
        x, weight, bias, out, 1e-5, n_cols, x.stride(0), x.stride(1), out.stride(0),
        BLOCK_N=triton.next_power_of_2(n_cols),
    )


FILL_IN = Exercise(
    name="layer_norm.fill_in",
    task=prose("""
        ### Exercise 1: fill in the gaps

        A whole layer norm, one row a program, for rows of any length that fit into a block. Three expressions are
        missing; the third may take two lines. Mind what the padding adds to a sum, and what a large mean does to a
        difference.
    """),
    reference=lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5),
    cases={
        "8 × 1,000": rows(8, 1000),
        "5 × 37": rows(5, 37),
        "1 × 1": rows(1, 1),
        "6 × 1,024, no padding": rows(6, 1024),
        "7 × 300, small numbers": rows(7, 300, mean=0.0, deviation=1e-3),
        # whole numbers, whose sums are exact: what is left to go wrong is the formula
        "4 × 1,000, a mean of 1,000 and a deviation of 30": lambda randn: (
            (1000 + 30 * randn(4, 1000)).round(), 1 + randn(1000) / 10, randn(1000) / 10
        ),
        "transposed 40 × 70": lambda randn: (3.0 + randn(70, 40).T, randn(70), randn(70)),
        "not contiguous: every second row and column": lambda randn: (
            3.0 + randn(12, 260)[::2, ::2], randn(130), randn(130)
        ),
        "large: 13 × 10,007": rows(13, 10_007),
    },
    heavy=rows(2**15, 1024),
    solution=(my_layer_norm_kernel, my_layer_norm),
    hints=(
        "The mean is a sum over the block, divided by the number of columns: that of the tensor, not of the block. "
        "The zeros that `other=0.0` put into the padding add nothing to it.",
        "In the padding `x - mean` is `0 - mean`, whose square would be counted. `tl.where(condition, a, b)` takes `a` "
        "where the condition holds and `b` elsewhere.",
        "`centred = tl.where(inside, x - mean, 0.0)`, then `variance = tl.sum(centred * centred, axis=0) / n_cols` and "
        "`rstd = tl.rsqrt(variance + eps)`.",
    ),
    explanation=prose("""
        Both sums run over registers: the row was read once. `eps` is added to the variance, inside the root, so
        that a row of equal numbers is divided by `sqrt(eps)` and not by 0: it becomes 0, and with the bias, the bias.
        The variance divides by `n_cols`, as layer norm does, and not by `n_cols - 1` as `torch.var` does unless it
        is told otherwise.
    """),
    wrong={
        "the padding takes part in the variance": Wrong(
            {"tl.where(inside, x - mean, 0.0)": "x - mean"}, "masked lanes take part in a sum"
        ),
        "divided by the size of the block": Wrong({"/ n_cols": "/ BLOCK_N"}, "masked lanes take part in a sum"),
        "the variance of a sample": Wrong(
            {"centred, axis=0) / n_cols": "centred, axis=0) / (n_cols - 1)"}, "one element in a mean"
        ),
        "eps outside of the root": Wrong({"tl.rsqrt(variance + eps)": "tl.rsqrt(variance) + eps"}, "an eps"),
        "the mean of squares less the square of the mean": Wrong(
            {"tl.sum(centred * centred, axis=0) / n_cols": "tl.sum(x * x, axis=0) / n_cols - mean * mean"},
            "a mean of 1,000 and a deviation of 30: ",
        ),
        "not divided by the deviation": Wrong({"centred * rstd * weight": "centred * weight"}, "The first: out[0, "),
    },
)


@triton.jit
def rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, eps, n_cols, stride_xm, stride_xn, stride_om, BLOCK_N: tl.constexpr
):
    #> ...  # load the row, add up its squares in float32, scale, store
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n_cols
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=inside).to(tl.float32)
    mean_square = tl.sum(x * x, axis=0) / n_cols
    y = x * tl.rsqrt(mean_square + eps) * weight
    tl.store(out_ptr + row * stride_om + cols, y, mask=inside)
    #<


def rms_norm(x, weight, out):
    n_rows, n_cols = x.shape
    rms_norm_kernel[(n_rows,)](
        x, weight, out, 1e-6, n_cols, x.stride(0), x.stride(1), out.stride(0),
        BLOCK_N=triton.next_power_of_2(n_cols),
    )


RMS_NORM = Exercise(
    name="layer_norm.rms_norm",
    task=prose("""
        ### Exercise 2: RMSNorm

        Most large language models leave the mean and the bias out, and divide by the root of the mean square:
        `out[i, j] = x[i, j] / sqrt(mean(x[i] ** 2) + eps) * weight[j]` (Zhang and Sennrich, 2019). Write the body.
        The rows may be float16, where 300² is infinite already.
    """),
    reference=lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, 1e-6),
    cases={
        "8 × 1,000": rows(8, 1000, affine=1),
        "3 × 129": rows(3, 129, affine=1),
        "1 × 1": rows(1, 1, affine=1),
        "5 × 512, no padding": rows(5, 512, affine=1),
        "float16, numbers around 300": lambda randn: ((300 + 50 * randn(4, 500)).half(), randn(500).half()),
        "transposed 30 × 70": lambda randn: (3.0 + randn(70, 30).T, randn(70)),
        "large: 13 × 10,007": rows(13, 10_007, affine=1),
    },
    heavy=rows(2**15, 1024, affine=1),
    solution=(rms_norm_kernel, rms_norm),
    hints=(
        "It is the layer norm of exercise 1 with less in it. No difference is taken, so one sum is enough, and "
        "nothing can cancel.",
        "With `other=0.0` the padding needs no `tl.where`: its squares are 0. Convert the row to float32 before "
        "you square it.",
        "`mean_square = tl.sum(x * x, axis=0) / n_cols`, then store `x * tl.rsqrt(mean_square + eps) * weight`.",
    ),
    explanation=prose("""
        One reduction instead of two, and no bias to read. On a GPU that hardly shows in the time, which is that of
        reading and writing `x`; what counts there is that it is one kernel. In float16 the squares of numbers
        above 255 are infinite, their mean is, and everything becomes 0: the conversion right after the load is
        what keeps this right.
    """),
    wrong={
        "the mean is subtracted": Wrong(
            {"    mean_square =": "    x = tl.where(inside, x - tl.sum(x, axis=0) / n_cols, 0.0)\n    mean_square ="},
            "The first: out[0, 0]",
        ),
        "squares in float16": Wrong(
            {"other=0.0).to(tl.float32)": "other=0.0)"}, "float16, numbers around 300: "
        ),
        "multiplied by the root": Wrong({"tl.rsqrt(": "tl.sqrt("}, "what the row is divided by is wrong"),
        "divided by the size of the block": Wrong({"/ n_cols": "/ BLOCK_N"}, "masked lanes take part in a sum"),
        "every row is the first": Wrong({"tl.program_id(0).to(tl.int64)": "0"}, "Several lanes meet on one"),
        "rows are taken to be contiguous": Wrong({"cols * stride_xn": "cols"}, "is an index times the stride"),
    },
)


@triton.jit
def adaptive_layer_norm_kernel(
    x_ptr, scale_ptr, shift_ptr, out_ptr, eps, n_tokens, n_cols,
    stride_xb, stride_xm, stride_xn, stride_scale, stride_shift, BLOCK_N: tl.constexpr,
):
    #> ...  # which image and which token is this? load, normalise, scale and shift, store
    row = tl.program_id(0).to(tl.int64)
    image = row // n_tokens
    token = row % n_tokens
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n_cols
    x_ptrs = x_ptr + image * stride_xb + token * stride_xm + cols * stride_xn
    x = tl.load(x_ptrs, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + image * stride_scale + cols, mask=inside).to(tl.float32)
    shift = tl.load(shift_ptr + image * stride_shift + cols, mask=inside).to(tl.float32)
    mean = tl.sum(x, axis=0) / n_cols
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / n_cols
    y = centred * tl.rsqrt(variance + eps) * (1.0 + scale) + shift
    tl.store(out_ptr + row * n_cols + cols, y, mask=inside)
    #<


def adaptive_layer_norm(x, scale, shift, out):
    n_images, n_tokens, n_cols = x.shape
    adaptive_layer_norm_kernel[(n_images * n_tokens,)](
        x, scale, shift, out, 1e-6, n_tokens, n_cols, *x.stride(), scale.stride(0), shift.stride(0),
        BLOCK_N=triton.next_power_of_2(n_cols),
    )


def images(n_images, n_tokens, n_cols):
    return lambda randn: (3.0 + randn(n_images, n_tokens, n_cols), randn(n_images, n_cols), randn(n_images, n_cols))


ADAPTIVE = Exercise(
    name="layer_norm.adaptive",
    task=prose("""
        ### Exercise 3: a norm that listens

        In a diffusion transformer (Peebles and Xie, 2023) the scale and the shift are not parameters but come from
        the time step and the label of the image: each image has its own, for all of its tokens. With
        `x` of shape (images, tokens, columns), `scale` and `shift` of (images, columns), and a norm that has no
        weight or bias of its own: `out[b, t] = norm(x[b, t]) * (1 + scale[b]) + shift[b]`. There is a program for every
        token of every image. `x` comes with three strides; in `scale` and `shift` a row is contiguous, but the rows
        may lie apart; `out` is contiguous.
    """),
    reference=lambda x, scale, shift: F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None],
    cases={
        "3 × 5 × 100": images(3, 5, 100),
        "2 × 4 × 64, no padding": images(2, 4, 64),
        "1 × 1 × 1": images(1, 1, 1),
        "4 × 1 × 33": images(4, 1, 33),
        "not contiguous: scale and shift cut from one tensor": lambda randn: (
            3.0 + randn(3, 4, 50), *randn(3, 100).chunk(2, dim=1)
        ),
        "not contiguous: tokens before images": lambda randn: (
            3.0 + randn(6, 3, 40).transpose(0, 1), randn(3, 40), randn(3, 40)
        ),
        "large: 2 × 7 × 9,001": images(2, 7, 9001),
    },
    heavy=images(64, 256, 1024),
    frugal=("launches",),
    solution=(adaptive_layer_norm_kernel, adaptive_layer_norm),
    hints=(
        "Program `row` is token `row % n_tokens` of image `row // n_tokens`. Only the two loads beside `x` differ "
        "from the layer norm that you know.",
        "`x` is found at `image * stride_xb + token * stride_xm + cols * stride_xn`, the scale at "
        "`image * stride_scale + cols`, and `out`, which is contiguous, at `row * n_cols + cols`.",
        "Mean, centred and variance are those of exercise 1. Then "
        "`y = centred * tl.rsqrt(variance + eps) * (1.0 + scale) + shift`.",
    ),
    explanation=prose("""
        PyTorch needs a layer norm, an addition, a product and another addition, each of which reads and writes as much
        as all of `x`. Here whatever follows the norm is arithmetic in registers. That is the advantage of writing
        kernels: a fusion that no library offers costs as little as one that a library does.

        The tokens of an image read the same row of `scale` and of `shift`. They run at about the same time, so that
        most of these loads are answered by the caches.
    """),
    wrong={
        "image and token are swapped": Wrong(
            {"row // n_tokens": "row % n_tokens", "token = row % n_tokens": "token = row // n_tokens"}, "3 × 5 × 100: "
        ),
        "every token has its own scale": Wrong(
            {"image * stride_scale": "row * stride_scale"}, "A load reached outside"
        ),
        "the scale of the first image for all": Wrong({"scale_ptr + image * stride_scale": "scale_ptr"}, "out[1, 0, "),
        "one too little in the scale": Wrong({"(1.0 + scale)": "scale"}, "look at the formula"),
        "the rows of the shift are taken to lie close": Wrong(
            {"image * stride_shift": "image * n_cols"}, "is an index times the stride"
        ),
    },
)


@triton.jit
def group_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, eps, groups, n_channels, length,
    stride_xn, stride_xc, stride_xl, stride_on, stride_oc, BLOCK_C: tl.constexpr, BLOCK_L: tl.constexpr,
):
    image = (tl.program_id(0) // groups).to(tl.int64)
    group = tl.program_id(0) % groups
    #> channels = ...  # the n_channels of this group, as numbers among all channels: a block of BLOCK_C
    #> inside = ...    # which lanes of the tile (BLOCK_C, BLOCK_L) exist
    #> ...             # load the tile, normalise it, scale and shift each channel, store
    lanes = tl.arange(0, BLOCK_C)
    channels = group * n_channels + lanes
    positions = tl.arange(0, BLOCK_L)
    inside = (lanes < n_channels)[:, None] & (positions < length)[None, :]
    x_ptrs = x_ptr + image * stride_xn + channels[:, None] * stride_xc + positions[None, :] * stride_xl
    x = tl.load(x_ptrs, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channels, mask=lanes < n_channels)
    bias = tl.load(bias_ptr + channels, mask=lanes < n_channels)
    n = n_channels * length
    mean = tl.sum(tl.sum(x, axis=1), axis=0) / n
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(tl.sum(centred * centred, axis=1), axis=0) / n
    y = centred * tl.rsqrt(variance + eps) * weight[:, None] + bias[:, None]
    out_ptrs = out_ptr + image * stride_on + channels[:, None] * stride_oc + positions[None, :]
    tl.store(out_ptrs, y, mask=inside)
    #<


def group_norm(x, groups, weight, bias, out):
    n_images, channels, length = x.shape
    n_channels = channels // groups
    group_norm_kernel[(n_images * groups,)](
        x, weight, bias, out, 1e-5, groups, n_channels, length, *x.stride(), out.stride(0), out.stride(1),
        BLOCK_C=triton.next_power_of_2(n_channels), BLOCK_L=triton.next_power_of_2(length),
    )


def channels(n_images, n_channels, length, groups, last=False):
    def make(randn):
        x = randn(n_images, length, n_channels).mT if last else randn(n_images, n_channels, length)
        return 3.0 + x, groups, randn(n_channels), randn(n_channels)

    return make


GROUP_NORM = Exercise(
    name="layer_norm.group_norm",
    task=prose("""
        ### Exercise 4: group norm

        Between layer norm and batch norm stands group norm (Wu and He, 2018): the channels of an image
        are split into groups, and each group is normalised over its channels *and* their pixels. `x` has shape
        (images, channels, length), where an image's pixels are one dimension; weight and bias have one number a
        channel. One program owns one group: a tile of `n_channels` rows, each `length` long, both padded to a power of
        two. `tl.sum(tl.sum(tile, axis=1), axis=0)` adds up a whole tile.
    """),
    reference=lambda x, groups, weight, bias: torch.group_norm(x, groups, weight, bias, 1e-5),
    cases={
        "2 × 12 × 50, 4 groups": channels(2, 12, 50, 4),
        "3 × 8 × 64, 2 groups, no padding": channels(3, 8, 64, 2),
        "1 × 1 × 1, 1 group": channels(1, 1, 1, 1),
        "2 × 15 × 49, 3 groups of 5": channels(2, 15, 49, 3),
        "1 × 6 × 33, a channel a group": channels(1, 6, 33, 6),
        "not contiguous: channels last": channels(2, 12, 50, 4, last=True),
        "large: 1 × 32 × 3,137, 8 groups": channels(1, 32, 3137, 8),
    },
    heavy=channels(64, 256, 28 * 28, 32),
    solution=(group_norm_kernel, group_norm),
    hints=(
        "The group's first channel is `group * n_channels`. Which lanes exist depends on the number of the lane, not "
        "on that of the channel: channel `group * n_channels + n_channels` may exist, but belongs to the next group.",
        "`lanes = tl.arange(0, BLOCK_C)`, `channels = group * n_channels + lanes`, `positions = tl.arange(0, BLOCK_L)` "
        "and a tile of offsets as in exercise 3 on the vector add. The mean divides by `n_channels * length`.",
        "Weight and bias are blocks of `BLOCK_C`, loaded at `channels` with the mask `lanes < n_channels`; "
        "`weight[:, None]` meets every position of its channel. `out` has strides `stride_on`, `stride_oc` and 1.",
    ),
    explanation=prose("""
        A group is a row of a layer norm that happens to lie in a tile; the two sums do not care. Only the
        parameters differ: they belong to the rows of the tile instead of its columns. With one group this normalises
        all of an image, with as many groups as channels it is *instance norm*.

        For this solution a group must fit into one program's registers. Where it does not, the loop of step 6 comes in.
    """),
    wrong={
        "the next group's channels take part": Wrong(
            {"(lanes < n_channels)[:, None]": "(channels < groups * n_channels)[:, None]"}, "2 × 12 × 50, 4 groups: "
        ),
        "the mean of the channel alone": Wrong(
            {"tl.sum(tl.sum(x, axis=1), axis=0) / n": "tl.sum(x, axis=1)[:, None] / length"}, "out[0, 0, 0]"
        ),
        "divided by the length alone": Wrong({"n = n_channels * length": "n = length"}, "look at the formula"),
        "the padding takes part in the variance": Wrong(
            {"tl.where(inside, x - mean, 0.0)": "x - mean"}, "masked lanes take part in a sum"
        ),
        "weight by the lane's number": Wrong({"weight_ptr + channels": "weight_ptr + lanes"}, "out[0, 3, 0]"),
        "x is taken to be contiguous": Wrong(
            {"channels[:, None] * stride_xc + positions[None, :] * stride_xl":
             "channels[:, None] * stride_oc + positions[None, :]"},
            "is an index times the stride",
        ),
    },
)


@triton.jit
def part_kernel(x_ptr, means_ptr, squares_ptr, n_cols, stride_xm, stride_xn, PART: tl.constexpr):
    row, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    cols = part * PART + tl.arange(0, PART)
    inside = cols < n_cols
    x = tl.load(x_ptr + row.to(tl.int64) * stride_xm + cols.to(tl.int64) * stride_xn, mask=inside, other=0.0)
    mean = tl.sum(x, axis=0) / tl.minimum(n_cols - part * PART, PART)
    centred = tl.where(inside, x - mean, 0.0)
    tl.store(means_ptr + row * n_parts + part, mean)
    tl.store(squares_ptr + row * n_parts + part, tl.sum(centred * centred, axis=0))


@triton.jit
def combine_parts_kernel(
    means_ptr, squares_ptr, out_ptr, n_cols, n_parts, PART: tl.constexpr, BLOCK_P: tl.constexpr
):
    row = tl.program_id(0)
    parts = tl.arange(0, BLOCK_P)
    means = tl.load(means_ptr + row * n_parts + parts, mask=parts < n_parts, other=0.0)
    squares = tl.load(squares_ptr + row * n_parts + parts, mask=parts < n_parts, other=0.0)
    #> counts = ...    # how many elements each part has: PART, fewer in the last one, none in the padding
    #> mean = ...      # of the row
    #> variance = ...  # of the row, from all three
    counts = tl.maximum(tl.minimum(n_cols - parts * PART, PART), 0)
    mean = tl.sum(counts * means, axis=0) / n_cols
    shift = means - mean
    variance = tl.sum(squares + counts * shift * shift, axis=0) / n_cols
    #<
    tl.store(out_ptr + 2 * row, mean)
    tl.store(out_ptr + 2 * row + 1, variance)


def moments(x, out):
    n_rows, n_cols = x.shape
    n_parts = triton.cdiv(n_cols, 4096)
    means, squares = torch.empty(2, n_rows, n_parts, device=x.device)
    part_kernel[(n_rows, n_parts)](x, means, squares, n_cols, x.stride(0), x.stride(1), PART=4096)
    combine_parts_kernel[(n_rows,)](
        means, squares, out, n_cols, n_parts, PART=4096, BLOCK_P=triton.next_power_of_2(n_parts)
    )


MOMENTS = Exercise(
    name="layer_norm.moments",
    task=prose("""
        ### Exercise 5: many programs for one row

        Four rows of a million columns: with one program a row, nearly all of the GPU is idle. `part_kernel` cuts a row
        into parts of 4,096 columns, and stores of each part the mean and the sum of the squared deviations *from
        that mean*. A second launch, one program a row, combines them: `out[i]` is the mean and the variance of row
        `i` (divided by the number of columns). Write what is missing of it. Two kernels, because programs of one launch
        cannot wait for each other.
    """),
    reference=lambda x: torch.stack(torch.var_mean(x, dim=1, correction=0)[::-1], dim=1),
    cases={
        "3 × 10,000": lambda randn: (3.0 + randn(3, 10_000),),
        "2 × 8,192, whole parts": lambda randn: (3.0 + randn(2, 8192),),
        "1 × 1": lambda randn: (3.0 + randn(1, 1),),
        "5 × 77, one part": lambda randn: (3.0 + randn(5, 77),),
        "2 × 5,000, two halves that differ": lambda randn: (
            randn(2, 5000) + torch.tensor([0.0, 8.0]).repeat_interleave(2500),
        ),
        "2 × 9,001, a mean of 1,000": lambda randn: (1000.0 + randn(2, 9001),),
        "not contiguous: transposed 2 × 6,001": lambda randn: (3.0 + randn(6001, 2).T,),
        "large: 2 × 100,003": lambda randn: (3.0 + randn(2, 100_003),),
    },
    heavy=lambda randn: (3.0 + randn(4, 2**24),),
    solution=(part_kernel, combine_parts_kernel, moments),
    hints=(
        "Part `p` begins at column `p * PART`, so `n_cols - p * PART` columns are left from there on: more than "
        "`PART`, or fewer, or, in the padding, a number that is not positive.",
        "The mean of the row is the mean of the means, each counted as often as its part has elements. Unless all "
        "parts are equally long, that is not the plain mean of the means.",
        "A part whose mean lies `shift` away from the row's has elements that lie, squared and summed, "
        "`squares + counts * shift * shift` away from it. The variance is the sum of that over all parts, divided by "
        "`n_cols`.",
    ),
    explanation=prose("""
        This is the formula of Chan, Golub and LeVeque for many parts at once. `counts * shift * shift` is what the
        parts have between them, `squares` what each has within. Nothing cancels: both are sums of squares.

        The parts cost little: two numbers for every 4,096. And the order of the additions is the same at every run,
        which it would not be with `tl.atomic_add`, so that the same input gives the same bits.
        `course.kernels.batch_norm` works in this way.
    """),
    wrong={
        "the plain mean of the means": Wrong(
            {"tl.sum(counts * means, axis=0) / n_cols": "tl.sum(means, axis=0) / n_parts"}, "3 × 10,000: "
        ),
        "only the deviations within the parts": Wrong(
            {"squares + counts * shift * shift": "squares"}, "a small term is missing"
        ),
        "all parts are taken to be whole": Wrong(
            {"tl.maximum(tl.minimum(n_cols - parts * PART, PART), 0)": "tl.where(parts < n_parts, PART, 0)"},
            "3 × 10,000: ",
        ),
        "the mean of the variances": Wrong(
            {"tl.sum(squares + counts * shift * shift, axis=0) / n_cols":
             "tl.sum(tl.where(counts > 0, squares / tl.maximum(counts, 1), 0.0), axis=0) / n_parts"},
            "3 × 10,000: ",
        ),
        "the mean of squares less the square of the mean": Wrong(
            {"tl.sum(squares + counts * shift * shift, axis=0) / n_cols":
             "tl.sum(squares + counts * means * means, axis=0) / n_cols - mean * mean"},
            "a mean of 1,000: ",
        ),
    },
)

EXERCISES = (FILL_IN, RMS_NORM, ADAPTIVE, GROUP_NORM, MOMENTS)
