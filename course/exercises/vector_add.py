"""Exercises of the chapter on vector addition (notebooks/vector_add.ipynb)."""
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose
from course.runtime import num_sms

SHORT = {
    "1,000 elements": lambda randn: (randn(1000), randn(1000)),
    "1 element": lambda randn: (randn(1), randn(1)),
    "2,048 elements": lambda randn: (randn(2048), randn(2048)),
    "3,333 elements": lambda randn: (randn(3333), randn(3333)),
    "not contiguous: every second of 3,000": lambda randn: (randn(3000)[::2], randn(1500)),
    "not contiguous: one element, expanded": lambda randn: (randn(777), randn(1).expand(777)),
}
LARGE = {"large: 100,003 elements": lambda randn: (randn(100_003), randn(100_003))}


@triton.jit
def my_add_kernel(x_ptr, y_ptr, out_ptr, n, stride_x, stride_y, BLOCK: tl.constexpr):
    #> offs = ...  # 1. the BLOCK elements that this program owns
    #> mask = ...  # 2. which of them exist
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    #<
    x = tl.load(x_ptr + offs * stride_x, mask=mask)
    y = tl.load(y_ptr + offs * stride_y, mask=mask)
    tl.store(out_ptr + offs, x + y, mask=mask)


def my_add(x, y, out):
    n = out.numel()
    #> grid = ...  # 3. how many programs, so that every element has one: a tuple of one number
    grid = (triton.cdiv(n, 1024),)
    #<
    my_add_kernel[grid](x, y, out, n, x.stride(0), y.stride(0), BLOCK=1024)


FILL_IN = Exercise(
    name="vector_add.fill_in",
    task=prose("""
        ### Exercise 1: fill in the gaps

        `my_add` adds two vectors of any length and any stride into `out`. Three expressions are missing. Replace
        each `...`, run the cell, and run the check below it.
    """),
    reference=lambda x, y: x + y,
    cases=SHORT | LARGE,
    heavy=lambda randn: (randn(2**26), randn(2**26)),
    solution=(my_add_kernel, my_add),
    hints=(
        "Program 0 owns elements 0 to `BLOCK - 1`, program 1 the next `BLOCK`, and so on. "
        "`tl.program_id(0)` says which program this is, `tl.arange(0, BLOCK)` counts its lanes.",
        "A lane may work only where its offset is one of `0, 1, …, n - 1`. The mask is a comparison of the whole block "
        "with `n`.",
        "`offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)` and `mask = offs < n`. The grid needs `n / BLOCK` "
        "programs, rounded up: there is `triton.cdiv` for that.",
    ),
    explanation=prose("""
        The offsets are those of step 2, the mask that of step 3. `triton.cdiv(n, 1024)` is `(n + 1023) // 1024`:
        rounded down, the last `n % 1024` elements would have no program. The stride turns an index, which counts
        elements of the tensor, into a distance in memory: of `x[::2]` every second element is read, and of an
        expanded tensor, whose stride is 0, always the same one.
    """),
    wrong={
        "the mask lets one lane too many pass": Wrong({"offs < n": "offs <= n"}, "compares with the wrong length"),
        "every program works on the first block": Wrong(
            {"tl.program_id(0) * BLOCK + tl": "tl"}, "Do the offsets depend on tl.program_id"
        ),
        "the grid is rounded down": Wrong({"triton.cdiv(n, 1024)": "n // 1024"}, "Nothing was written"),
        "neighbouring programs overlap": Wrong({"(0) * BLOCK": "(0)"}, "The end is missing"),
        "the mask loses the last element": Wrong({"offs < n": "offs < n - 1"}, "Only the last element is missing"),
        "no stride for x": Wrong({"offs * stride_x": "offs"}, "is an index times the stride"),
        "PyTorch adds": Wrong(
            {"my_add_kernel[grid](x, y, out, n, x.stride(0), y.stride(0), BLOCK=1024)": "out.copy_(x + y)"},
            "right, but computed by PyTorch (add, in line",
        ),
        "a kernel copies what PyTorch added": Wrong(
            {"my_add_kernel[grid](x, y, out, n,": "my_add_kernel[grid](x + y, y * 0, out, n,"},
            "right, but computed by PyTorch (add, in line",
        ),
    },
)


@triton.jit
def axpy_kernel(x_ptr, y_ptr, out_ptr, alpha, n, stride_x, stride_y, BLOCK: tl.constexpr):
    #> ...  # load x and y, convert both with .to(tl.float32), compute, store
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs * stride_x, mask=mask).to(tl.float32)
    y = tl.load(y_ptr + offs * stride_y, mask=mask).to(tl.float32)
    tl.store(out_ptr + offs, alpha * x + y, mask=mask)
    #<


def axpy(x, y, alpha, out):
    n = out.numel()
    axpy_kernel[(triton.cdiv(n, 1024),)](x, y, out, alpha, n, x.stride(0), y.stride(0), BLOCK=1024)


def nearly_cancelling(randn):
    """What is left of two float16 numbers is smaller than the rounding of their product in float16."""
    x = randn(600).half()
    return x, (randn(600) / 300 - 0.1 * x.float()).half(), 0.1


AXPY = Exercise(
    name="vector_add.axpy",
    task=prose("""
        ### Exercise 2: two operations for the price of one

        Write the body of a kernel that computes `alpha * x + y`, which linear algebra libraries call *axpy*.
        Written in PyTorch as `alpha * x + y`, it takes two kernels and moves five vectors: read `x`, write the
        product, read it again, read `y`, write the sum. Yours moves three. The inputs may be float16: convert what
        you load to float32 before you compute.
    """),
    reference=lambda x, y, alpha: alpha * x + y,
    cases={name: lambda randn, make=make: (*make(randn), 0.5) for name, make in (SHORT | LARGE).items()}
    | {"float16": lambda randn: (randn(500).half(), randn(500).half(), 0.1),
       "float16, terms that nearly cancel": nearly_cancelling},
    heavy=lambda randn: (randn(2**26), randn(2**26), 0.5),
    frugal=("reads", "launches"),
    solution=(axpy_kernel, axpy),
    hints=(
        "Everything but one line is the kernel of exercise 1.",
        "`alpha` is a plain number: it arrives as a scalar, needs no load, and multiplies a whole block.",
        "`x = tl.load(x_ptr + offs * stride_x, mask=mask).to(tl.float32)`, the same for `y`, then store "
        "`alpha * x + y`. The store converts back to the type of `out`.",
    ),
    explanation=prose("""
        The product never leaves the registers: that is *fusion*, and on work that waits for memory it is worth
        the bytes it saves, here two vectors of five. Computing in float32 costs nothing here, for the arithmetic
        units wait anyway, and the result is rounded once, by the store. `.to(tl.int64)` allows vectors of more than
        2³¹ elements.
    """),
    wrong={
        "the product is rounded to float16": Wrong(
            {".to(tl.float32)": "", "alpha * x + y": "(alpha * x).to(out_ptr.dtype.element_ty) + y"},
            "terms that nearly cancel: ",
        ),
        "alpha on the other operand": Wrong({"alpha * x + y": "x + alpha * y"}, "look at the formula"),
        "no y": Wrong({"alpha * x + y": "alpha * x"}, "look at the formula"),
        "the load of x has no mask": Wrong({"offs * stride_x, mask=mask": "offs * stride_x"}, "A load reached outside"),
        "the store has no mask": Wrong({"x + y, mask=mask)": "x + y)"}, "A store went past the output"),
    },
)


@triton.jit
def add_row_kernel(
    x_ptr, row_ptr, out_ptr, n_rows, n_cols,
    stride_xm, stride_xn, stride_row, stride_om, stride_on,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    #> rows = ...  # the BLOCK_M rows of this program's tile
    #> cols = ...  # its BLOCK_N columns
    #> ...         # load the tile of x and the piece of the row, add them, store
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    x = tl.load(x_ptr + rows[:, None] * stride_xm + cols[None, :] * stride_xn, mask=inside)
    row = tl.load(row_ptr + cols * stride_row, mask=cols < n_cols)
    tl.store(out_ptr + rows[:, None] * stride_om + cols[None, :] * stride_on, x + row[None, :], mask=inside)
    #<


def add_row(x, row, out):
    #> grid = ...  # how many tiles of 16 rows and 64 columns cover out: a tuple of two numbers
    grid = (triton.cdiv(out.shape[0], 16), triton.cdiv(out.shape[1], 64))
    #<
    add_row_kernel[grid](
        x, row, out, out.shape[0], out.shape[1],
        x.stride(0), x.stride(1), row.stride(0), out.stride(0), out.stride(1),
        BLOCK_M=16, BLOCK_N=64,
    )


ADD_ROW = Exercise(
    name="vector_add.add_row",
    task=prose("""
        ### Exercise 3: two dimensions, and a broadcast without a copy

        Add a row to every row of a matrix: `out[i, j] = x[i, j] + row[j]`. This is how a bias is added. Now the
        grid has two dimensions, and `tl.program_id(1)` is a program's place in the second. A program owns a *tile* of
        16 rows and 64 columns, and the tensors come with any strides: a transposed `x` must work without a copy. A
        column of row numbers and a row of column numbers make a tile of offsets: `rows[:, None] * stride_xm +
        cols[None, :] * stride_xn`.
    """),
    reference=lambda x, row: x + row,
    cases={
        "16 × 64": lambda randn: (randn(16, 64), randn(64)),
        "37 × 129": lambda randn: (randn(37, 129), randn(129)),
        "129 × 37": lambda randn: (randn(129, 37), randn(37)),
        "1 × 1": lambda randn: (randn(1, 1), randn(1)),
        "transposed 70 × 50": lambda randn: (randn(50, 70).T, randn(50)),
        "not contiguous: slices": lambda randn: (randn(80, 90)[::2, 3:75], randn(144)[::2]),
        "large: 128 × 1,001": lambda randn: (randn(128, 1001), randn(1001)),
    },
    heavy=lambda randn: (randn(8192, 8192), randn(8192)),
    frugal=("copies",),
    solution=(add_row_kernel, add_row),
    hints=(
        "Start with two 1-D ranges: `rows` from `tl.program_id(0)` and `cols` from `tl.program_id(1)`, each as in "
        "exercise 1. The grid has one number for each.",
        "`rows[:, None]` has shape `(BLOCK_M, 1)`, `cols[None, :]` has `(1, BLOCK_N)`; their sum is a tile. The mask "
        "is made the same way, with `&`: a lane needs a row and a column that exist.",
        "The row is one-dimensional: `row = tl.load(row_ptr + cols * stride_row, mask=cols < n_cols)`. Added as "
        "`x + row[None, :]` it meets every row of the tile.",
    ),
    explanation=prose("""
        A tile is a block with two dimensions; everything else is as before. The row is loaded once for a tile of 16
        rows and broadcast in registers, so that its bytes hardly count. With one stride a dimension the kernel does
        not care how a tensor lies in memory: a transposed matrix is the same memory with its two strides exchanged.
        How fast it is does depend on it: lanes that are neighbours should read neighbours in memory, which the
        chapter on convolution comes back to.
    """),
    wrong={
        "the strides of x are swapped": Wrong(
            {"rows[:, None] * stride_xm + cols[None, :] * stride_xn":
             "rows[:, None] * stride_xn + cols[None, :] * stride_xm"},
            "Only the diagonal is right",
        ),
        "columns are not masked": Wrong(
            {"(rows < n_rows)[:, None] & (cols < n_cols)[None, :]": "(rows < n_rows)[:, None] & (cols >= 0)[None, :]"},
            "A store went past the output",
        ),
        "the grid's dimensions are swapped": Wrong(
            {"out.shape[0], 16), triton.cdiv(out.shape[1], 64)": "out.shape[1], 64), triton.cdiv(out.shape[0], 16)"},
            "the grid (1, 9) has lanes enough",
        ),
        "a copy of x": Wrong(
            {"    add_row_kernel[grid](": "    x = x.contiguous()\n    add_row_kernel[grid]("},
            "right, but PyTorch copies 14,000 bytes in line",
        ),
        "the output's strides are swapped": Wrong(
            {"x.stride(0), x.stride(1), row.stride(0), out.stride(0), out.stride(1)":
             "x.stride(0), x.stride(1), row.stride(0), out.stride(1), out.stride(1)"},
            "Several lanes meet on one",
        ),
        "x is taken to be contiguous": Wrong(
            {"rows[:, None] * stride_xm + cols[None, :] * stride_xn": "rows[:, None] * n_cols + cols[None, :]"},
            "is an index times the stride",
        ),
        "the row has no column offset": Wrong(
            {"row_ptr + cols * stride_row": "row_ptr + tl.arange(0, BLOCK_N) * stride_row"}, "Some elements are right"
        ),
        "the row stands upright": Wrong({"row[None, :]": "row[:, None]"}, "Two blocks of different shapes"),
    },
)


@triton.jit
def persistent_add_kernel(x_ptr, y_ptr, out_ptr, n, stride_x, stride_y, BLOCK: tl.constexpr):
    #> ...  # a loop over this program's blocks, with the body of exercise 1
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        offs = start + tl.arange(0, BLOCK)
        mask = offs < n
        x = tl.load(x_ptr + offs * stride_x, mask=mask)
        y = tl.load(y_ptr + offs * stride_y, mask=mask)
        tl.store(out_ptr + offs, x + y, mask=mask)
    #<


def persistent_add(x, y, out):
    n = out.numel()
    grid = (min(4 * num_sms(), triton.cdiv(n, 1024)),)
    persistent_add_kernel[grid](x, y, out, n, x.stride(0), y.stride(0), BLOCK=1024)


PERSISTENT = Exercise(
    name="vector_add.persistent",
    task=prose("""
        ### Exercise 4: programs that stay

        So far the number of programs grew with the input. A *persistent* kernel starts a fixed number, here four
        for each multiprocessor, and each of them loops: program `p` of `P` takes the blocks `p`, `p + P`, `p + 2
        P`, … (CUDA calls it a grid-stride loop). Write the body. `tl.num_programs(0)` is `P`; `range(first, end,
        step)` works in a kernel as it does in Python.
    """),
    reference=lambda x, y: x + y,
    cases=SHORT
    | {"several rounds": lambda randn: (randn(5000 * num_sms() + 3), randn(5000 * num_sms() + 3))}
    | LARGE,
    heavy=lambda randn: (randn(2**26), randn(2**26)),
    frugal=("programs", "reads"),
    solution=(persistent_add_kernel, persistent_add),
    hints=(
        "Let the loop variable be the first element of a block. Program `p` starts at `p * BLOCK`.",
        "All programs together do one round of `tl.num_programs(0)` blocks: from one of its blocks to the next, a "
        "program skips `tl.num_programs(0) * BLOCK` elements.",
        "`for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):` and inside it `offs = start + "
        "tl.arange(0, BLOCK)`, the mask, two loads and a store.",
    ),
    explanation=prose("""
        Each block still belongs to exactly one program; only who does it changed. Compare the speed with exercise
        1's on a GPU: an add has nothing to prepare, and all its blocks cost the same, so there is little that a
        loop could win. It pays where something can be prepared once and kept, or where the end of one block can
        overlap with the beginning of the next: the matrix product has a persistent version.
    """),
    wrong={
        "one round only": Wrong(
            {"in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK)":
             "in range(tl.program_id(0) * BLOCK, (tl.program_id(0) + 1) * BLOCK, BLOCK)"},
            "several rounds: ",
        ),
        "no mask in the loop": Wrong({"x + y, mask=mask)": "x + y)"}, "A store went past the output"),
        "rounds overlap and leave gaps": Wrong(
            {"range(tl.program_id(0) * BLOCK, n": "range(tl.program_id(0), n"}, "2,048 elements: "
        ),
        "a step of one block": Wrong(
            {"tl.num_programs(0) * BLOCK)": "BLOCK)"}, "right, but it reads"
        ),
        "a step of one element": Wrong({"tl.num_programs(0) * BLOCK)": "1)"}, "still running after"),
        "no loop, and a program for each block": Wrong(
            {"min(4 * num_sms(), triton.cdiv(n, 1024))": "triton.cdiv(n, 1024)",
             "n, tl.num_programs(0) * BLOCK)": "(tl.program_id(0) + 1) * BLOCK, BLOCK)"},
            "right, but with",
        ),
        "a loop that never ends": Wrong(
            {"    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):":
             "    start = tl.program_id(0) * BLOCK\n    while start < n:"},
            "never ends",
        ),
    },
)

EXERCISES = (FILL_IN, AXPY, ADD_ROW, PERSISTENT)
