"""Exercises of the chapter on precision (notebooks/precision.ipynb)."""
import torch
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


def wide(x):
    """As float32, or float64 where it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@triton.jit
def row_dot_kernel(x_ptr, y_ptr, out_ptr, n_cols, x_strides, y_strides, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    #> acc = ...  # 1. BLOCK_N zeros, of which type?
    acc = tl.zeros((BLOCK_N,), tl.float32)
    #<
    for first in range(0, n_cols, BLOCK_N):
        cols = first + tl.arange(0, BLOCK_N)
        x = tl.load(x_ptr + row * x_strides[0] + cols * x_strides[1], mask=cols < n_cols, other=0.0)
        y = tl.load(y_ptr + row * y_strides[0] + cols * y_strides[1], mask=cols < n_cols, other=0.0)
        #> acc = ...  # 2. with the products of this block added, multiplied in which type?
        acc += x.to(tl.float32) * y.to(tl.float32)
        #<
    tl.store(out_ptr + row, tl.sum(acc, 0))


def row_dot(x, y, out):
    row_dot_kernel[(x.shape[0],)](x, y, out, x.shape[1], x.stride(), y.stride(), BLOCK_N=2048)


def halves(randn, *shape, scale=1.0):
    return tuple((scale * randn(*shape)).half() for _ in range(2))


DOT = Exercise(
    name="precision.dot",
    task=prose("""
        ### Exercise 1: half the bytes, all of the sum

        `row_dot` takes the dot product of each row of `x` with the same row of `y`. Both are float16, the result is
        float32, and it should be as good as float32 allows. Two lines decide about that: write them.
    """),
    reference=lambda x, y: (wide(x) * wide(y)).sum(1),
    cases={
        "5 × 3,000": lambda randn: halves(randn, 5, 3000),
        "1 × 1": lambda randn: halves(randn, 1, 1),
        "3 × 77": lambda randn: halves(randn, 3, 77),
        "numbers around 300": lambda randn: halves(randn, 2, 5001, scale=300.0),
        "numbers around 1/1,000": lambda randn: halves(randn, 2, 5001, scale=1e-3),
        "not contiguous: every second of 8,000": lambda randn: tuple(t[:, ::2] for t in halves(randn, 2, 8000)),
        "large: 4 × 26,001": lambda randn: halves(randn, 4, 26_001),
    },
    heavy=lambda randn: halves(randn, 8192, 16384),
    solution=(row_dot_kernel, row_dot),
    hints=(
        "A sum that grows leaves the format of its terms behind: above 2,048 the neighbours in float16 are 2 apart. "
        "Which type has room for a sum of many products?",
        "The product of two numbers with 11 significant bits has up to 22. float32 holds 24, so there it is exact; in "
        "float16 half of it is rounded away before it is added.",
        "`acc = tl.zeros((BLOCK_N,), tl.float32)`, and `acc += x.to(tl.float32) * y.to(tl.float32)`.",
    ),
    explanation=prose("""
        Load narrow, compute wide. The bytes are those of float16, which is what the time depends on; the conversions
        run while the kernel waits for memory. This is also how tensor cores work: they take float16 factors and
        add their exact products in float32.

        Each product is exact here, so that only the additions round. A lane adds one product of every block, and
        `tl.sum` adds the lanes in a tree: of 3,000 terms none passes through more than 2 + 11 additions. That is
        why sums on a GPU are often better than a loop on a CPU.
    """),
    wrong={
        "the accumulator is float16": Wrong(
            {"tl.zeros((BLOCK_N,), tl.float32)": "tl.zeros((BLOCK_N,), tl.float16)",
             "acc += x.to(tl.float32) * y.to(tl.float32)": "acc += x * y"}, "5 × 3,000: "),
        "the products are float16": Wrong(
            {"x.to(tl.float32) * y.to(tl.float32)": "(x * y).to(tl.float32)"}, "5 × 3,000: "),
        "the sum passes through float16": Wrong(
            {"acc += x.to(tl.float32) * y.to(tl.float32)":
             "acc = (acc + x.to(tl.float32) * y.to(tl.float32)).to(tl.float16).to(tl.float32)"}, "5 × 3,000: "),
        "only one factor is converted, and back": Wrong(
            {"x.to(tl.float32) * y.to(tl.float32)": "(x.to(tl.float32) * y).to(tl.float16)"}, "5 × 3,000: "),
    },
)


@triton.jit
def column_sum_kernel(x_ptr, out_ptr, n_rows, n_cols, stride_xm, stride_xn, BLOCK_N: tl.constexpr):
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), tl.float32)
    lost = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(n_rows):
        offs = tl.cast(row, tl.int64) * stride_xm + cols * stride_xn
        x = tl.load(x_ptr + offs, mask=cols < n_cols, other=0.0)
        #> new = ...   # 1. total + x, as float32 rounds it
        #> lost = ...  # 2. plus what this addition rounded away
        new = total + x
        arrived = new - total
        lost += (total - (new - arrived)) + (x - arrived)
        #<
        total = new
    #> result = ...  # 3. the sum, with what was lost on the way
    result = total + lost
    #<
    tl.store(out_ptr + cols, result, mask=cols < n_cols)


def column_sum(x, out):
    n_rows, n_cols = x.shape
    column_sum_kernel[(triton.cdiv(n_cols, 1024),)](x, out, n_rows, n_cols, x.stride(0), x.stride(1), BLOCK_N=1024)


def cancelling(x, *rows):
    """`x` with huge numbers in some rows, in pairs that cancel."""
    for first, second in zip(rows[::2], rows[1::2]):
        x[first] *= 1e7
        x[second] = -x[first]
    return (x,)


COMPENSATED = Exercise(
    name="precision.compensated",
    task=prose("""
        ### Exercise 2: a sum that keeps what it loses

        Sum the columns of a float32 matrix so well that even columns like 10⁷, small numbers, -10⁷ come out right. The
        rounding error of an addition is itself a float32 number, and five more additions find it, whichever of the
        two numbers is larger: with `new = total + x` rounded, `arrived = new - total` is what of `x` went in, `new -
        arrived` is what of `total` did, and the difference of each to what it was got lost. Sum the losses on the side.
    """),
    reference=lambda x: x.sum(0),
    cases={
        "60 × 70, a large number comes and goes": lambda randn: cancelling(randn(60, 70), 0, -1),
        "1 × 1": lambda randn: (randn(1, 1),),
        "60 × 70": lambda randn: (randn(60, 70),),
        "the large number comes late": lambda randn: cancelling(randn(70, 33), 40, 60),
        "two of them": lambda randn: cancelling(randn(70, 33), 3, 20, 10, 50),
        "not contiguous: transposed": lambda randn: cancelling(randn(50, 90).T, 1, 30),
        "large: 101 × 1,001": lambda randn: cancelling(randn(101, 1001), 0, 100),
    },
    heavy=lambda randn: (randn(1024, 262_144),),
    solution=(column_sum_kernel, column_sum),
    hints=(
        "Nothing may be simplified here: `new - total` is `x` in mathematics, and in float32 it is what is left of `x` "
        "after rounding.",
        "What was lost of `x` is `x - arrived`, and of `total` it is `total - (new - arrived)`. If `total` is much "
        "larger the first of them holds the error, if `x` is, the second.",
        "`new = total + x`, `arrived = new - total`, `lost += (total - (new - arrived)) + (x - arrived)`; and in the "
        "end `result = total + lost`.",
    ),
    explanation=prose("""
        Knuth calls it TwoSum. The error of the result no longer grows with the number of terms, as far as anybody will
        notice: it is that of one rounding, plus one of order n²u² of the absolute sum (Ogita, Rump and Oishi,
        2005). Seven additions instead of one cost little, since the kernel waits for memory.

        Kahan's older formula subtracts the last loss from the next term, and takes three additions more instead of
        six. It is enough for long sums of like numbers, but not when a term is larger than the sum so far:
        of 10⁷ after small numbers, what gets lost is a piece of the *sum*. A compiler that thought additions
        associative would remove all of it; Triton's does not.
    """),
    wrong={
        "a plain sum": Wrong(
            {"lost += (total - (new - arrived)) + (x - arrived)": "lost += 0.0 * arrived"}, "comes and goes: "),
        "Kahan's formula": Wrong(
            {"new = total + x": "x = x - lost\n        new = total + x",
             "lost += (total - (new - arrived)) + (x - arrived)": "lost = arrived - x",
             "result = total + lost": "result = total"}, "comes and goes: "),
        "only the loss of x": Wrong(
            {"(total - (new - arrived)) + (x - arrived)": "x - arrived"}, "comes late: "),
        "the wrong sign": Wrong({"result = total + lost": "result = total - lost"}, "comes and goes: "),
        "the loss goes back into the sum": Wrong(
            {"lost += (total - (new - arrived)) + (x - arrived)":
             "new += (total - (new - arrived)) + (x - arrived)"}, "comes and goes: "),
    },
)


@triton.jit
def stochastic_kernel(x_ptr, random_ptr, out_ptr, n, stride_x, stride_random, BLOCK: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs * stride_x, mask=offs < n, other=0.0)
    random = tl.load(random_ptr + offs * stride_random, mask=offs < n, other=0)
    #> bits = ...     # 1. the bits of x as an int32
    #> rounded = ...  # 2. the neighbour in bfloat16 that `random` chooses, as a float32
    #> rounded = ...  # 3. the same, but NaN stays NaN
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + random) & -65536).to(tl.float32, bitcast=True)
    rounded = tl.where(x == x, rounded, x)
    #<
    tl.store(out_ptr + offs, rounded, mask=offs < n)


def stochastic_round(x, random, out):
    n = x.numel()
    stochastic_kernel[(triton.cdiv(n, 1024),)](x, random, out, n, x.stride(0), random.stride(0), BLOCK=1024)


def rounded_up_by_chance(x, random):
    x = x.float()
    rounded = ((x.view(torch.int32) + random) & -65536).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


def sixteen_bits(x):
    """Integers from 0 to 65,535 made of normal numbers, about as likely each."""
    return (x * 2**20).int() & 65535


def special(x):
    x[:8] = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 3.4e38, -3.4e38, 1e-40])
    x.view(torch.int32)[8:16] = 0x7F800001  # a NaN that is one for its last bit alone
    return x


STOCHASTIC = Exercise(
    name="precision.stochastic",
    task=prose("""
        ### Exercise 3: rounding by chance

        Rounded to nearest, 1 + 1/1,000 in bfloat16 is 1, always, and a weight that should grow by that much in each
        step never moves. *Stochastic* rounding goes up with the probability of the fraction that would be cut off, so
        that it is right on average. Round float32 to the grid of bfloat16 (as a float32, whose last 16 bits are
        zero), given a random number from 0 to 65,535 for each element: add it to the 16 bits that go, and cut them
        off. A carry then rounds up. `x.to(tl.int32, bitcast=True)` gives the bits of a number, and the same with
        `tl.float32` the number of the bits. NaN has to stay NaN.
    """),
    reference=rounded_up_by_chance,
    cases={
        "1,000 elements": lambda randn: (randn(1000), sixteen_bits(randn(1000))),
        "1 element": lambda randn: (randn(1), sixteen_bits(randn(1))),
        "3,333 small and large numbers": lambda randn: (
            randn(3333) * 10 ** (2 * randn(3333)), sixteen_bits(randn(3333))
        ),
        "infinities, NaN, the largest": lambda randn: (special(randn(777)), sixteen_bits(randn(777))),
        "numbers that bfloat16 has": lambda randn: (randn(555).bfloat16().float(), sixteen_bits(randn(555))),
        "not contiguous: every second of 3,000": lambda randn: (randn(3000)[::2], sixteen_bits(randn(4500))[::3]),
        "large: 100,003 elements": lambda randn: (randn(100_003), sixteen_bits(randn(100_003))),
    },
    heavy=lambda randn: (randn(2**26), sixteen_bits(randn(2**26))),
    solution=(stochastic_kernel, stochastic_round),
    hints=(
        "bfloat16 is the upper half of a float32: sign, 8 bits of exponent, 7 of fraction. The lower 16 bits say how "
        "far the number lies between its two neighbours, in 1/65,536 of the way.",
        "`bits + random` carries into the upper half exactly if the lower 16 bits and `random` add up to 65,536 or "
        "more. `& -65536` clears the lower 16 bits, whatever the sign.",
        "`bits = x.to(tl.int32, bitcast=True)`, `rounded = ((bits + random) & -65536).to(tl.float32, bitcast=True)`, "
        "and `rounded = tl.where(x == x, rounded, x)`, since NaN alone is not equal to itself.",
    ),
    explanation=prose("""
        It works for both signs, because a floating-point number is a sign and a size: adding to the bits makes the size
        larger. It also works across a power of two, because the exponent stands right above the fraction, and a
        carry out of the fraction is just what it needs. Above the largest number it makes infinity, as it should.
        But infinity and NaN are told apart by their fraction alone, and a NaN that is one for its last bits only
        would be cut down to an infinity.

        Adding 32,768 instead of a random number rounds to nearest, and adding nothing truncates: the same three lines
        are all of rounding.
    """),
    wrong={
        "cut off, always": Wrong({"(bits + random) & -65536": "(bits + random * 0) & -65536"}, "1,000 elements: "),
        "to nearest": Wrong({"(bits + random) & -65536": "(bits + 32768) & -65536"}, "1,000 elements: "),
        "NaN is cut like a number": Wrong({"tl.where(x == x, rounded, x)": "rounded + 0.0"}, "NaN, the largest: "),
        "the number instead of its bits": Wrong(
            {"x.to(tl.int32, bitcast=True)": "x.to(tl.int32)"}, "1,000 elements: "),
        "a mask that is no int32": Wrong({"-65536": "0xFFFF0000"}, "A literal above 2**31 - 1 is no int32"),
        "nothing is cut off": Wrong({"(bits + random) & -65536": "bits + random"}, "1,000 elements: "),
    },
)


@triton.jit
def tolerance_kernel(a_ptr, x_ptr, out_ptr, n_cols, stride_am, stride_an, stride_x, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    a = tl.load(a_ptr + row * stride_am + cols * stride_an, mask=cols < n_cols, other=0.0)
    x = tl.load(x_ptr + cols * stride_x, mask=cols < n_cols, other=0.0)
    #> of_the_sum = ...       # 1. the most by which a float32 sum of these products may be off
    #> of_the_rounding = ...  # 2. the most that rounding the exact result to float16 adds
    of_the_sum = n_cols * 2.0**-24 * tl.sum(tl.abs(a * x), 0)
    of_the_rounding = 2.0**-11 * tl.abs(tl.sum(a * x, 0))
    #<
    tl.store(out_ptr + row, of_the_sum + of_the_rounding)


def tolerance(a, x, out):
    n_rows, n_cols = a.shape
    tolerance_kernel[(n_rows,)](
        a, x, out, n_cols, a.stride(0), a.stride(1), x.stride(0), BLOCK_N=triton.next_power_of_2(n_cols)
    )


TOLERANCE = Exercise(
    name="precision.tolerance",
    task=prose("""
        ### Exercise 4: derive a tolerance

        A kernel computes `y = a @ x`: a float32 sum of `n_cols` products for each row, in an order that we do
        not know, which it then stores as float16. How far may `y[i]` lie from the exact result without being wrong?
        Write the kernel that says so, for each row: the bound of the sum, `n · u · Σ |a[i, j] · x[j]|` with float32's
        `u`, and the bound of the one rounding to float16, to first order.
    """),
    reference=lambda a, x: a.shape[1] * 2.0**-24 * (a.abs() @ x.abs()) + 2.0**-11 * (a @ x).abs(),
    cases={
        "7 × 1,000": lambda randn: (randn(7, 1000), randn(1000)),
        "1 × 1": lambda randn: (randn(1, 1), randn(1)),
        "3 × 129": lambda randn: (randn(3, 129), randn(129)),
        "all positive": lambda randn: (randn(5, 2049).abs(), randn(2049).abs()),
        "transposed 70 × 5": lambda randn: (randn(70, 5).T, randn(70)),
        "not contiguous: every second": lambda randn: (randn(5, 600)[:, ::2], randn(600)[::2]),
        "large: 13 × 8,001": lambda randn: (randn(13, 8001), randn(8001)),
    },
    heavy=lambda randn: (randn(16384, 8192), randn(8192)),
    solution=(tolerance_kernel, tolerance),
    hints=(
        "`u` is half the distance from 1 to the next number. float32 has 23 bits of fraction, so `u = 2**-24`; float16 "
        "has 10.",
        "The sum of the *absolute* products, not the absolute sum: terms that cancel each other in the result do not "
        "cancel in their rounding errors.",
        "`of_the_sum = n_cols * 2.0**-24 * tl.sum(tl.abs(a * x), 0)` and `of_the_rounding = 2.0**-11 * "
        "tl.abs(tl.sum(a * x, 0))`.",
    ),
    explanation=prose("""
        The first term counts roundings: a product passes through at most `n` of them, in whatever order the sum is
        taken, and each is off by `u` times what was there. The second is one rounding of the result. Where the
        terms cancel, the result is small and the first one rules, and a *relative* tolerance on the result would be
        wrong, however large. Where they do not, the second does, and the sum might as well be exact.

        `tests/compare.py` has the same two terms. It multiplies the first by 4, for what is neglected here, and adds
        half of a step where numbers become subnormal.
    """),
    wrong={
        "the absolute sum": Wrong({"tl.sum(tl.abs(a * x), 0)": "tl.abs(tl.sum(a * x, 0))"}, "7 × 1,000: "),
        "eps instead of u": Wrong({"2.0**-24": "2.0**-23"}, "7 × 1,000: "),
        "the padding counts as terms": Wrong({"n_cols * 2.0**-24": "BLOCK_N * 2.0**-24"}, "7 × 1,000: "),
        "bfloat16's u": Wrong({"2.0**-11": "2.0**-8"}, "7 × 1,000: "),
        "the rounding of the absolute products": Wrong(
            {"tl.abs(tl.sum(a * x, 0))": "tl.sum(tl.abs(a * x), 0)"}, "7 × 1,000: "),
    },
)


@triton.jit
def split_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, a_strides, b_strides, c_strides,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    rest = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, K, BLOCK_K):
        ks = first + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + rows[:, None] * a_strides[0] + ks[None, :] * a_strides[1],
                    mask=(rows < M)[:, None] & (ks < K)[None, :], other=0.0)
        b = tl.load(b_ptr + ks[:, None] * b_strides[0] + cols[None, :] * b_strides[1],
                    mask=(ks < K)[:, None] & (cols < N)[None, :], other=0.0)
        #> a_high = ...  # 1. a in float16
        #> a_low = ...   # 2. 2,048 times what is missing to a, in float16
        #> b_high = ...  # 3. the same for b
        #> b_low = ...
        #> acc = ...     # 4. with the products of the high parts added
        #> rest = ...    # 5. with the products of a high and a low part added
        a_high = a.to(tl.float16)
        a_low = ((a - a_high.to(tl.float32)) * 2048.0).to(tl.float16)
        b_high = b.to(tl.float16)
        b_low = ((b - b_high.to(tl.float32)) * 2048.0).to(tl.float16)
        acc = tl.dot(a_high, b_high, acc)
        rest = tl.dot(a_high, b_low, tl.dot(a_low, b_high, rest))
        #<
    #> c = ...  # 6. the result
    c = acc + rest / 2048.0
    #<
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(c_ptr + rows[:, None] * c_strides[0] + cols[None, :] * c_strides[1], c, mask=inside)


def split_matmul(a, b, out):
    (M, K), N = a.shape, b.shape[1]
    split_kernel[(triton.cdiv(M, 128), triton.cdiv(N, 64))](
        a, b, out, M, N, K, a.stride(), b.stride(), out.stride(), BLOCK_M=128, BLOCK_N=64, BLOCK_K=32,
    )


SPLIT = Exercise(
    name="precision.split",
    task=prose("""
        ### Exercise 5: float32 products from float16 tensor cores

        A float32 has 24 significant bits, a float16 has 11. So write each number as the sum of two float16 numbers,
        `x ≈ high + low`, and multiply: `(a_high + a_low) · (b_high + b_low)` is three products that matter, and one, of
        the two low parts, that does not. Tensor cores do three float16 products in far less time than the ordinary
        units do one in float32. The low part is some 2,000 times smaller than the number, which may be too small for
        float16. So keep it multiplied by 2,048, and divide at the end.
    """),
    reference=lambda a, b: a @ b,
    cases={
        "100 × 70, 50 products each": lambda randn: (randn(100, 50), randn(50, 70)),
        "1 × 1": lambda randn: (randn(1, 1), randn(1, 1)),
        "33 × 129, 77 products": lambda randn: (randn(33, 77), randn(77, 129)),
        "numbers around 1/1,000": lambda randn: (randn(65, 130) / 1000, randn(130, 40) / 1000),
        "numbers around 100": lambda randn: (100 * randn(65, 130), 100 * randn(130, 40)),
        "not contiguous: transposed": lambda randn: (randn(90, 60).T, randn(50, 90).T),
        "large: 129 × 60, 801 products": lambda randn: (randn(129, 801), randn(801, 60)),
    },
    heavy=lambda randn: (randn(4096, 4096), randn(4096, 4096)),
    operations=lambda a, b: 2 * a.shape[0] * a.shape[1] * b.shape[1],
    solution=(split_kernel, split_matmul),
    hints=(
        "`a.to(tl.float16)` rounds to the nearest; what it missed is `a` minus that, computed in float32, where it is "
        "exact.",
        "`a_low = ((a - a_high.to(tl.float32)) * 2048.0).to(tl.float16)`. A multiplication by a power of two rounds "
        "nothing.",
        "`acc = tl.dot(a_high, b_high, acc)`, `rest = tl.dot(a_high, b_low, tl.dot(a_low, b_high, rest))`, and in the "
        "end `c = acc + rest / 2048.0`. The two sums must not be mixed: one is 2,048 times too large.",
    ),
    explanation=prose("""
        High and low part together have 22 bits, and what is missing is as small as the rounding errors of the sum: no
        difference to float32 remains that a test could tell. `input_precision="tf32x3"` does the same with TF32 parts,
        whose range is that of float32. Here numbers beyond 65,504 become infinite.

        On a GPU the report compares with PyTorch in full float32, without TF32, and the limit that it names is that of
        the ordinary units. Tensor cores have another. (The scaling by 2,048 is from Ootomo and Yokota, 2022.)
    """),
    wrong={
        "only the high parts": Wrong({"c = acc + rest / 2048.0": "c = acc + rest * 0.0"}, "50 products each: "),
        "the low parts are not scaled": Wrong(
            {"* 2048.0).to(tl.float16)": ").to(tl.float16)", "rest / 2048.0": "rest"}, "numbers around 1/1,000: "),
        "one of the mixed products is missing": Wrong(
            {"tl.dot(a_high, b_low, tl.dot(a_low, b_high, rest))": "tl.dot(a_low, b_high, rest)"},
            "50 products each: "),
        "the scale stays in": Wrong({"rest / 2048.0": "rest"}, "50 products each: "),
        "the difference is taken in float16": Wrong(
            {"(a - a_high.to(tl.float32))": "(a.to(tl.float16) - a_high)",
             "(b - b_high.to(tl.float32))": "(b.to(tl.float16) - b_high)"}, "50 products each: "),
    },
)

EXERCISES = (DOT, COMPENSATED, STOCHASTIC, TOLERANCE, SPLIT)
