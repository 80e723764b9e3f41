"""Exercises of the chapter on debugging (notebooks/debugging.ipynb): most start from a wrong kernel that runs."""
import torch
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose


@triton.jit
def variance_kernel(x_ptr, out_ptr, n_cols, stride_xm, stride_xn, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=mask, other=0.0)
    mean = tl.sum(x, axis=0) / n_cols
    #> diff = x - mean
    diff = tl.where(mask, x - mean, 0.0)
    #<
    tl.store(out_ptr + row, tl.sum(diff * diff, axis=0) / n_cols)


def row_variance(x, out):
    n_rows, n_cols = x.shape
    variance_kernel[(n_rows,)](
        x, out, n_cols, x.stride(0), x.stride(1), BLOCK=triton.next_power_of_2(n_cols)
    )


VARIANCE = Exercise(
    name="debugging.variance",
    task=prose("""
        ### Exercise 1: the variance of a row

        `row_variance` writes the variance of each row, `x.var(dim=1, unbiased=False)`. Every load has its mask, and
        `other=0.0` keeps the padding out of the sum. Its author tested it with 64 and with 128 columns, and it was
        right. Find out for which inputs it is wrong, then why, and repair it.
    """),
    reference=lambda x: x.var(dim=1, unbiased=False),
    cases={
        "16 × 64": lambda randn: (randn(16, 64) + 3,),
        "16 × 50": lambda randn: (randn(16, 50) + 3,),
        "1 × 1": lambda randn: (randn(1, 1) + 3,),
        "7 × 129": lambda randn: (randn(7, 129) + 3,),
        "transposed 20 × 50": lambda randn: (randn(50, 20).T + 3,),
        "not contiguous: every second column": lambda randn: (randn(9, 74)[:, ::2] - 3,),
        "large: 25 × 5,000": lambda randn: (randn(25, 5000) + 3,),
    },
    heavy=lambda randn: (randn(32768, 2000) + 3,),
    solution=(variance_kernel, row_variance),
    hints=(
        "The report says which shapes pass. What do 64 and 1 have in common that 50 and 129 lack?",
        "Put `print(x, mean)` into the kernel, and run it with five columns under `with lab.interpreted():`. How many "
        "lanes are there, and what does each hold? Then print `diff` as well.",
        "A masked lane holds 0 after the load, and 0 adds nothing to the sum. After the subtraction it holds `-mean`, "
        "whose square does. `tl.where(mask, …, 0.0)` sets the lanes to 0 once more.",
    ),
    explanation=prose("""
        `other` says what a masked lane holds after the *load*. Every operation after it works on all lanes alike, and
        `0 - mean` is not 0: each lane of the padding adds the square of the mean to the sum. With a mean near
        0 the error is small, which hides it; with as many columns as the block has lanes there is no padding. Before
        every reduction, ask what the masked lanes hold *now*: 0 for a sum, -inf for a maximum, 1 for a product.
    """),
    wrong={
        "the mask a step too early": Wrong(
            {"tl.where(mask, x - mean, 0.0)": "tl.where(mask, x, 0.0) - mean"},
            "masked lanes take part in a sum",
        ),
        "the wrong branch": Wrong(
            {"tl.where(mask, x - mean, 0.0)": "tl.where(mask, x - mean, mean)"}, "16 of 16 elements are wrong"
        ),
        "divided by the block instead": Wrong(
            {"tl.sum(diff * diff, axis=0) / n_cols": "tl.sum(diff * diff, axis=0) / BLOCK"},
            "16 × 50: 16 of 16 elements are wrong",
        ),
        "the sample's variance": Wrong({"axis=0) / n_cols)": "axis=0) / (n_cols - 1))"}, "16 × 64: 16 of 16"),
    },
    symptom="16 × 50: 16 of 16 elements are wrong",
)


@triton.jit
def scale_kernel(
    x_ptr, w_ptr, out_ptr, n_rows, n_cols,
    #> stride_xm,
    stride_xm, stride_xn, stride_w,
    #<
    stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    #> x = tl.load(x_ptr + rows[:, None] * stride_xm + cols[None, :], mask=inside)
    #> w = tl.load(w_ptr + cols, mask=cols < n_cols)
    x = tl.load(x_ptr + rows[:, None] * stride_xm + cols[None, :] * stride_xn, mask=inside)
    w = tl.load(w_ptr + cols * stride_w, mask=cols < n_cols)
    #<
    tl.store(out_ptr + rows[:, None] * stride_om + cols[None, :] * stride_on, x * w[None, :], mask=inside)


def scale_columns(x, w, out):
    n_rows, n_cols = x.shape
    scale_kernel[(triton.cdiv(n_rows, 32), triton.cdiv(n_cols, 64))](
        x, w, out, n_rows, n_cols,
        #> x.stride(0),
        x.stride(0), x.stride(1), w.stride(0),
        #<
        out.stride(0), out.stride(1),
        BLOCK_M=32, BLOCK_N=64,
    )


SCALE = Exercise(
    name="debugging.scale",
    task=prose("""
        ### Exercise 2: right in the test, wrong in the model

        `scale_columns` multiplies column *j* of `x` by `w[j]`. It was right in every test; in the model, where `x`
        comes out of a `transpose`, it is not. Make it right for inputs with any strides. Nothing may be copied:
        `x.contiguous()` would repair the result, and double the bytes that are moved.
    """),
    reference=lambda x, w: x * w,
    cases={
        "16 × 64": lambda randn: (randn(16, 64), randn(64)),
        "37 × 129": lambda randn: (randn(37, 129), randn(129)),
        "1 × 1": lambda randn: (randn(1, 1), randn(1)),
        "a slice of rows and columns": lambda randn: (randn(80, 90)[::2, 3:75], randn(72)),
        "transposed 70 × 50": lambda randn: (randn(50, 70).T, randn(50)),
        "not contiguous: every second column": lambda randn: (randn(33, 100)[:, ::2], randn(50)),
        "not contiguous: every second weight": lambda randn: (randn(33, 50), randn(100)[::2]),
        "large: 128 × 1,001": lambda randn: (randn(128, 1001), randn(1001)),
    },
    heavy=lambda randn: (randn(8192, 8192).T, randn(8192)),
    frugal=("copies",),
    solution=(scale_kernel, scale_columns),
    hints=(
        "Fill `x` with numbers that say where they stand: `torch.arange(12.0).view(4, 3).T`, and `w` with ones. Which "
        "elements did the kernel read?",
        "An offset is the sum of index times stride over *all* dimensions. Look for an index without a stride: "
        "PyTorch knows it as `x.stride(1)`.",
        "There are two: the columns of `x`, and `w`. The kernel needs `stride_xn` and `stride_w` among its arguments, "
        "the launch hands over `x.stride(1)` and `w.stride(0)`, at the same place in the list.",
    ),
    explanation=prose("""
        A stride left out is a stride of 1, which is right for every tensor that PyTorch has just made, and so for
        most tests. `x.T`, `x[:, ::2]` and `w[::2]` are views: nothing is moved, only the strides change. After the
        first repair the report goes on to the next case that fails, the weight. Arguments are handed over by
        their place: with `stride_xn` and `stride_w` exchanged in the launch, the kernel would be wrong again, which
        is why many people write such arguments with their names.
    """),
    wrong={
        "only x was repaired": Wrong({"cols * stride_w": "cols"}, "every second weight: "),
        "rows and columns of x exchanged": Wrong(
            {"rows[:, None] * stride_xm + cols[None, :] * stride_xn":
             "rows[:, None] * stride_xn + cols[None, :] * stride_xm"},
            "16 × 64: ",
        ),
        "two arguments exchanged in the launch": Wrong(
            {"x.stride(0), x.stride(1), w.stride(0),": "x.stride(0), w.stride(0), x.stride(1),"},
            "Program (0, 0) read 49 elements outside of w, which is of size 50; the first lies 21 past its end",
        ),
        "a copy": Wrong(
            {"    scale_kernel[(": "    x = x.contiguous()\n    scale_kernel[("}, "right, but PyTorch copies"
        ),
        "the width of the matrix instead of its stride": Wrong(
            {"rows[:, None] * stride_xm": "rows[:, None] * n_cols"}, "a slice of rows and columns: "
        ),
        "the store as well": Wrong({"cols[None, :] * stride_on": "cols[None, :] * stride_xm"}, "A store went past"),
    },
    symptom="is an index times the stride",
)


@triton.jit
def shuffle_kernel(x_ptr, out_ptr, n, step, stride_x, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    #> source = offs * step % n
    source = offs.to(tl.int64) * step % n
    #<
    tl.store(out_ptr + offs, tl.load(x_ptr + source * stride_x, mask=mask), mask=mask)


def shuffle(x, step, out):
    n = out.numel()
    shuffle_kernel[(triton.cdiv(n, 1024),)](x, out, n, step, x.stride(0), BLOCK=1024)


SHUFFLE = Exercise(
    name="debugging.shuffle",
    task=prose("""
        ### Exercise 3: a shuffle that goes astray

        `shuffle` brings a vector out of order, always in the same way: `out[i] = x[(i * step) % n]`. With a
        step of 7 it has been in use for years. With a step of 1,000,003 a GPU reports an illegal memory access, or
        nothing at all and the result is wrong. The vectors are small. Find out what happens, and repair it.
    """),
    reference=lambda x, step: x[torch.arange(len(x), device=x.device) * step % len(x)],
    cases={
        "1,000 elements, step 7": lambda randn: (randn(1000), 7),
        "3,000 elements, step 1,000,003": lambda randn: (randn(3000), 1_000_003),
        "1 element": lambda randn: (randn(1), 1_000_003),
        "2,049 elements, step 1": lambda randn: (randn(2049), 1),
        "not contiguous: every second of 6,001": lambda randn: (randn(6001)[::2], 1_000_003),
        "large: 100,003 elements": lambda randn: (randn(100_003), 1_000_003),
    },
    heavy=lambda randn: (randn(2**26), 1_000_003),
    solution=(shuffle_kernel, shuffle),
    hints=(
        "The report names an operation and a number of bits. In which line of the kernel is that operation? How "
        "large is its result for the last element?",
        "`(i * step) % n` is less than `n`, but the product is computed first. 2,999 × 1,000,003 is more than 2³¹.",
        "One of the two factors has to have 64 bits *before* they are multiplied: `offs.to(tl.int64)`.",
    ),
    explanation=prose("""
        The remainder of a wrapped product is some number, and for a negative product a negative one: the load then
        reads in front of `x`. The conversion has to come before the multiplication, since a conversion of
        the product only makes its wrong result wider. Offsets are the usual place for this bug, in tensors of more
        than 2³¹ elements; but any product of two integers that grow can be one, long before the memory
        is full.
    """),
    wrong={
        "converted after the product": Wrong(
            {"offs.to(tl.int64) * step % n": "(offs * step).to(tl.int64) % n"}, "overflow detected for operation mul"
        ),
        "the step made small first": Wrong(
            {"offs.to(tl.int64) * step % n": "offs * (step % n) % n"}, "large: 100,003 elements"
        ),
        "64 bits for the mask": Wrong(
            {"offs.to(tl.int64) * step": "offs * step", "mask = offs < n": "mask = offs.to(tl.int64) < n"},
            "overflow detected for operation mul",
        ),
        "the source takes the output's stride": Wrong({"source * stride_x": "source"}, "not contiguous"),
    },
    symptom="overflow detected for operation mul",
)


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, n_cols, stride_xm, stride_xn, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=cols < n_cols, other=0.0)
    #> total = tl.load(out_ptr + row)
    #> tl.store(out_ptr + row, total + tl.sum(x, axis=0))
    tl.atomic_add(out_ptr + row, tl.sum(x, axis=0))
    #<


def row_sum(x, out):
    n_rows, n_cols = x.shape
    out.zero_()
    row_sum_kernel[(n_rows, triton.cdiv(n_cols, 1024))](x, out, n_cols, x.stride(0), x.stride(1), BLOCK=1024)


LONG_ROWS = {
    "4 × 3,000": lambda randn: (randn(4, 3000),),
    "1 × 1": lambda randn: (randn(1, 1),),
    "5 × 1,024": lambda randn: (randn(5, 1024),),
    "3 × 5,001": lambda randn: (randn(3, 5001),),
    "transposed 2 × 2,000": lambda randn: (randn(2000, 2).T,),
    "not contiguous: every second column": lambda randn: (randn(3, 5000)[:, ::2],),
    "large: 3 × 40,000": lambda randn: (randn(3, 40_000),),
}

ROW_SUM = Exercise(
    name="debugging.row_sum",
    task=prose("""
        ### Exercise 4: right on the laptop

        `row_sum` sums long rows. So that a few of them keep the whole GPU busy, each row is cut into pieces of 1,024
        columns, a program each. In the interpreter the sums are right. On a GPU they are wrong, and not always by
        the same amount. Repair the kernel; it should stay one launch.
    """),
    reference=lambda x: x.sum(dim=1),
    cases=LONG_ROWS,
    heavy=lambda randn: (randn(1024, 65536),),
    frugal=("launches",),
    solution=(row_sum_kernel, row_sum),
    hints=(
        "How many programs work on row 0? Draw it: `lab.draw_access` of the kernel with two rows of eight columns, and "
        "`BLOCK=4`.",
        "Between one program's load of the total and its store, another one may load the same old total. The later "
        "store then overwrites what the other program added.",
        "Load, add and store have to be one step that no other program can interrupt: "
        "`tl.atomic_add(out_ptr + row, tl.sum(x, axis=0))`.",
    ),
    explanation=prose("""
        The atomic addition is done where the memory is, in the L2 cache: the programs send what is to be added, and the
        additions come one after the other, in some order. That order changes from run to run, and floating-point sums
        with it, in the last digits. `out.zero_()` belongs to it: what is added to must have a value
        first, and setting it is a launch of its own, since no program can know that another one has set it already.
    """),
    wrong={
        "out is not set to zero": Wrong({"    out.zero_()\n": ""}, "4 × 3,000: 4 of 4 elements are wrong"),
        "one program of the launch sets it to zero": Wrong(
            {"    out.zero_()\n": "",
             "    tl.atomic":
             "    if tl.program_id(1) == 0:\n        tl.store(out_ptr + row, 0.0)\n    tl.atomic"},
            "wrote out[0] and program (0, 1) added to it",
        ),
        "only the load is atomic": Wrong(
            {"    tl.atomic_add(out_ptr + row, tl.sum(x, axis=0))":
             "    total = tl.atomic_add(out_ptr + row, 0.0)\n    tl.store(out_ptr + row, total + tl.sum(x, axis=0))"},
            "in no defined order",
        ),
        "the old total added as well": Wrong(
            {"out_ptr + row, tl.sum": "out_ptr + row, tl.load(out_ptr + row) + tl.sum"},
            "4 × 3,000: Program (0, 0) added to out[0]",
        ),
    },
    symptom="in no defined order",
)


@triton.jit
def part_kernel(x_ptr, parts_ptr, n_cols, n_parts, stride_xm, stride_xn, BLOCK: tl.constexpr):
    row, part = tl.program_id(0), tl.program_id(1)
    cols = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=cols < n_cols, other=0.0)
    #> ...  # store the sum of x where it is this program's alone: parts is contiguous, (rows, n_parts)
    tl.store(parts_ptr + row * n_parts + part, tl.sum(x, axis=0))
    #<


@triton.jit
def total_kernel(parts_ptr, out_ptr, n_parts, BLOCK: tl.constexpr):
    #> ...  # one program a row: load its n_parts sums, add them, store the total
    row = tl.program_id(0)
    offs = tl.arange(0, BLOCK)
    parts = tl.load(parts_ptr + row * n_parts + offs, mask=offs < n_parts, other=0.0)
    tl.store(out_ptr + row, tl.sum(parts, axis=0))
    #<


def row_sum_in_order(x, out):
    n_rows, n_cols = x.shape
    n_parts = triton.cdiv(n_cols, 1024)
    parts = torch.empty(n_rows, n_parts, device=x.device)
    part_kernel[(n_rows, n_parts)](x, parts, n_cols, n_parts, x.stride(0), x.stride(1), BLOCK=1024)
    total_kernel[(n_rows,)](parts, out, n_parts, BLOCK=triton.next_power_of_2(n_parts))


IN_ORDER = Exercise(
    name="debugging.row_sum_in_order",
    task=prose("""
        ### Exercise 5: the same bits at every run

        Atomic additions come in any order, so the last digits of the sums of exercise 4 change from run to run, and a
        test cannot ask for equality. Write the sum so that they do not: no element is written by two programs. The
        first launch stores the sum of each piece in a place of its own, the second adds the pieces of each row. A
        launch begins when the one before it is over, so the second sees all that the first wrote.
    """),
    reference=lambda x: x.sum(dim=1),
    cases=LONG_ROWS,
    heavy=lambda randn: (randn(1024, 65536),),
    frugal=("atomics",),
    solution=(part_kernel, total_kernel, row_sum_in_order),
    hints=(
        "`parts` has one element for each program of the first launch. Its row is `row`, its column is `part`, and a "
        "row of it has `n_parts` elements.",
        "The second kernel is a row sum, like the mean in exercise 1, of a contiguous matrix with `n_parts` columns: "
        "offsets, a mask, and `other=0.0`.",
        "`tl.store(parts_ptr + row * n_parts + part, tl.sum(x, axis=0))` in the first; in the second, load "
        "`parts_ptr + row * n_parts + offs` with `offs = tl.arange(0, BLOCK)` and store the sum to `out_ptr + row`.",
    ),
    explanation=prose("""
        Now every element has one owner, and the sum is always taken in the same order: the result is the same, bit
        for bit, at every run. The price is a second launch, and a few more bytes: a number written and read again for
        every 1,024. A matrix product with a long inner dimension and few tiles has to make the same choice.
    """),
    wrong={
        "atomic additions after all": Wrong(
            {"tl.store(out_ptr + row, tl.sum(parts, axis=0))":
             "tl.store(out_ptr + row, 0.0)\n    tl.atomic_add(out_ptr + row, tl.sum(parts, axis=0))"},
            "right, but with 4 atomic operations",
        ),
        "all rows share one place": Wrong({"row * n_parts + part,": "part,"}, "4 × 3,000: "),
        "rows of parts overlap": Wrong({"row * n_parts + part,": "row + part,"}, "4 × 3,000: "),
        "only the first piece": Wrong({"mask=offs < n_parts": "mask=offs < 1"}, "4 × 3,000: "),
        "padding takes part": Wrong({"mask=offs < n_parts, other=0.0": "mask=offs < n_parts, other=1.0"}, "4 × 3,000"),
    },
)


@triton.autotune(
    configs=[triton.Config({"BLOCK": block}) for block in (64, 256, 1024, 8192)],
    #> key=["n_rows"],
    key=["n_cols"],
    #<
    prune_configs_by={  # a row has to fit into its block
        "early_config_prune": lambda configs, args, **_: [c for c in configs if c.kwargs["BLOCK"] >= args["n_cols"]]
    },
    do_bench=lambda run, quantiles: [1.0, 1.0, 1.0],  # no clock, for this exercise: the first that is left wins
)
@triton.jit
def row_max_kernel(x_ptr, out_ptr, n_rows, n_cols, stride_xm, stride_xn, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride_xm + cols * stride_xn, mask=cols < n_cols, other=-float("inf"))
    tl.store(out_ptr + row, tl.max(x, axis=0))


def row_max(x, out):
    n_rows, n_cols = x.shape
    row_max_kernel[(n_rows,)](x, out, n_rows, n_cols, x.stride(0), x.stride(1))


ROW_MAX = Exercise(
    name="debugging.row_max",
    task=prose("""
        ### Exercise 6: it depends on what ran before

        `row_max` finds the maximum of each row; `triton.autotune` chooses the block. Each test passes when it is run
        alone, yet the suite fails. Run the check, then look at what was chosen for what: `row_max_kernel.cache` holds
        it. Repair it for good. (After each change run the cell as well as the check: the cell makes a new kernel, with
        an empty cache.)
    """),
    reference=lambda x: x.amax(dim=1),
    cases={
        "4 × 50": lambda randn: (randn(4, 50),),
        "4 × 500": lambda randn: (randn(4, 500),),
        "1 × 1": lambda randn: (randn(1, 1),),
        "1 × 129": lambda randn: (randn(1, 129),),
        "transposed 6 × 60": lambda randn: (randn(60, 6).T,),
        "transposed 6 × 600": lambda randn: (randn(600, 6).T,),
        "not contiguous: every second column": lambda randn: (randn(9, 74)[:, ::2],),
        "large: 25 × 5,000": lambda randn: (randn(25, 5000),),
    },
    heavy=lambda randn: (randn(32768, 4000),),
    solution=(row_max_kernel, row_max),
    hints=(
        "Exchange the first two cases: call `row_max` with 500 columns first, then with 50. What is wrong now?",
        "`key` names the arguments on which the choice depends; for two calls that agree in them the configuration "
        "is chosen once. In what do 4 × 50 and 4 × 500 agree?",
        "A block of 64 lanes is a good choice for 50 columns, and cuts 500 off. The choice depends on `n_cols`.",
    ),
    explanation=prose("""
        The cache answers the question that it was asked: which block is best for four rows? The first call decided,
        for 50 columns, and with 500 only the first 64 were looked at. A key has to hold everything that a choice
        depends on; Triton adds the tensors' dtypes, and nothing else. Here a stale choice gives wrong results. It is
        worth writing kernels that are right with *every* configuration, with a loop over the columns in steps of
        `BLOCK`: then a stale choice costs speed, and nothing else.
    """),
    wrong={
        "no key at all": Wrong({'key=["n_cols"]': "key=[]"}, "The key lacks an argument"),
        "keyed on a stride": Wrong({'key=["n_cols"]': 'key=["stride_xm"]'}, "The key lacks an argument"),
        "every block allowed": Wrong(
            {'if c.kwargs["BLOCK"] >= args["n_cols"]]': "]"}, "4 × 500: "
        ),
        "the largest block first, too small for the rest": Wrong(
            {"(64, 256, 1024, 8192)": "(1024, 64, 256)", 'if c.kwargs["BLOCK"] >= args["n_cols"]]': "]"}, "large: "
        ),
    },
    symptom="4 × 500: ",
)

EXERCISES = (VARIANCE, SCALE, SHUFFLE, ROW_SUM, IN_ORDER, ROW_MAX)
