"""Exercises of the chapter that starts the course (notebooks/start_here.ipynb)."""
import triton
import triton.language as tl

from course.lab.checking.exercise import Exercise, Wrong, prose

VECTORS = {
    "1,000 elements": lambda randn: (randn(1000),),
    "1 element": lambda randn: (randn(1),),
    "2,048 elements": lambda randn: (randn(2048),),
    "3,333 elements": lambda randn: (randn(3333),),
    "not contiguous: every second of 3,000": lambda randn: (randn(3000)[::2],),
    "large: 100,003 elements": lambda randn: (randn(100_003),),
}


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask)
    #> y = ...  # twice x
    y = 2 * x
    #<
    tl.store(out_ptr + offs, y, mask=mask)


def double(x, out):
    n = out.numel()
    double_kernel[(triton.cdiv(n, 1024),)](x.contiguous(), out, n, BLOCK=1024)


DOUBLE = Exercise(
    name="start_here.double",
    task=prose("""
        ### Exercise 1: double every element

        One expression is missing. `x` is a block of 1,024 numbers, and arithmetic with it works as in PyTorch. Replace
        the `...`, run the cell, and run the check below it.
    """),
    reference=lambda x: 2 * x,
    cases=VECTORS,
    heavy=lambda randn: (randn(2**26),),
    solution=(double_kernel, double),
    hints=(
        "The first kernel above stores `x + 1` where this one stores `y`.",
        "A number and a block may be multiplied: the number meets every element.",
        "`y = 2 * x`, or `y = x + x`.",
    ),
    explanation=prose("""
        Whatever is done to a block is done to each of its elements. The rest of this kernel, which element belongs to
        which program, which elements there are, where they lie in memory, is the same in nearly every kernel.
    """),
    wrong={
        "nothing happens": Wrong({"y = 2 * x": "y = x"}, "This is the input x itself"),
        "the square": Wrong({"y = 2 * x": "y = x * x"}, "Every element is wrong"),
        "the place instead of what is there": Wrong({"y = 2 * x": "y = 2 * offs"}, "Every element is wrong"),
        "no mask at the end": Wrong({"y, mask=mask": "y"}, "A store went past the output"),
    },
)


@triton.jit
def square_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    #> x = ...  # load this program's block
    #> ...      # store the square of each of its elements
    x = tl.load(x_ptr + offs, mask=mask)
    tl.store(out_ptr + offs, x * x, mask=mask)
    #<


def square(x, out):
    n = out.numel()
    square_kernel[(triton.cdiv(n, 1024),)](x.contiguous(), out, n, BLOCK=1024)


SQUARE = Exercise(
    name="start_here.square",
    task=prose("""
        ### Exercise 2: square every element

        Now the way from memory and the way back are missing: load the block, and store the squares. Both need the
        mask. Try it once without, and see what the check makes of it.
    """),
    reference=lambda x: x * x,
    cases=VECTORS,
    heavy=lambda randn: (randn(2**26),),
    solution=(square_kernel, square),
    hints=(
        "A pointer plus the block of offsets is a block of addresses: `tl.load` takes one, and so does `tl.store`.",
        "`x = tl.load(x_ptr + offs, mask=mask)`. The store takes addresses, values and a mask, in this order.",
        "`tl.store(out_ptr + offs, x * x, mask=mask)`.",
    ),
    explanation=prose("""
        Loads and stores are the only way in and out of a kernel. The mask keeps both away from memory behind the end of
        the tensor: 1,000 elements fill a block of 1,024 only in part.
    """),
    wrong={
        "the load has no mask": Wrong({"x_ptr + offs, mask=mask": "x_ptr + offs"}, "A load reached outside"),
        "the store has no mask": Wrong({"x * x, mask=mask": "x * x"}, "A store went past the output"),
        "the square goes back into x": Wrong({"tl.store(out_ptr": "tl.store(x_ptr"}, "An input was written to"),
        "every program reads the first block": Wrong(
            {"x_ptr + offs": "x_ptr + tl.arange(0, BLOCK)"}, "Some elements are right"
        ),
        "the double": Wrong({"x * x": "2 * x"}, "look at the formula"),
    },
)


@triton.jit
def clamp_kernel(x_ptr, out_ptr, low, high, n, BLOCK: tl.constexpr):
    #> ...  # the whole body: offsets, mask, load, compute, store
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask)
    tl.store(out_ptr + offs, tl.minimum(tl.maximum(x, low), high), mask=mask)
    #<


def clamp(x, low, high, out):
    n = out.numel()
    #> grid = ...  # how many programs of 1,024 elements? a tuple of one number
    grid = (triton.cdiv(n, 1024),)
    #<
    clamp_kernel[grid](x.contiguous(), out, low, high, n, BLOCK=1024)


CLAMP = Exercise(
    name="start_here.clamp",
    task=prose("""
        ### Exercise 3: a whole kernel

        Write a `clamp`: numbers below `low` become `low`, numbers above `high` become `high`, the others stay. The body
        of the kernel is yours, and so is the number of programs. `tl.maximum(a, b)` and `tl.minimum(a, b)` compare
        element by element; `low` and `high` are plain numbers and need no load.
    """),
    reference=lambda x, low, high: x.clamp(low, high),
    cases={name: lambda randn, make=make: (*make(randn), -0.5, 1.0) for name, make in VECTORS.items()},
    heavy=lambda randn: (randn(2**26), -0.5, 1.0),
    solution=(clamp_kernel, clamp),
    hints=(
        "All lines but the one that computes stand in the exercises above.",
        "The larger one of `x` and `low` is never below `low`. What keeps it from being above `high`?",
        "Store `tl.minimum(tl.maximum(x, low), high)`. The grid has `n / 1024` programs, rounded up: "
        "`(triton.cdiv(n, 1024),)`.",
    ),
    explanation=prose("""
        The operation is new, the rest is the skeleton of every kernel that works element by element. Rounding the
        number of programs up gives the last elements a program too, and its mask switches off the lanes in excess.
    """),
    wrong={
        "only from above": Wrong({"tl.maximum(x, low)": "x"}, "Some elements are right"),
        "low and high are exchanged": Wrong(
            {"tl.minimum(tl.maximum(x, low), high)": "tl.minimum(tl.maximum(x, high), low)"}, "Some elements are right"
        ),
        "the number of programs is rounded down": Wrong({"triton.cdiv(n, 1024)": "n // 1024"}, "Nothing was written"),
        "every program takes the first block": Wrong(
            {"tl.program_id(0) * BLOCK + ": ""}, "Do the offsets depend on tl.program_id"
        ),
        "one program": Wrong({"(triton.cdiv(n, 1024),)": "(1,)"}, "Only the first 1024 elements were written"),
    },
)

EXERCISES = (DOUBLE, SQUARE, CLAMP)
