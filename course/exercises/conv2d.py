"""Exercises of the chapter on convolution (notebooks/conv2d.ipynb)."""
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


def channels_last(x):
    return x.to(memory_format=torch.channels_last)


def operations(x, weight, stride=1, padding=0, dilation=1):
    """A multiplication and an addition for each of the C * R * S terms of each output element."""
    return 2 * F.conv2d(x[:1], weight, None, stride, padding, dilation).numel() * len(x) * weight[0].numel()


@triton.jit
def my_conv2d_kernel(
    x_ptr, w_ptr, out_ptr, n_pixels, H, W, K, P, Q, stride, padding, dilation, x_strides, out_strides,
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = (m // (P * Q)).to(tl.int64), m // Q % P, m % Q
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, C * R * S, BLOCK_K):
        terms = start + tl.arange(0, BLOCK_K)
        #> c, r, s = ...  # 1. channel, row and column of the filter for each of the BLOCK_K terms
        #> h = ...        # 2. the row of x that each pixel meets at each term: a tile of BLOCK_M by BLOCK_K
        #> w = ...        # 3. and the column
        #> inside = ...   # 4. where there is a pixel, a term, and an element of x for the two
        c, r, s = terms // (R * S), terms // S % R, terms % S
        h = (p * stride - padding)[:, None] + (r * dilation)[None, :]
        w = (q * stride - padding)[:, None] + (s * dilation)[None, :]
        inside = (m < n_pixels)[:, None] & (terms < C * R * S)[None, :] & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        #<
        offs = n[:, None] * x_strides[0] + c[None, :] * x_strides[1] + h * x_strides[2] + w * x_strides[3]
        x = tl.load(x_ptr + offs, mask=inside, other=0.0)
        there = (terms < C * R * S)[:, None] & (k < K)[None, :]
        weight = tl.load(w_ptr + k[None, :] * (C * R * S) + terms[:, None], mask=there, other=0.0)
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    pixels = n * out_strides[0] + p * out_strides[2] + q * out_strides[3]
    there = (m < n_pixels)[:, None] & (k < K)[None, :]
    tl.store(out_ptr + pixels[:, None] + k[None, :] * out_strides[1], acc, mask=there)


def my_conv2d(x, weight, stride, padding, dilation, out):
    weight = weight.contiguous()
    (N, K, P, Q), (_, C, R, S) = out.shape, weight.shape
    grid = (triton.cdiv(N * P * Q, 128), triton.cdiv(K, 32))
    my_conv2d_kernel[grid](
        x, weight, out, N * P * Q, *x.shape[2:], K, P, Q, stride, padding, dilation, x.stride(), out.stride(),
        C=C, R=R, S=S, BLOCK_M=128, BLOCK_N=32, BLOCK_K=32,
    )


FILL_IN = Exercise(
    name="conv2d.fill_in",
    task=prose("""
        ### Exercise 1: the same sum in another order

        An implicit GEMM for PyTorch's default layout, and with a *dilation*: filter row `r` meets image row `p * stride
        - padding + r * dilation`, so that the taps lie that far apart. The weights are read as they lie in memory,
        filter by filter in the order `c`, `r`, `s`, with `s` innermost. So this is the order of the terms, too, and not
        the `r`, `s`, `c` of step 3. Fill in the index arithmetic, the four places with `...`.
    """),
    reference=lambda x, weight, stride, padding, dilation: F.conv2d(x, weight, None, stride, padding, dilation),
    cases={
        "8 × 8, 3 × 3": lambda randn: (randn(1, 8, 8, 8), randn(16, 8, 3, 3), 1, 1, 1),
        "everything 1": lambda randn: (randn(1, 1, 1, 1), randn(1, 1, 1, 1), 1, 0, 1),
        "13 × 11, stride 2": lambda randn: (randn(2, 3, 13, 11), randn(5, 3, 3, 3), 2, 1, 1),
        "5 × 3 taps, unpadded": lambda randn: (randn(2, 5, 9, 7), randn(33, 5, 5, 3), 1, 0, 1),
        "dilation 2": lambda randn: (randn(1, 4, 12, 9), randn(4, 4, 3, 3), 1, 2, 2),
        "not contiguous: channels_last": lambda randn: (channels_last(randn(2, 6, 7, 9)), randn(7, 6, 3, 3), 1, 1, 1),
        "not contiguous: every second row": lambda randn: (randn(3, 3, 16, 9)[:, :, ::2], randn(7, 3, 3, 3), 1, 1, 1),
        "float16": lambda randn: (randn(1, 16, 9, 9).half(), randn(16, 16, 3, 3).half(), 1, 1, 1),
        "float16, long sums": lambda randn: (randn(1, 456, 5, 5).half(), randn(8, 456, 3, 3).half(), 1, 0, 1),
        "large: 64 channels, 40 × 40, stride 2": lambda randn: (
            randn(1, 64, 40, 40), randn(8, 64, 3, 3), 2, 0, 1
        ),
    },
    heavy=lambda randn: (randn(32, 64, 56, 56, dtype=torch.float16), randn(64, 64, 3, 3, dtype=torch.float16), 1, 1, 1),
    operations=operations,
    solution=(my_conv2d_kernel, my_conv2d),
    hints=(
        "Take a term's number apart as if it were a date in seconds: the innermost index is the remainder by its "
        "size, the outermost the quotient by the product of all sizes below it, the middle one needs both.",
        "`s` is innermost, with `S` values, then `r` with `R`, then `c`: `s = terms % S`, `r = terms // S % R`, and "
        "`c = terms // (R * S)`. Rows and columns are those of step 3, with `r * dilation` for `r`.",
        "`h = (p * stride - padding)[:, None] + (r * dilation)[None, :]`, `w` likewise from `q` and `s`. `inside` "
        "needs `m < n_pixels` down the tile, `terms < C * R * S` across it, and `h` and `w` between 0 and the image's "
        "size.",
    ),
    explanation=prose("""
        A number that counts in several indices at once is taken apart by division, whatever their order: here `terms =
        (c * R + r) * S + s`. In step 3 it was `(r * S + s) * C + c`. The order of the terms is free, a sum is a sum,
        but `x` and `weight` have to use the same one, and it decides which elements are loaded side by side. With `s`
        innermost three neighbours at most lie next to each other in a row of the image, and then comes the next row.

        The mask asks three questions: is there such a pixel (the last block has too many), is there such a term (the
        last step has too many), and is the element in the image (if not, it belongs to the padding and is 0)?
    """),
    wrong={
        "the terms in the order r, s, c": Wrong(
            {"terms // (R * S), terms // S % R, terms % S": "terms % C, terms // (S * C), terms // C % S"},
            "look at the formula",
        ),
        "sums in the type of x": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_N), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_N), x_ptr.dtype.element_ty)",
             'tl.dot(x, weight, acc, input_precision="ieee")':
             '(acc + tl.dot(x, weight, input_precision="ieee")).to(x.dtype)'},
            "long sums: ",
        ),
        "r and s are swapped": Wrong({"terms // S % R, terms % S": "terms % R, terms // R % S"}, "elements are wrong"),
        "the padding is added": Wrong({"p * stride - padding": "p * stride + padding"}, "look at the formula"),
        "the mask forgets the upper edge": Wrong({"(h >= 0) & ": ""}, "A load reached outside"),
        "the mask forgets the right edge": Wrong({" & (w < W)": ""}, "A load reached outside"),
        "the mask forgets the terms": Wrong({" & (terms < C * R * S)[None, :]": ""}, "A load reached outside"),
        "the taps stay side by side": Wrong({"(s * dilation)": "s"}, "dilation 2: "),
        "windows do not move": Wrong({"(q * stride - padding)": "(q - padding)"}, "13 × 11, stride 2: "),
    },
)


@triton.jit
def pointwise_kernel(
    x_ptr, w_ptr, out_ptr, n_pixels, C, K, P, Q, stride, x_strides, out_strides,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    #> ...  # a tile of sums: BLOCK_M pixels by BLOCK_N filters, BLOCK_K channels a step
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = (m // (P * Q)).to(tl.int64), m // Q % P, m % Q
    x_pixels = n * x_strides[0] + p * stride * x_strides[2] + q * stride * x_strides[3]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, C, BLOCK_K):
        c = start + tl.arange(0, BLOCK_K)
        inside = (m < n_pixels)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + x_pixels[:, None] + c[None, :] * x_strides[1], mask=inside, other=0.0)
        there = (c < C)[:, None] & (k < K)[None, :]
        weight = tl.load(w_ptr + c[:, None] + k[None, :] * C, mask=there, other=0.0)
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    out_pixels = n * out_strides[0] + p * out_strides[2] + q * out_strides[3]
    there = (m < n_pixels)[:, None] & (k < K)[None, :]
    tl.store(out_ptr + out_pixels[:, None] + k[None, :] * out_strides[1], acc, mask=there)
    #<


def pointwise(x, weight, stride, out):
    weight = weight.contiguous()
    (N, K, P, Q), C = out.shape, x.shape[1]
    grid = (triton.cdiv(N * P * Q, 128), triton.cdiv(K, 32))
    pointwise_kernel[grid](
        x, weight, out, N * P * Q, C, K, P, Q, stride, x.stride(), out.stride(), BLOCK_M=128, BLOCK_N=32, BLOCK_K=32
    )


POINTWISE = Exercise(
    name="conv2d.pointwise",
    task=prose("""
        ### Exercise 2: filters of one pixel

        A 1 × 1 convolution has no neighbours to look at: `out[n, k, p, q]` is the sum over `c` of `x[n, c, p * stride,
        q * stride] * weight[k, c]`. It is a matrix product with one row a pixel, no windows, no padding, and nothing
        that im2col would copy. ResNet's shortcuts are made of it, with a stride of 2. Write the kernel. The rows of its
        left matrix lie where the pixels do. A step is `BLOCK_K` channels, and `tl.dot(…, input_precision="ieee")` makes
        float32 exact enough for the check.
    """),
    reference=lambda x, weight, stride: F.conv2d(x, weight, None, stride),
    cases={
        "8 × 8, 16 channels": lambda randn: (randn(1, 16, 8, 8), randn(16, 16, 1, 1), 1),
        "everything 1": lambda randn: (randn(1, 1, 1, 1), randn(1, 1, 1, 1), 1),
        "13 × 11, 35 channels": lambda randn: (randn(2, 35, 13, 11), randn(37, 35, 1, 1), 1),
        "stride 2": lambda randn: (randn(2, 16, 9, 12), randn(32, 16, 1, 1), 2),
        "stride 3, not contiguous: channels_last": lambda randn: (
            channels_last(randn(2, 24, 10, 11)), randn(8, 24, 1, 1), 3
        ),
        "not contiguous: every second channel": lambda randn: (randn(2, 32, 5, 7)[:, ::2], randn(8, 16, 1, 1), 1),
        "float16": lambda randn: (randn(1, 48, 9, 9).half(), randn(16, 48, 1, 1).half(), 1),
        "float16, long sums": lambda randn: (randn(1, 4096, 4, 4).half(), randn(8, 4096, 1, 1).half(), 1),
        "large: 100 channels, 32 × 33, stride 2": lambda randn: (randn(1, 100, 32, 33), randn(8, 100, 1, 1), 2),
    },
    heavy=lambda randn: (
        channels_last(randn(128, 256, 28, 28, dtype=torch.float16)), randn(512, 256, 1, 1, dtype=torch.float16), 2
    ),
    operations=operations,
    solution=(pointwise_kernel, pointwise),
    hints=(
        "Start from the matrix product's tiles. Only where a row of `a` lies is different: row `m` is pixel `n, p, "
        "q`, with `n = m // (P * Q)`, `p = m // Q % P`, `q = m % Q`.",
        "Row `m` begins at `n * x_strides[0] + p * stride * x_strides[2] + q * stride * x_strides[3]`, and from one "
        "channel to the next it is `x_strides[1]`. The weights are `C` neighbours for each filter: `w_ptr + k * C + "
        "c`.",
        "Load `x` as a tile of pixels by channels with a mask of `m < n_pixels` and `c < C`, load `weight` as "
        "channels by filters, accumulate with `tl.dot`. The result's pixels lie at `n * out_strides[0] + p * "
        "out_strides[2] + q * out_strides[3]`, without the stride, its channels `out_strides[1]` apart.",
    ),
    explanation=prose("""
        With a stride of 1 and channels_last there is nothing left of the convolution at all: all pixels of all images
        are the rows of one contiguous matrix, `x.permute(0, 2, 3, 1).view(N * H * W, C)`, and `linear` would do. With a
        stride of 2 the rows have gaps between them, which cost nothing but the address. Of the image only a quarter is
        read. No tap can lie outside, so that the mask needs no `h` and no `w`.
    """),
    wrong={
        "sums in the type of x": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_N), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_N), x_ptr.dtype.element_ty)",
             'tl.dot(x, weight, acc, input_precision="ieee")':
             '(acc + tl.dot(x, weight, input_precision="ieee")).to(x.dtype)'},
            "long sums: ",
        ),
        "the stride is forgotten along the rows": Wrong(
            {"q * stride * x_str": "q * x_str"}, "Only the first column is right"
        ),
        "the stride is used for the result, too": Wrong(
            {"p * out_strides[2]": "p * stride * out_strides[2]"}, "A store went past the output"
        ),
        "the last channels are not masked": Wrong({" & (c < C)[None, :]": ""}, "A load reached outside"),
        "the weights are transposed": Wrong(
            {"c[:, None] + k[None, :] * C": "c[:, None] * K + k[None, :]"}, "look at the formula"
        ),
        "x is taken to be contiguous": Wrong({"c[None, :] * x_strides[1]": "c[None, :] * P * Q"}, "stride 2: "),
        "one image only": Wrong({"n * x_strides[0] + ": ""}, "Only the first image is right"),
    },
)


@triton.jit
def my_block_end_kernel(
    x_ptr, w_ptr, scale_ptr, shift_ptr, residual_ptr, out_ptr, n_pixels, H, W, K,
    C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    p, q = m // W % H, m % W
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, 9 * C, BLOCK_K):
        terms = start + tl.arange(0, BLOCK_K)
        r, s, c = terms // (3 * C) - 1, terms // C % 3 - 1, terms % C
        h, w = p[:, None] + r[None, :], q[:, None] + s[None, :]
        inside = (m < n_pixels)[:, None] & (terms < 9 * C)[None, :] & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        pixels = m.to(tl.int64)[:, None] + (r * W + s)[None, :]
        x = tl.load(x_ptr + pixels * C + c[None, :], mask=inside, other=0.0)
        there = (terms < 9 * C)[:, None] & (k < K)[None, :]
        weight = tl.load(w_ptr + k[None, :] * (9 * C) + terms[:, None], mask=there, other=0.0)
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    there = (m < n_pixels)[:, None] & (k < K)[None, :]
    offs = m.to(tl.int64)[:, None] * K + k[None, :]
    #> scale = ...     # 1. of each filter
    #> shift = ...
    #> residual = ...  # 2. of each element of the tile
    #> y = ...         # 3. the formula, in float32
    scale = tl.load(scale_ptr + k, mask=k < K)
    shift = tl.load(shift_ptr + k, mask=k < K)
    residual = tl.load(residual_ptr + offs, mask=there)
    y = tl.maximum(acc * scale[None, :] + shift[None, :] + residual.to(tl.float32), 0.0)
    #<
    tl.store(out_ptr + offs, y, mask=there)


def my_block_end(x, weight, scale, shift, residual, out):
    (N, C, H, W), K = x.shape, len(weight)
    weight = weight.permute(0, 2, 3, 1).contiguous()
    grid = (triton.cdiv(N * H * W, 128), triton.cdiv(K, 32))
    my_block_end_kernel[grid](
        x, weight, scale, shift, residual, out, N * H * W, H, W, K, C=C, BLOCK_M=128, BLOCK_N=32, BLOCK_K=32
    )


def inputs_of_block_end(n, c, k, h, w, dtype=torch.float32):
    """The inputs of a residual block's last layer, everything channels_last.

    The scale is small: PyTorch rounds the convolution to float16 before it is scaled, and that must not show.
    """

    def make(randn):
        x, residual = (channels_last(randn(n, channels, h, w)).to(dtype) for channels in (c, k))
        return x, (randn(k, c, 3, 3) * (9 * c) ** -0.5).to(dtype), randn(k) / 10, randn(k), residual

    return make


BLOCK_END = Exercise(
    name="conv2d.block_end",
    task=prose("""
        ### Exercise 3: a residual block's end

        `relu(conv2d(x, weight, padding=1) * scale + shift + residual)`, in one kernel: 3 × 3 filters, everything
        channels_last. The norm is not folded here. Its `scale` and `shift`, float32 and one a filter, are applied to
        the sums. The loop is given; it knows that the size of the image does not change, and so one pixel's offset is
        enough to find all nine. Write the epilogue. `x`, `weight`, `residual` and `out` may be float16: compute in
        float32, and let the store round.
    """),
    reference=lambda x, weight, scale, shift, residual: F.relu(
        F.conv2d(x, weight, padding=1) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1) + residual
    ).to(residual.dtype),
    cases={
        "8 × 8, 16 channels": inputs_of_block_end(1, 16, 16, 8, 8),
        "1 × 1 × 1": inputs_of_block_end(1, 1, 1, 1, 1),
        "13 × 11, 5 to 35 channels": inputs_of_block_end(2, 5, 35, 13, 11),
        "1 × 7": inputs_of_block_end(3, 16, 20, 1, 7),
        "7 × 7, 40 to 24 channels": inputs_of_block_end(3, 40, 24, 7, 7),
        "float16": inputs_of_block_end(2, 16, 33, 9, 9, torch.float16),
        "large: 3 to 64 channels, 40 × 40": inputs_of_block_end(1, 3, 64, 40, 40),
    },
    heavy=inputs_of_block_end(64, 64, 64, 56, 56, torch.float16),
    operations=lambda x, weight, scale, shift, residual: operations(x, weight, 1, 1),
    frugal=("launches",),
    solution=(my_block_end_kernel, my_block_end),
    hints=(
        "Scale and shift are vectors of `BLOCK_N`, one number for each of the filters `k`; the residual is a tile "
        "like `acc`, and lies in memory just as `out` does.",
        "The residual is read from the very offsets that the result is written to: `residual_ptr + offs`, masked by "
        "`there`. A vector of filters meets the tile as `[None, :]`.",
        "`y = tl.maximum(acc * scale[None, :] + shift[None, :] + residual.to(tl.float32), 0.0)`.",
    ),
    explanation=prose("""
        Everything after the loop happens in registers, on sums that are there anyway, so that it adds a read of the
        residual and nothing else. Done one by one, each of the four operations would read the whole result, and write
        it. `there` masks the loads as well: the block's last pixels and filters do not exist.

        Why then fold the norm, as step 5 does? A scale that is constant can be multiplied into the weights once and for
        all, and two vectors become one. Where it is not known before, as with weights of 8 bits whose scale comes with
        them, this is how it is done.
    """),
    wrong={
        "the ReLU comes before the residual": Wrong(
            {"tl.maximum(acc * scale[None, :] + shift[None, :] + residual.to(tl.float32), 0.0)":
             "tl.maximum(acc * scale[None, :] + shift[None, :], 0.0) + residual.to(tl.float32)"},
            "elements are wrong",
        ),
        "scale and shift along the pixels": Wrong(
            {"scale_ptr + k, mask=k < K": "scale_ptr + m % K", "scale[None, :]": "scale[:, None]"}, "elements are wrong"
        ),
        "no residual": Wrong({" + residual.to(tl.float32)": ""}, "elements are wrong"),
        "the scale has no mask": Wrong({"scale_ptr + k, mask=k < K": "scale_ptr + k"}, "A load reached outside"),
        "the residual has no mask": Wrong({"residual_ptr + offs, mask=there": "residual_ptr + offs"},
                                          "A load reached outside"),
        "the residual of the first pixels": Wrong(
            {"residual_ptr + offs,": "residual_ptr + offs - m[:, None] // W * W * K,"}, "elements are wrong"
        ),
    },
)


@triton.jit
def depthwise_kernel(
    x_ptr, w_ptr, out_ptr, n_pixels, C, H, W, P, Q, stride, padding, x_strides, out_strides,
    R: tl.constexpr, S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):
    #> ...  # a tile of BLOCK_M pixels by BLOCK_C channels, one tap after the other, without tl.dot
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    n, p, q = (m // (P * Q)).to(tl.int64), m // Q % P, m % Q
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for r in range(R):
        for s in range(S):
            h, w = p * stride - padding + r, q * stride - padding + s
            inside = (m < n_pixels) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            pixels = n * x_strides[0] + h * x_strides[2] + w * x_strides[3]
            there = inside[:, None] & (c < C)[None, :]
            x = tl.load(x_ptr + pixels[:, None] + c[None, :] * x_strides[1], mask=there, other=0.0)
            weight = tl.load(w_ptr + c * (R * S) + r * S + s, mask=c < C, other=0.0)
            acc += x.to(tl.float32) * weight.to(tl.float32)[None, :]
    pixels = n * out_strides[0] + p * out_strides[2] + q * out_strides[3]
    there = (m < n_pixels)[:, None] & (c < C)[None, :]
    tl.store(out_ptr + pixels[:, None] + c[None, :] * out_strides[1], acc, mask=there)
    #<


def depthwise(x, weight, stride, padding, out):
    weight = weight.contiguous()
    (N, C, P, Q), (R, S) = out.shape, weight.shape[2:]
    grid = (triton.cdiv(N * P * Q, 128), triton.cdiv(C, 32))
    depthwise_kernel[grid](
        x, weight, out, N * P * Q, C, *x.shape[2:], P, Q, stride, padding, x.stride(), out.stride(),
        R=R, S=S, BLOCK_M=128, BLOCK_C=32,
    )


DEPTHWISE = Exercise(
    name="conv2d.depthwise",
    task=prose("""
        ### Exercise 4: every channel for itself

        In a *depthwise* convolution, PyTorch's `groups=C`, filter `c` sees channel `c` and no other: `out[n, c, p, q]`
        is the sum over `r` and `s` of `x[n, c, h, w] * weight[c, 0, r, s]`. MobileNet and ConvNeXt are built on it. A
        sum has only `R * S` terms, and no element of `x` serves more than one filter: as a matrix product it would be
        nearly empty. So go back to step 1, but give a program a tile of pixels by channels, and any strides. Sums are
        float32.
    """),
    reference=lambda x, weight, stride, padding: F.conv2d(x, weight, None, stride, padding, groups=x.shape[1]),
    cases={
        "8 × 8, 32 channels": lambda randn: (randn(1, 32, 8, 8), randn(32, 1, 3, 3), 1, 1),
        "everything 1": lambda randn: (randn(1, 1, 1, 1), randn(1, 1, 1, 1), 1, 0),
        "9 × 7, 37 channels": lambda randn: (randn(2, 37, 9, 7), randn(37, 1, 3, 3), 1, 1),
        "5 × 3 taps, stride 2": lambda randn: (randn(1, 5, 12, 9), randn(5, 1, 5, 3), 2, 2),
        "not contiguous: channels_last": lambda randn: (channels_last(randn(1, 40, 7, 9)), randn(40, 1, 3, 3), 1, 1),
        "not contiguous: every second column": lambda randn: (randn(1, 3, 8, 18)[..., ::2], randn(3, 1, 3, 3), 1, 1),
        "float16": lambda randn: (randn(1, 16, 9, 9).half(), randn(16, 1, 5, 5).half(), 1, 2),
        "large: 64 channels, 40 × 40, stride 3": lambda randn: (randn(1, 64, 40, 40), randn(64, 1, 3, 3), 3, 1),
    },
    heavy=lambda randn: (
        channels_last(randn(64, 256, 56, 56, dtype=torch.float16)), randn(256, 1, 3, 3, dtype=torch.float16), 1, 1
    ),
    solution=(depthwise_kernel, depthwise),
    hints=(
        "Two vectors, `m` for the pixels and `c` for the channels, as in the implicit GEMM. But the channels of the "
        "result are those of `x`: there is no second dimension to sum over, only the taps.",
        "At a tap, `h` and `w` are vectors of `BLOCK_M`, and so is the mask that says where they are in the image. "
        "What is loaded is a tile, `pixels[:, None] + c[None, :] * x_strides[1]`. The weights of a tap are a vector "
        "of `BLOCK_C`: `w_ptr + c * (R * S) + r * S + s`.",
        "`acc += x.to(tl.float32) * weight.to(tl.float32)[None, :]` for each of the taps, in two loops, `for r in "
        "range(R)` and `for s in range(S)`. The store is that of the implicit GEMM with `c` for `k`.",
    ),
    explanation=prose("""
        An output element costs `2 * R * S` operations, 18 for 3 × 3, and moves at least four bytes in float16: memory
        decides again, and tensor cores could not help. The tile has channels along its second dimension: in a
        channels_last image these are neighbours in memory. Each element of `x` is loaded nine times, by programs that
        run at about the same time, so that eight of the loads come out of a cache.
    """),
    wrong={
        "the weights of channel 0 for all": Wrong(
            {"w_ptr + c * (R * S)": "w_ptr + c * 0"}, "Only the first channel is right"
        ),
        "the taps are not masked": Wrong({"inside[:, None] & (c < C)": "(m < n_pixels)[:, None] & (c < C)"},
                                         "A load reached outside"),
        "the channels are not masked": Wrong({"(m < n_pixels)[:, None] & (c < C)[None, :]": "(m < n_pixels)[:, None]"},
                                             "A store went past the output"),
        "r and s are swapped": Wrong({"r * S + s": "s * R + r"}, "elements are wrong"),
        "x is taken to be contiguous": Wrong(
            {"h * x_strides[2] + w * x_strides[3]": "h * W + w"}, "is an index times the stride"
        ),
        "sums in float16": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_C), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_C), tl.float16)",
             "acc += x.to(tl.float32) * weight.to(tl.float32)[None, :]": "acc += (x * weight[None, :]).to(tl.float16)"},
            "Nearly right",
        ),
    },
)


@triton.jit
def transposed_kernel(
    x_ptr, w_ptr, out_ptr, n_pixels, C, H, W, K, P, Q, stride, padding, x_strides, out_strides,
    R: tl.constexpr, S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    #> ...  # for each tap: which pixel of x reaches each pixel of the result, if any does, and a tl.dot over channels
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = (m // (P * Q)).to(tl.int64), m // Q % P, m % Q
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for r in range(R):
        for s in range(S):
            up, left = p + padding - r, q + padding - s
            h, w = up // stride, left // stride
            reached = (up >= 0) & (up % stride == 0) & (h < H) & (left >= 0) & (left % stride == 0) & (w < W)
            pixels = n * x_strides[0] + h * x_strides[2] + w * x_strides[3]
            for start in range(0, C, BLOCK_K):
                c = start + tl.arange(0, BLOCK_K)
                inside = (reached & (m < n_pixels))[:, None] & (c < C)[None, :]
                x = tl.load(x_ptr + pixels[:, None] + c[None, :] * x_strides[1], mask=inside, other=0.0)
                there = (c < C)[:, None] & (k < K)[None, :]
                w_offs = (c[:, None] * K + k[None, :]) * (R * S) + r * S + s
                weight = tl.load(w_ptr + w_offs, mask=there, other=0.0)
                acc = tl.dot(x, weight, acc, input_precision="ieee")
    pixels = n * out_strides[0] + p * out_strides[2] + q * out_strides[3]
    there = (m < n_pixels)[:, None] & (k < K)[None, :]
    tl.store(out_ptr + pixels[:, None] + k[None, :] * out_strides[1], acc, mask=there)
    #<


def transposed(x, weight, stride, padding, out):
    weight = weight.contiguous()
    (N, K, P, Q), (C, _, R, S) = out.shape, weight.shape
    grid = (triton.cdiv(N * P * Q, 128), triton.cdiv(K, 32))
    transposed_kernel[grid](
        x, weight, out, N * P * Q, C, *x.shape[2:], K, P, Q, stride, padding, x.stride(), out.stride(),
        R=R, S=S, BLOCK_M=128, BLOCK_N=32, BLOCK_K=32,
    )


TRANSPOSED = Exercise(
    name="conv2d.transposed",
    task=prose("""
        ### Exercise 5: the way back

        A *transposed* convolution enlarges: where a convolution with a stride of 2 gathers a window of `x` into one
        pixel, this one spreads each pixel of `x` over a window of the result. `F.conv_transpose2d(x, weight,
        stride=stride, padding=padding)` is how U-Nets and image decoders get their resolution back, and it is the
        gradient of a convolution. Pixel `h` of `x` reaches row `p = h * stride - padding + r` at tap `r`. Spread like
        that, programs would have to add into each other's results; turn it round instead. For a given `p` and `r`,
        which `h` is it, and when is there one? The weights are `(C, K, R, S)` here, channels first. Write the kernel,
        with `input_precision="ieee"` in its `tl.dot`, as in exercise 2.
    """),
    reference=lambda x, weight, stride, padding: F.conv_transpose2d(x, weight, None, stride, padding),
    cases={
        "4 × 4 to 9 × 9": lambda randn: (randn(1, 16, 4, 4), randn(16, 16, 3, 3), 2, 0),
        "everything 1": lambda randn: (randn(1, 1, 1, 1), randn(1, 1, 1, 1), 1, 0),
        "6 × 5, 4 × 4 taps, padding 1": lambda randn: (randn(1, 5, 6, 5), randn(5, 7, 4, 4), 2, 1),
        "stride 1": lambda randn: (randn(1, 3, 6, 7), randn(3, 35, 3, 3), 1, 1),
        "stride 3, 2 × 2 taps: gaps": lambda randn: (randn(1, 4, 4, 5), randn(4, 4, 2, 2), 3, 0),
        "not contiguous: channels_last": lambda randn: (channels_last(randn(2, 33, 4, 5)), randn(33, 8, 2, 2), 2, 0),
        "float16": lambda randn: (randn(1, 16, 5, 5).half(), randn(16, 16, 3, 3).half(), 2, 1),
        "float16, long sums": lambda randn: (randn(1, 1024, 4, 4).half(), randn(1024, 8, 3, 3).half(), 1, 1),
        "large: 400 filters": lambda randn: (randn(1, 64, 3, 3), randn(64, 400, 2, 2), 2, 0),
    },
    heavy=lambda randn: (
        channels_last(randn(32, 128, 56, 56, dtype=torch.float16)), randn(128, 64, 4, 4, dtype=torch.float16), 2, 1
    ),
    operations=lambda x, weight, stride, padding: 2 * x.numel() * weight[0].numel(),
    solution=(transposed_kernel, transposed),
    hints=(
        "Solve `p = h * stride - padding + r` for `h`. The division has to come out even: where it does not, tap `r` "
        "does not reach row `p`, and adds 0.",
        "With `up = p + padding - r`: it is `h = up // stride`, and there is such a row if `up >= 0`, `up % stride == "
        "0` and `h < H`. The same for columns. The rest is exercise 2, once for each tap, into one `acc`.",
        "Three loops, over `r`, `s` and the channels. The mask of `x` is `(reached & (m < n_pixels))[:, None] & (c < "
        "C)[None, :]`, where `reached` combines the six conditions; the weight of channel `c`, filter `k` and tap `r, "
        "s` is at `(c * K + k) * (R * S) + r * S + s`.",
    ),
    explanation=prose("""
        Who owns an element of the result decides who computes it: a program gathers all that reaches its own tile, and
        no two programs write the same element. With a stride of 2 about three of four taps find nothing at a given
        pixel, and the kernel multiplies zeros there. A faster one sorts the pixels by `p % stride` and `q % stride`
        first, and computes four dense convolutions with the taps that are left to each.

        The question `up >= 0` is not idle: -2 divides by 2 without a remainder, and gives a row that does not exist.
        And where numbers are negative, `//` and `%` round towards zero on a GPU, other than in Python. Who asks for the
        sign first need not think about that.
    """),
    wrong={
        "sums in the type of x": Wrong(
            {"tl.zeros((BLOCK_M, BLOCK_N), tl.float32)": "tl.zeros((BLOCK_M, BLOCK_N), x_ptr.dtype.element_ty)",
             'tl.dot(x, weight, acc, input_precision="ieee")':
             '(acc + tl.dot(x, weight, input_precision="ieee")).to(x.dtype)'},
            "long sums: ",
        ),
        "every tap reaches every pixel": Wrong({"(up % stride == 0) & ": ""}, "elements are wrong"),
        "the padding is subtracted": Wrong({"p + padding - r": "p - padding - r"}, "6 × 5, 4 × 4 taps, padding 1: "),
        "the filter is turned round": Wrong({"r * S + s": "(R - 1 - r) * S + S - 1 - s"}, "elements are wrong"),
        "weights as in a convolution": Wrong(
            {"(c[:, None] * K + k[None, :])": "(k[None, :] * C + c[:, None])"}, "look at the formula"
        ),
        "the lower edge is not masked": Wrong({"(h < H) & ": ""}, "A load reached outside"),
        "no mask for the channels": Wrong({" & (c < C)[None, :]": ""}, "A load reached outside"),
    },
)

EXERCISES = (FILL_IN, POINTWISE, BLOCK_END, DEPTHWISE, TRANSPOSED)
