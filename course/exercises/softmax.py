"""Exercises of the chapter on softmax (notebooks/softmax.ipynb)."""
import torch
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose

MATRICES = {
    "5 × 10": lambda randn: (randn(5, 10),),
    "1 × 1": lambda randn: (randn(1, 1),),
    "7 × 129": lambda randn: (randn(7, 129),),
    "all numbers about -200": lambda randn: (randn(4, 33) - 200,),
    "numbers in the thousands": lambda randn: (2000 * randn(3, 100),),
    "float16": lambda randn: (randn(3, 77, dtype=torch.float16),),
    "transposed 9 × 50": lambda randn: (randn(50, 9).T,),
    "not contiguous: slices": lambda randn: (randn(12, 90)[::2, 3:75],),
    "large: 25 × 4,001": lambda randn: (randn(25, 4001),),
}


@triton.jit
def my_softmax_kernel(x_ptr, out_ptr, n_cols, stride_xm, stride_xn, stride_om, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n_cols
    x_ptrs = x_ptr + row * stride_xm + cols * stride_xn
    #> x = tl.load(x_ptrs, mask=inside, other=...).to(tl.float32)  # 1. what do the masked lanes hold?
    #> e = ...  # 2. the exponentials, none of them larger than 1
    #> y = ...  # 3. the row of the result
    x = tl.load(x_ptrs, mask=inside, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    #<
    tl.store(out_ptr + row * stride_om + cols, y, mask=inside)


def my_softmax(x, out):
    n_rows, n_cols = x.shape
    my_softmax_kernel[(n_rows,)](
        x, out, n_cols, x.stride(0), x.stride(1), out.stride(0), BLOCK_N=triton.next_power_of_2(n_cols)
    )


FILL_IN = Exercise(
    name="softmax.fill_in",
    task=prose("""
        ### Exercise 1: fill in the gaps

        `my_softmax` writes the softmax of every row of `x` into `out`. `x` may have any strides; in `out`, as in the
        exercises after this one, the columns are neighbours in memory. Three expressions are missing.
    """),
    reference=lambda x: torch.softmax(x, -1),
    cases=MATRICES,
    heavy=lambda randn: (randn(2**14, 2**12),),
    solution=(my_softmax_kernel, my_softmax),
    hints=(
        "A masked lane takes part in the maximum and in the sum. Which number is never the maximum, and has 0 as its "
        "exponential?",
        "`tl.max(x, axis=0)` is one number for the whole block. Subtract it before `tl.exp`, and the largest "
        "exponential is exp(0) = 1.",
        '`other=-float("inf")`, then `e = tl.exp(x - tl.max(x, axis=0))` and `y = e / tl.sum(e, axis=0)`.',
    ),
    explanation=prose("""
        The padding is -∞: it never wins the maximum, and exp(-∞) = 0 adds nothing to the sum. Subtracting the maximum
        changes nothing in the fraction, but keeps every exponential between 0 and 1 and the sum between 1 and
        `n_cols`, so that nothing overflows and nothing is divided by 0. The arithmetic is float32 whatever was loaded,
        and the store rounds once.
    """),
    wrong={
        "the padding is 0": Wrong({'other=-float("inf")': "other=0.0"}, "which multiplies it"),
        "the maximum is not subtracted": Wrong({"x - tl.max(x, axis=0)": "x"}, "did an exp overflow"),
        "the sum is taken of x": Wrong({"tl.sum(e": "tl.sum(x"}, "Every element is wrong"),
        "nothing is divided": Wrong({"e / tl.sum(e, axis=0)": "e"}, "which multiplies it"),
        "x is not converted": Wrong({".to(tl.float32)": ".to(tl.float16)"}, "Nearly right"),
        "no stride along the row": Wrong({"cols * stride_xn": "cols"}, "is an index times the stride"),
        "the store has no mask": Wrong({"cols, y, mask=inside": "cols, y"}, "A store went past the output"),
    },
)


@triton.jit
def log_softmax_kernel(x_ptr, out_ptr, n_cols, stride_xm, stride_xn, stride_om, BLOCK_N: tl.constexpr):
    #> ...  # load a row, compute, store
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n_cols
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=inside, other=-float("inf")).to(tl.float32)
    shifted = x - tl.max(x, axis=0)
    y = shifted - tl.log(tl.sum(tl.exp(shifted), axis=0))
    tl.store(out_ptr + row * stride_om + cols, y, mask=inside)
    #<


def log_softmax(x, out):
    n_rows, n_cols = x.shape
    log_softmax_kernel[(n_rows,)](
        x, out, n_cols, x.stride(0), x.stride(1), out.stride(0), BLOCK_N=triton.next_power_of_2(n_cols)
    )


LOG_SOFTMAX = Exercise(
    name="softmax.log_softmax",
    task=prose("""
        ### Exercise 2: the logarithm of a softmax

        Write the body of a kernel for `torch.log_softmax(x, -1)`, the logarithm of every number that softmax returns.
        Losses are computed from it. A row may hold numbers that lie thousands apart: a softmax of 0, which it then has,
        must not become a logarithm of 0.
    """),
    reference=lambda x: torch.log_softmax(x, -1),
    cases=MATRICES,
    heavy=lambda randn: (randn(2**14, 2**12),),
    solution=(log_softmax_kernel, log_softmax),
    hints=(
        "Write down the formula of softmax with the maximum subtracted, and take the logarithm on paper. What does the "
        "logarithm of a quotient become, and what the logarithm of an exponential?",
        "log(exp(x - m) / s) = x - m - log(s). No exponential has to be undone, only the sum has a logarithm, and the "
        "sum is at least 1.",
        "Load as in exercise 1. `shifted = x - tl.max(x, axis=0)`, then store "
        "`shifted - tl.log(tl.sum(tl.exp(shifted), axis=0))`.",
    ),
    explanation=prose("""
        With m the maximum and s the sum, the result is x - m - log(s). Where x - m is below -104, exp(x - m) is 0 in
        float32 and its logarithm -∞; on paper the logarithm meets the exponential and both disappear. What remains is
        log(s), and s lies between 1 and `n_cols`.
    """),
    wrong={
        "the logarithm of the softmax": Wrong(
            {"shifted - tl.log(tl.sum(tl.exp(shifted), axis=0))":
             "tl.log(tl.exp(shifted) / tl.sum(tl.exp(shifted), axis=0))"},
            "a logarithm met a number that was too small",
        ),
        "the maximum is not subtracted": Wrong({"x - tl.max(x, axis=0)": "x"}, "Infinity where a finite number"),
        "the maximum is forgotten in the result": Wrong({"y = shifted -": "y = x -"}, "which is added to it"),
        "another base": Wrong({"tl.log(": "tl.log2("}, "which is added to it"),
        "the padding is 0": Wrong({'other=-float("inf")': "other=0.0"}, "which is added to it"),
    },
)


def causal(x, scale):
    """Softmax of `scale * x`, row i over the columns 0 to i; 0 in the others."""
    later = torch.ones(x.shape, dtype=torch.bool, device=x.device).triu(1)
    return torch.softmax((scale * x).masked_fill(later, -float("inf")), -1)


@triton.jit
def causal_softmax_kernel(x_ptr, out_ptr, scale, n, stride_xm, stride_xn, stride_om, BLOCK_N: tl.constexpr):
    #> ...  # which columns does this row see? load, scale, normalise, and store all n of them
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    seen = cols <= row
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=seen, other=-float("inf")).to(tl.float32) * scale
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    tl.store(out_ptr + row * stride_om + cols, y, mask=cols < n)
    #<


def causal_softmax(x, scale, out):
    n = x.shape[0]
    causal_softmax_kernel[(n,)](
        x, out, scale, n, x.stride(0), x.stride(1), out.stride(0), BLOCK_N=triton.next_power_of_2(n)
    )


CAUSAL = Exercise(
    name="softmax.causal",
    task=prose("""
        ### Exercise 3: a causal softmax

        In a language model, token `i` may look at the tokens 0 to `i`, and at none that comes later. Of a square matrix
        `x` of scores compute `out[i, j]`, the softmax of `scale * x[i, j]` over the columns `j <= i`; where `j > i` the
        result is 0. `scale` is positive: attention uses 1 / √d, and the inverse of a *temperature*, which makes a
        distribution sharper or flatter, works in the same way. Do not read what a row may not see.
    """),
    reference=causal,
    cases={
        "10 × 10": lambda randn: (randn(10, 10), 0.5),
        "1 × 1": lambda randn: (randn(1, 1), 1.0),
        "37 × 37": lambda randn: (randn(37, 37), 0.125),
        "all numbers about -200": lambda randn: (randn(9, 9) - 200, 1.0),
        "numbers in the thousands": lambda randn: (2000 * randn(33, 33), 2.0),
        "float16": lambda randn: (randn(20, 20, dtype=torch.float16), 0.25),
        "transposed 25 × 25": lambda randn: (randn(25, 25).T, 0.5),
        "not contiguous: slices": lambda randn: (randn(46, 60)[::2, 3:26], 0.5),
        "large: 321 × 321": lambda randn: (randn(321, 321), 0.5),
    },
    heavy=lambda randn: (randn(2**13, 2**13), 0.125),
    frugal=("reads",),
    solution=(causal_softmax_kernel, causal_softmax),
    hints=(
        "Everything but the mask and the scale is exercise 1. A lane that must not count holds -∞, and that is what a "
        "masked load can give it.",
        "The load's mask is `cols <= row`. The other columns must be written, too, with zeros: exp(-∞) makes them, and "
        "the store has a mask of its own.",
        "`x = tl.load(…, mask=cols <= row, other=-float(\"inf\")).to(tl.float32) * scale`, then the maximum, the "
        "exponentials and the sum as before, and `tl.store(…, mask=cols < n)`.",
    ),
    explanation=prose("""
        A mask is not only for the end of a row: whatever it hides, the padding keeps out of the maximum and out of the
        sum. The load hides the padding lanes at the same time, for `row < n`. About half of the matrix is never read;
        the bandwidth that `check` prints counts all of it, so it can pass the limit. -∞ * `scale` stays -∞ for a
        positive scale. Each row sees at least its own token, so the sum is never empty. In attention the same mask
        stands inside of a matrix product, and blocks that no query sees are not even computed.
    """),
    wrong={
        "a token does not see itself": Wrong({"cols <= row": "cols < row"}, "is a sum empty"),
        "the store has the mask of the load": Wrong({"mask=cols < n": "mask=seen"}, "right of the diagonal is missing"),
        "what is hidden counts as 0": Wrong(
            {'other=-float("inf")': "other=0.0"}, "a row sees columns that it must not"
        ),
        "the scale comes too late": Wrong(
            {"float32) * scale": "float32)", "y = e / tl": "y = scale * e / tl"}, "Some elements are right"
        ),
        "rows and columns are exchanged": Wrong(
            {"cols <= row": "(cols >= row) & (cols < n)"}, "a row sees columns that it must not"
        ),
        "what is hidden is read, and then left out": Wrong(
            {'mask=seen, other=-float("inf")).to(tl.float32) * scale':
             'mask=cols < n, other=0.0).to(tl.float32) * scale\n    x = tl.where(seen, x, -float("inf"))'},
            "right, but it reads",
        ),
        "everything is seen": Wrong({"cols <= row": "cols < n"}, "a row sees columns that it must not"),
    },
)


def labels(randn, n_rows, n_cols):
    """A random column for each row."""
    return (1e4 * randn(n_rows)).long() % n_cols


@triton.jit
def cross_entropy_kernel(x_ptr, label_ptr, out_ptr, n_cols, stride_xm, stride_xn, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    m = -float("inf")
    s = 0.0
    for start in range(0, n_cols, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        #> ...  # load this block of the row, and bring m and s up to date
        x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=cols < n_cols, other=-float("inf"))
        x = x.to(tl.float32)
        new_m = tl.maximum(m, tl.max(x, axis=0))
        s = s * tl.exp(m - new_m) + tl.sum(tl.exp(x - new_m), axis=0)
        m = new_m
        #<
    #> loss = ...  # from m, s and the score of the right column
    label = tl.load(label_ptr + row)
    loss = m + tl.log(s) - tl.load(x_ptr + row * stride_xm + label * stride_xn).to(tl.float32)
    #<
    tl.store(out_ptr + row, loss)


def cross_entropy(x, label, out):
    n_rows, n_cols = x.shape
    cross_entropy_kernel[(n_rows,)](x, label, out, n_cols, x.stride(0), x.stride(1), BLOCK_N=2048)


CROSS_ENTROPY = Exercise(
    name="softmax.cross_entropy",
    task=prose("""
        ### Exercise 4: a loss that never writes the softmax

        The cross entropy of a row of scores and the column that would be right is `-log(softmax(x)[label])`. PyTorch
        computes the whole log-softmax, writes it, and picks one number out of each row. Yours reads `x` once, whatever
        the length of the rows (those of a language model have a column for every word it knows), and writes
        one number a row. `label` holds int64, without gaps. Write the body of the online loop, and the loss.
    """),
    reference=lambda x, label: torch.nn.functional.cross_entropy(x, label, reduction="none"),
    cases={
        "6 × 10": lambda randn: (randn(6, 10), labels(randn, 6, 10)),
        "1 × 1": lambda randn: (randn(1, 1), labels(randn, 1, 1)),
        "5 × 2,048, one block exactly": lambda randn: (randn(5, 2048), labels(randn, 5, 2048)),
        "3 × 5,001, three blocks": lambda randn: (randn(3, 5001), labels(randn, 3, 5001)),
        "all numbers about -200": lambda randn: (randn(3, 3000) - 200, labels(randn, 3, 3000)),
        "numbers in the thousands": lambda randn: (2000 * randn(3, 5000), labels(randn, 3, 5000)),
        "float16": lambda randn: (randn(3, 2100, dtype=torch.float16), labels(randn, 3, 2100)),
        "transposed 4 × 2,100": lambda randn: (randn(2100, 4).T, labels(randn, 4, 2100)),
        "large: 4 × 30,001": lambda randn: (randn(4, 30_001), labels(randn, 4, 30_001)),
    },
    heavy=lambda randn: (randn(2**11, 2**15), labels(randn, 2**11, 2**15)),
    frugal=("reads",),
    solution=(cross_entropy_kernel, cross_entropy),
    hints=(
        "On paper the loss is log(s) + m - x[label], where m is the maximum of the row and s the sum of exp(x - m). "
        "The loop is the first one of step 7.",
        "In a turn: load a block with -∞ as padding, `new_m = tl.maximum(m, tl.max(x, axis=0))`, multiply `s` by "
        "`tl.exp(m - new_m)` before the block's own sum is added, and let `m` be `new_m`.",
        "After the loop: `label = tl.load(label_ptr + row)`, one number, is an offset like any other. `loss = m + "
        "tl.log(s) - tl.load(x_ptr + row * stride_xm + label * stride_xn).to(tl.float32)`.",
    ),
    explanation=prose("""
        One pass is enough, because nothing of the row is written: `x` is read once, where PyTorch's log-softmax alone
        reads and writes as much. The score of the right column is loaded a second time, by one scalar load. (Catching
        it in the loop, with `tl.sum(tl.where(cols == label, x, 0.0), axis=0)`, works too, and costs a comparison for
        each element.) In the first turn `s * tl.exp(m - new_m)` is 0 * exp(-∞) = 0: the start needs no special case, as
        long as not all of the first block is -∞.
    """),
    wrong={
        "the sum is not rescaled": Wrong({"s * tl.exp(m - new_m)": "s"}, "3 × 5,001, three blocks: "),
        "m is not brought up to date": Wrong({"        m = new_m\n": ""}, "Infinity where a finite number belongs"),
        "the maximum is forgotten in the loss": Wrong({"loss = m + tl": "loss = tl"}, "look at the formula"),
        "the exponential of the label's score alone": Wrong(
            {"m + tl.log(s) - tl.load(x_ptr + row * stride_xm + label * stride_xn).to(tl.float32)":
             "-tl.log(tl.exp(tl.load(x_ptr + row * stride_xm + label * stride_xn).to(tl.float32) - m) / s)"},
            "a logarithm met a number that was too small",
        ),
        "every block is the first": Wrong({"start + tl.arange": "tl.arange"}, "3 × 5,001, three blocks: "),
        "two passes": Wrong(
            {"        new_m = tl.maximum(m, tl.max(x, axis=0))\n"
             "        s = s * tl.exp(m - new_m) + tl.sum(tl.exp(x - new_m), axis=0)\n        m = new_m\n":
             "        m = tl.maximum(m, tl.max(x, axis=0))\n"
             "    for start in range(0, n_cols, BLOCK_N):\n        cols = start + tl.arange(0, BLOCK_N)\n"
             "        x_ptrs = x_ptr + row * stride_xm + cols * stride_xn\n"
             "        x = tl.load(x_ptrs, mask=cols < n_cols, other=-float('inf'))\n"
             "        s += tl.sum(tl.exp(x.to(tl.float32) - m), axis=0)\n"},
            "right, but it reads",
        ),
        "the label has no stride": Wrong({"label * stride_xn": "label"}, "is an index times the stride"),
        "the padding is 0": Wrong({'other=-float("inf")': "other=0.0"}, "look at the formula"),
    },
)


@triton.jit
def parts_kernel(x_ptr, m_ptr, s_ptr, n_cols, stride_xm, stride_xn, BLOCK_N: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cols = part * BLOCK_N + tl.arange(0, BLOCK_N)
    x_ptrs = x_ptr + row * stride_xm + cols.to(tl.int64) * stride_xn
    x = tl.load(x_ptrs, mask=cols < n_cols, other=-float("inf")).to(tl.float32)
    #> ...  # the maximum of this part, and the sum of exp(x - maximum)
    #> ...  # store both, at row * (number of parts) + part
    m = tl.max(x, axis=0)
    s = tl.sum(tl.exp(x - m), axis=0)
    tl.store(m_ptr + row * tl.num_programs(1) + part, m)
    tl.store(s_ptr + row * tl.num_programs(1) + part, s)
    #<


@triton.jit
def merge_kernel(
    x_ptr, m_ptr, s_ptr, out_ptr, n_cols, n_parts, stride_xm, stride_xn, stride_om,
    PARTS: tl.constexpr, BLOCK_N: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    parts = tl.arange(0, PARTS)
    #> ...  # load the maxima and the sums of all n_parts parts of this row, and merge them
    m_parts = tl.load(m_ptr + row * n_parts + parts, mask=parts < n_parts, other=-float("inf"))
    s_parts = tl.load(s_ptr + row * n_parts + parts, mask=parts < n_parts, other=0.0)
    m = tl.max(m_parts, axis=0)
    s = tl.sum(s_parts * tl.exp(m_parts - m), axis=0)
    #<
    cols = part * BLOCK_N + tl.arange(0, BLOCK_N)
    x_ptrs = x_ptr + row * stride_xm + cols.to(tl.int64) * stride_xn
    x = tl.load(x_ptrs, mask=cols < n_cols).to(tl.float32)
    #> y = ...  # this part of the result
    y = tl.exp(x - m) / s
    #<
    tl.store(out_ptr + row * stride_om + cols, y, mask=cols < n_cols)


def split_softmax(x, out):
    n_rows, n_cols = x.shape
    n_parts = triton.cdiv(n_cols, 8192)
    m, s = torch.empty(2, n_rows, n_parts, device=x.device)
    strides = x.stride(0), x.stride(1)
    parts_kernel[(n_rows, n_parts)](x, m, s, n_cols, *strides, BLOCK_N=8192, num_warps=8)
    merge_kernel[(n_rows, n_parts)](
        x, m, s, out, n_cols, n_parts, *strides, out.stride(0),
        PARTS=triton.next_power_of_2(n_parts), BLOCK_N=8192, num_warps=8,
    )


SPLIT = Exercise(
    name="softmax.split",
    task=prose("""
        ### Exercise 5: few rows, and very long ones

        One row a program leaves most of the GPU idle when there are eight rows of millions of columns each. Here a row
        is cut into parts of 8,192 columns, and each part has a program of its own. Programs cannot talk to each other,
        but launches follow one another: the first kernel writes every part's maximum and sum, the second reads those of
        its whole row, merges them, and normalises its part. Nothing says that the pairs must be merged one after the
        other: write it for all of them at once.
    """),
    reference=lambda x: torch.softmax(x, -1),
    cases={
        "4 × 20,000": lambda randn: (randn(4, 20_000),),
        "1 × 1": lambda randn: (randn(1, 1),),
        "3 × 8,193, one column too many": lambda randn: (randn(3, 8193),),
        "all numbers about -200, three parts": lambda randn: (randn(2, 17_001) - 200,),
        "numbers in the thousands": lambda randn: (2000 * randn(3, 9000),),
        "float16": lambda randn: (randn(2, 9000, dtype=torch.float16),),
        "transposed 2 × 9,000": lambda randn: (randn(9000, 2).T,),
        "not contiguous: every second of 20,002": lambda randn: (randn(3, 20_002)[:, ::2],),
        "large: 1 × 100,003": lambda randn: (randn(1, 100_003),),
    },
    heavy=lambda randn: (randn(8, 2**23),),
    solution=(parts_kernel, merge_kernel, split_softmax),
    hints=(
        "The first kernel is the beginning of exercise 1, with two stores of one number each. `tl.num_programs(1)` is "
        "the number of parts.",
        "A sum s that was taken with the maximum m becomes, with the row's maximum M, s * exp(m - M). That holds for a "
        "block of sums and maxima as for one. Parts that do not exist need a maximum of -∞ and a sum of 0.",
        "`m = tl.max(m_parts, axis=0)`, then `s = tl.sum(s_parts * tl.exp(m_parts - m), axis=0)`, and at the end "
        "`y = tl.exp(x - m) / s`.",
    ),
    explanation=prose("""
        A pair (maximum, sum) says all that softmax has to know of a piece of a row, and two pairs merge into one in any
        order: that is what makes the loop of step 7 possible, and also this tree of programs. `x` is read twice,
        as in the loop; the pairs are a few kilobytes, which stay in the L2 cache. Attention over long sequences
        with few queries is cut up in the same way, with a third member beside maximum and sum: see the
        chapter on attention.
    """),
    wrong={
        "sums are merged as they are": Wrong({"s_parts * tl.exp(m_parts - m)": "s_parts"}, "which multiplies it"),
        "each part keeps to its own maximum": Wrong(
            {"y = tl.exp(x - m) / s": "y = tl.exp(x - tl.load(m_ptr + row * n_parts + part)) / s"},
            "Some elements are right",
        ),
        "all rows have the first row's pairs": Wrong({"row * n_parts + parts": "parts"}, "which multiplies it"),
        "pairs are as far apart as parts": Wrong({"row * n_parts": "row * BLOCK_N"}, "A load reached outside"),
        "parts that do not exist have the maximum 0": Wrong(
            {'parts < n_parts, other=-float("inf")': "parts < n_parts, other=0.0"}, "is a sum empty"
        ),
    },
)

EXERCISES = (FILL_IN, LOG_SOFTMAX, CAUSAL, CROSS_ENTROPY, SPLIT)
