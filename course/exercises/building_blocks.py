"""Exercises of the chapter on building blocks (notebooks/building_blocks.ipynb)."""
import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


@triton.jit
def batch_norm_relu_kernel(
    x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, out_ptr, eps, n_channels, length,
    stride_xn, stride_xc, stride_xl, stride_on, stride_oc, stride_ol, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    positions = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channels < n_channels
    inside = (positions < length)[:, None] & inside_c[None, :]
    x_offs = image * stride_xn + positions[:, None] * stride_xl + channels[None, :] * stride_xc
    x = tl.load(x_ptr + x_offs, mask=inside)
    mean = tl.load(mean_ptr + channels, mask=inside_c)
    var = tl.load(var_ptr + channels, mask=inside_c, other=1.0)
    weight = tl.load(weight_ptr + channels, mask=inside_c)
    bias = tl.load(bias_ptr + channels, mask=inside_c)
    #> scale = ...  # 1. what a channel is multiplied by: a block of BLOCK_C
    #> y = ...      # 2. the tile, normalised
    #> y = ...      # 3. and without its negative numbers
    scale = weight * tl.rsqrt(var + eps)
    y = (x - mean[None, :]) * scale[None, :] + bias[None, :]
    y = tl.where(y < 0, 0.0, y)
    #<
    out_offs = image * stride_on + positions[:, None] * stride_ol + channels[None, :] * stride_oc
    tl.store(out_ptr + out_offs, y, mask=inside)


def batch_norm_relu(x, mean, var, weight, bias, out):
    n_images, n_channels, length = x.shape
    grid = (n_images, triton.cdiv(length, 512), triton.cdiv(n_channels, 16))
    batch_norm_relu_kernel[grid](
        x, mean, var, weight, bias, out, 1e-5, n_channels, length, *x.stride(), *out.stride(), BLOCK_L=512, BLOCK_C=16
    )


def planes(n_images, n_channels, length, last=False, mean=0.0):
    """A case: images of one line, and statistics and parameters of their channels."""

    def make(randn):
        x = randn(n_images, length, n_channels).mT if last else randn(n_images, n_channels, length)
        weight, bias = randn(2, n_channels)
        return x + mean, randn(n_channels) + mean, randn(n_channels) ** 2 + 0.1, weight, bias

    return make


def with_nan(randn):
    x, *rest = planes(1, 3, 20)(randn)
    x[0, 1, 5], x[0, 2, 7] = float("nan"), float("inf")
    return x, *rest


FILL_IN = Exercise(
    name="building_blocks.batch_norm_relu",
    task=prose("""
        ### Exercise 1: batch norm and ReLU in one kernel

        Fill in the arithmetic: a batch norm with given statistics, and the ReLU that follows it. A program owns a tile
        of positions and channels, of tensors with any strides, so that both memory formats work. NaN stays NaN, as in
        PyTorch, and the channels' means may be large.
    """),
    reference=lambda x, mean, var, weight, bias: F.batch_norm(x, mean, var, weight, bias).relu(),
    cases={
        "2 × 20 × 100": planes(2, 20, 100),
        "3 × 16 × 512": planes(3, 16, 512),
        "1 × 1 × 1": planes(1, 1, 1),
        "2 × 7 × 33": planes(2, 7, 33),
        "not contiguous: channels last": planes(2, 20, 49, last=True),
        "a NaN and an infinity": with_nan,
        "means of 500": planes(2, 5, 99, mean=500.0),
        "large: 2 × 17 × 3,136": planes(2, 17, 3136),
    },
    heavy=planes(64, 64, 56 * 56),
    frugal=("launches",),
    solution=(batch_norm_relu_kernel, batch_norm_relu),
    hints=(
        "`mean`, `var`, `weight` and `bias` are blocks of `BLOCK_C` numbers, one a channel; the tile has shape "
        "`(BLOCK_L, BLOCK_C)`. `[None, :]` lets each channel's number meet all of its positions.",
        "`scale = weight * tl.rsqrt(var + eps)` is computed once a channel. Subtract the mean before you multiply: "
        "`x * scale - mean * scale` is the same formula, and cancels where the mean is large.",
        "`y = (x - mean[None, :]) * scale[None, :] + bias[None, :]`, and `y = tl.where(y < 0, 0.0, y)`: a comparison "
        "with NaN is false, so NaN takes the second way and stays.",
    ),
    explanation=prose("""
        The two operations move 2 n elements together, and 4 n apart. The root and the product with the weight are
        taken for 16 channels, and not for the 8,192 elements of the tile.

        `tl.maximum(y, 0.0)` would be ReLU for every number. But of NaN and 0 it takes the 0, and a model that has gone
        wrong looks healthy from there on.
    """),
    wrong={
        "the root is missing": Wrong({"tl.rsqrt(var + eps)": "1.0 / (var + eps)"}, "The first: out[0, 0"),
        "no bias": Wrong({" + bias[None, :]": ""}, "The first: out[0, 0"),
        "NaN becomes 0": Wrong({"tl.where(y < 0, 0.0, y)": "tl.where(y > 0, y, 0.0)"}, "a NaN and an infinity: "),
        "the ReLU comes first": Wrong(
            {"(x - mean[None, :])": "(tl.where(x < 0, 0.0, x) - mean[None, :])"}, "2 × 20 × 100: "
        ),
        "scaled before the mean is subtracted": Wrong(
            {"(x - mean[None, :]) * scale[None, :] + bias[None, :]":
             "x * scale[None, :] + (bias - mean * scale)[None, :]"},
            "means of 500: ",
        ),
    },
)


@triton.jit
def swiglu_kernel(gate_ptr, up_ptr, out_ptr, n_cols, stride_gm, stride_um, stride_om, BLOCK: tl.constexpr):
    #> ...  # load both in float32, out = gate * sigmoid(gate) * up, store
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < n_cols
    gate = tl.load(gate_ptr + row * stride_gm + cols, mask=inside).to(tl.float32)
    up = tl.load(up_ptr + row * stride_um + cols, mask=inside).to(tl.float32)
    tl.store(out_ptr + row * stride_om + cols, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)
    #<


def swiglu(gate, up, out):
    n_rows, n_cols = out.shape
    swiglu_kernel[(n_rows, triton.cdiv(n_cols, 4096))](
        gate, up, out, n_cols, gate.stride(0), up.stride(0), out.stride(0), BLOCK=4096
    )


SWIGLU = Exercise(
    name="building_blocks.swiglu",
    task=prose("""
        ### Exercise 2: the activation of language models

        SiLU, or swish, is `x * sigmoid(x)` (Elfwing, Uchibe and Doya, 2018). In the *gated* form of Shazeer (2020) it
        multiplies a second tensor: `out = gate * sigmoid(gate) * up`. Both are usually the two halves of one matrix
        product's columns, so a row is contiguous, but the rows lie apart. Write the body, for a grid of rows by
        blocks of columns. Very large and very small gates must come out right, too.
    """),
    reference=lambda gate, up: F.silu(gate) * up,
    cases={
        "7 × 1,000": lambda randn: (randn(7, 1000), randn(7, 1000)),
        "5 × 33": lambda randn: (randn(5, 33), randn(5, 33)),
        "1 × 1": lambda randn: (randn(1, 1), randn(1, 1)),
        "2 × 4,096": lambda randn: (randn(2, 4096), randn(2, 4096)),
        "gates beyond 100": lambda randn: (200 * randn(3, 100), randn(3, 100)),
        "not contiguous: the halves of one tensor": lambda randn: tuple(randn(6, 500).chunk(2, dim=1)),
        "float16": lambda randn: tuple(3 * randn(2, 5, 300).half()),
        "large: 11 × 10,007": lambda randn: (randn(11, 10_007), randn(11, 10_007)),
    },
    heavy=lambda randn: tuple(randn(2**13, 8192).chunk(2, dim=1)),
    frugal=("launches", "reads"),
    solution=(swiglu_kernel, swiglu),
    hints=(
        "Row and block of columns come from `tl.program_id(0)` and `tl.program_id(1)`; each of the three tensors has a "
        "stride of its own for the row.",
        "`sigmoid(x) = 1 / (1 + exp(-x))`, so the first two factors are `gate / (1 + exp(-gate))`. There is "
        "`tl.sigmoid`, too.",
        "For a gate of -200, `exp(200)` is infinite, and dividing by infinity gives 0: right. In the form "
        "`exp(x) / (1 + exp(x))` a gate of 200 gives infinity over infinity: NaN.",
    ),
    explanation=prose("""
        Three tensors move instead of five, and nothing is stored between the two operations. Of the two ways to write
        a sigmoid only one survives large arguments; such a choice is often all that there is to *numerical
        stability*. The halves need no copy: the row's stride is that of the whole matrix.
    """),
    wrong={
        "gate and up are swapped": Wrong(
            {"gate / (1.0 + tl.exp(-gate)) * up": "up / (1.0 + tl.exp(-up)) * gate"}, "7 × 1,000: "
        ),
        "the sign of the exponent": Wrong({"tl.exp(-gate)": "tl.exp(gate)"}, "7 × 1,000: "),
        "the sigmoid alone": Wrong({"gate / (1.0": "1.0 / (1.0"}, "look at the formula"),
        "infinity over infinity": Wrong(
            {"gate / (1.0 + tl.exp(-gate))": "gate * tl.exp(gate) / (1.0 + tl.exp(gate))"}, "gates beyond 100: "
        ),
        "rows are taken to be contiguous": Wrong({"row * stride_um": "row * n_cols"}, "is an index times the stride"),
    },
)


@triton.jit
def max_pool_indices_kernel(
    x_ptr, out_ptr, n_channels, height, width, out_height, out_width,
    stride_xn, stride_xc, stride_xh, stride_xw, BLOCK: tl.constexpr,
):
    plane = tl.program_id(0).to(tl.int64)  # one channel of one image
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < out_height * out_width
    top = pixel // out_width * 2 - 1
    left = pixel % out_width * 2 - 1
    x_ptr += plane // n_channels * stride_xn + plane % n_channels * stride_xc

    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    index = tl.zeros((BLOCK,), tl.int32)
    for element in range(9):
        h = top + element // 3
        w = left + element % 3
        #> ...  # load this element of all windows; where it is larger than the best so far, remember it and its place
        inside = exists & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        x = tl.load(x_ptr + h * stride_xh + w * stride_xw, mask=inside, other=-float("inf"))
        larger = x > best
        best = tl.where(larger, x, best)
        index = tl.where(larger, h * width + w, index)
        #<
    tl.store(out_ptr + plane * out_height * out_width + pixel, index, mask=exists)


def max_pool_indices(x, out):
    n_images, n_channels, height, width = x.shape
    grid = (n_images * n_channels, triton.cdiv(out.shape[2] * out.shape[3], 1024))
    max_pool_indices_kernel[grid](x, out, n_channels, height, width, *out.shape[2:], *x.stride(), BLOCK=1024)


INDICES = Exercise(
    name="building_blocks.max_pool_indices",
    task=prose("""
        ### Exercise 3: where the maximum was

        `F.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)` also says where each maximum stood, as the number
        `h * width + w` of a pixel in its plane: the backward pass needs it, and so does `max_unpool2d`. Compute
        the indices, without the values. `top` and `left` are the row and the column where each window begins, -1 in the
        padding. Of several equal numbers the first one counts, in reading order. `x` may have any strides, `out` is
        contiguous.
    """),
    reference=lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1].contiguous(),
    cases={
        "2 × 3 × 9 × 9": lambda randn: (randn(2, 3, 9, 9),),
        "1 × 2 × 16 × 11": lambda randn: (randn(1, 2, 16, 11),),
        "1 × 1 × 1 × 1": lambda randn: (randn(1, 1, 1, 1),),
        "nothing but negative numbers": lambda randn: (randn(1, 2, 7, 8) - 10,),
        "many equal numbers": lambda randn: (randn(2, 2, 10, 13).round(),),
        "not contiguous: channels last": lambda randn: (randn(2, 8, 8, 3).permute(0, 3, 1, 2),),
        "large: 1 × 3 × 200 × 199": lambda randn: (randn(1, 3, 200, 199),),
    },
    heavy=lambda randn: (randn(64, 64, 112, 112),),
    solution=(max_pool_indices_kernel, max_pool_indices),
    hints=(
        "An element counts where it is inside the image: `h` in 0 … `height - 1` and `w` in 0 … `width - 1`. Elsewhere "
        "`other=-float(\"inf\")` lets it lose every comparison.",
        "`larger = x > best` is a block of booleans; `tl.where(larger, …, …)` updates both blocks, the value and the "
        "index, with the same choice.",
        "`x = tl.load(x_ptr + h * stride_xh + w * stride_xw, mask=inside, other=-float(\"inf\"))`, then "
        "`best = tl.where(larger, x, best)` and `index = tl.where(larger, h * width + w, index)`. With `>=` the last "
        "of several equal numbers would win.",
    ),
    explanation=prose("""
        The running maximum carries a companion. `tl.where` with one mask keeps the two in step, whatever else there is
        to be remembered of the winner. The index counts pixels of the image, not of the padded one and not of memory:
        it is `h * width + w` for any strides.

        Nine loads a window, with a stride of two: each element is loaded by two or three windows. Most of these loads
        are answered by the cache, as in step 6.
    """),
    wrong={
        "of equal numbers the last": Wrong({"x > best": "x >= best"}, "many equal numbers: "),
        "padding with 0": Wrong({"mask=inside, other=-float(\"inf\")": "mask=inside, other=0.0"}, "-inf in a maximum"),
        "rows as long as the output's": Wrong({"h * width + w": "h * out_width + w"}, "2 × 3 × 9 × 9: "),
        "the place in the window": Wrong({"h * width + w, index": "element, index"}, "2 × 3 × 9 × 9: "),
        "the edge is not masked": Wrong(
            {"inside = exists & (h >= 0) & (h < height) & (w >= 0) & (w < width)": "inside = exists"},
            "A load reached outside",
        ),
        "the index is not kept in step": Wrong(
            {"        larger = x > best\n        best = tl.where(larger, x, best)\n":
             "        best = tl.maximum(x, best)\n        larger = x > best\n"},
            "2 × 3 × 9 × 9: ",
        ),
        "x is taken to be contiguous": Wrong(
            {"h * stride_xh + w * stride_xw": "h * width + w"}, "is an index times the stride"
        ),
    },
)


@functools.lru_cache(maxsize=64)
def uniform(seed: int, n: int, device: torch.device) -> torch.Tensor:
    """tl.rand(seed, offsets) for the offsets 0 to n - 1: Philox 4x32 with 10 rounds (Salmon and others, 2011)."""
    low = 0xFFFFFFFF

    def high(a, b):  # the upper 32 bits of a product, without the 64 that int64 does not have
        return (a >> 16) * b + ((a & 0xFFFF) * b >> 16) >> 16

    c0 = torch.arange(n, device=device)
    c1 = c2 = c3 = torch.zeros_like(c0)
    k0, k1 = seed & low, seed >> 32 & low
    for _ in range(10):
        c0, c1, c2, c3 = (
            high(0xCD9E8D57, c2) ^ c1 ^ k0, 0xCD9E8D57 * c2 & low, high(0xD2511F53, c0) ^ c3 ^ k1, 0xD2511F53 * c0 & low
        )
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return torch.minimum(c0, low - c0).float() * 4.6566127342e-10


@triton.jit
def dropout_add_kernel(x_ptr, residual_ptr, out_ptr, p, seed, n, stride_x, stride_r, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs * stride_x, mask=mask)
    residual = tl.load(residual_ptr + offs * stride_r, mask=mask)
    #> keep = ...  # 1. which elements stay: those whose random number is not less than p
    #> out = ...   # 2. those, enlarged by 1 / (1 - p), and the residual
    keep = tl.rand(seed, offs) >= p
    out = tl.where(keep, x / (1 - p), 0.0) + residual
    #<
    tl.store(out_ptr + offs, out, mask=mask)


def dropout_add(x, residual, p, seed, out):
    n = out.numel()
    dropout_add_kernel[(triton.cdiv(n, 4096),)](
        x, residual, out, p, seed, n, x.stride(0), residual.stride(0), BLOCK=4096
    )


def dropout_add_reference(x, residual, p, seed):
    keep = uniform(seed, x.numel(), x.device) >= p
    return torch.where(keep, x / (1 - p), 0.0) + residual


DROPOUT = Exercise(
    name="building_blocks.dropout_add",
    task=prose("""
        ### Exercise 4: dropout without a mask

        In training, dropout sets each element to 0 with probability `p`, and enlarges the others by `1 / (1 - p)`, so
        that the mean stays. PyTorch stores which ones it kept, for the backward pass. A kernel need not: `tl.rand(seed,
        offs)` computes a random number in [0, 1) for each offset, from seed and offset alone. The same seed makes the
        same choice again, in any kernel and on any machine, so that even dropout can be checked number by number.
        Write it with the residual added: element `i` is kept if `tl.rand(seed, i) >= p`.
    """),
    reference=dropout_add_reference,
    cases={
        "1,000 elements, p = 0.5": lambda randn: (randn(1000), randn(1000), 0.5, 42),
        "3,333 elements, p = 0.1": lambda randn: (randn(3333), randn(3333), 0.1, 7),
        "1 element": lambda randn: (randn(1), randn(1), 0.25, 3),
        "8,192 elements, p = 0.9": lambda randn: (randn(8192), randn(8192), 0.9, 123_456_789),
        "p = 0": lambda randn: (randn(500), randn(500), 0.0, 1),
        "infinities that are dropped": lambda randn: (
            torch.where(uniform(5, 800, torch.device("cpu")) < 0.5, torch.inf, randn(800)), randn(800), 0.5, 5
        ),
        "not contiguous: every second": lambda randn: (randn(1400)[::2], randn(700), 0.3, 11),
        "large: 100,003 elements": lambda randn: (randn(100_003), randn(100_003), 0.2, 2**31 - 1),
    },
    heavy=lambda randn: (randn(2**25), randn(2**25), 0.1, 42),
    solution=(dropout_add_kernel, dropout_add),
    hints=(
        "`tl.rand(seed, offs)` gives a block of random numbers, one for each of `offs`. Comparing it with `p` gives a "
        "block of booleans.",
        "`tl.where(keep, a, b)` takes `a` where an element stays. Multiplying by 0 instead would make NaN of an "
        "infinity that should be gone.",
        "`keep = tl.rand(seed, offs) >= p` and `out = tl.where(keep, x / (1 - p), 0.0) + residual`.",
    ),
    explanation=prose("""
        A *counter-based* generator is a function of a key and a counter, here seed and offset: ten rounds of
        multiplying and mixing (Philox; Salmon and others, 2011). It has no state that programs would have to share, and
        any element's number can be computed at any time, by anybody: the reference of this exercise is the same
        function written in PyTorch. The backward pass calls it again, and a mask is never stored or read.

        The offsets must be the elements' own. With `tl.arange(0, BLOCK)` alone every program would drop the same
        places, and no test of the mean would notice.
    """),
    wrong={
        "kept and dropped are exchanged": Wrong({"tl.rand(seed, offs) >= p": "tl.rand(seed, offs) < p"}, "0.5: "),
        "not enlarged": Wrong({"x / (1 - p)": "x"}, "1,000 elements, p = 0.5: "),
        "every program drops the same places": Wrong(
            {"tl.rand(seed, offs)": "tl.rand(seed, tl.arange(0, BLOCK))"}, "8,192 elements, p = 0.9: "
        ),
        "multiplied by 0": Wrong({"tl.where(keep, x / (1 - p), 0.0)": "keep * x / (1 - p)"}, "infinities that are"),
        "the residual is dropped, too": Wrong(
            {"tl.where(keep, x / (1 - p), 0.0) + residual": "tl.where(keep, x / (1 - p) + residual, 0.0)"}, "0.5: "
        ),
    },
)


@triton.jit
def fold_kernel(
    filters_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, out_ptr, eps, length, stride_fm, stride_fn,
    BLOCK: tl.constexpr,
):
    #> ...  # one program a filter: its numbers, scaled, and behind them the bias that it gets
    channel = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK)
    scale = tl.load(weight_ptr + channel) * tl.rsqrt(tl.load(var_ptr + channel) + eps)
    filters = tl.load(filters_ptr + channel * stride_fm + offs * stride_fn, mask=offs < length)
    out_ptr += channel * (length + 1)
    tl.store(out_ptr + offs, filters * scale, mask=offs < length)
    tl.store(out_ptr + length, tl.load(bias_ptr + channel) - tl.load(mean_ptr + channel) * scale)
    #<


def fold(filters, mean, var, weight, bias, out):
    n_channels, length = filters.shape
    fold_kernel[(n_channels,)](
        filters, mean, var, weight, bias, out, 1e-5, length, filters.stride(0), filters.stride(1),
        BLOCK=triton.next_power_of_2(length),
    )


def fold_reference(filters, mean, var, weight, bias):
    scale = weight * torch.rsqrt(var + 1e-5)
    return torch.cat((filters * scale[:, None], (bias - mean * scale)[:, None]), dim=1)


def filters(n_channels, length):
    def make(randn):
        mean, deviation, weight, bias = randn(4, n_channels)
        return randn(n_channels, length), mean, deviation**2 + 0.01, weight, bias

    return make


FOLD = Exercise(
    name="building_blocks.fold",
    task=prose("""
        ### Exercise 5: folding

        Fold a batch norm into the convolution before it, as in step 5, on the GPU. `filters` has a row for each output
        channel, its `in_channels * kernel_h * kernel_w` numbers; the convolution has no bias of its own. Row `c` of
        `out`, which is contiguous, is the scaled filter, and one number more, at its end, the bias. Write the body,
        one program a channel.
    """),
    reference=fold_reference,
    cases={
        "64 × 27": filters(64, 27),
        "16 × 576": filters(16, 576),
        "1 × 1": filters(1, 1),
        "5 × 129": filters(5, 129),
        "transposed 12 × 30": lambda randn: (randn(30, 12).T, *filters(12, 1)(randn)[1:]),
        "large: 25 × 4,609": filters(25, 4609),
    },
    heavy=filters(2**13, 4608),
    solution=(fold_kernel, fold),
    hints=(
        "All numbers of a filter are multiplied by the same one: `scale = weight / sqrt(var + eps)` of its channel. "
        "`tl.load(weight_ptr + channel)` loads a single number.",
        "`norm(conv(x)) = (conv(x) - mean) * scale + bias = conv(x) * scale + (bias - mean * scale)`: the last bracket "
        "is the bias of the folded convolution.",
        "A row of `out` has `length + 1` numbers, so the row of channel `c` begins at `c * (length + 1)`, and the bias "
        "goes to `out_ptr + channel * (length + 1) + length`. A second `tl.store` writes a single number.",
    ),
    explanation=prose("""
        A convolution is linear, and so is a batch norm with given statistics: a product of the two is one convolution
        again. It is done once, when the model is loaded, and from then on the norm costs nothing at all.

        Loads and stores of single numbers are nothing special: a pointer without a block of offsets.
    """),
    wrong={
        "the bias is scaled": Wrong(
            {"tl.load(bias_ptr + channel) - tl.load(mean_ptr + channel) * scale":
             "(tl.load(bias_ptr + channel) - tl.load(mean_ptr + channel)) * scale"},
            "64 × 27: ",
        ),
        "the mean is not scaled": Wrong({"tl.load(mean_ptr + channel) * scale": "tl.load(mean_ptr + channel)"}, "out["),
        "rows without room for the bias": Wrong(
            {"channel * (length + 1)": "channel * length"}, "in no defined order"
        ),
        "no eps": Wrong({"tl.rsqrt(tl.load(var_ptr + channel) + eps)": "tl.rsqrt(tl.load(var_ptr + channel))"},
                        "a small term is missing"),
        "the root is missing": Wrong(
            {"tl.rsqrt(tl.load(var_ptr + channel) + eps)": "1.0 / (tl.load(var_ptr + channel) + eps)"}, "64 × 27: "
        ),
    },
)

EXERCISES = (FILL_IN, SWIGLU, INDICES, DROPOUT, FOLD)
