"""What `check` says of a function that raises, or that does not come to an end."""
from collections.abc import Sequence

from course.lab.checking.report import CaseResult
from course.lab.interpret.observe import Launch, launched
from course.lab.interpret.place import of_error

CRASHES = {
    "arange's range must be a power of 2": "A block's size must be a power of two: round it up with "
    "triton.next_power_of_2 and mask the rest.",
    "arange's arguments must be of type tl.constexpr": "A block's size has to be known when the kernel is compiled: a "
    "parameter annotated with tl.constexpr, or a number.",
    "overflow detected": "A product or sum passed what 32 bits hold: convert the program's number with .to(tl.int64) "
    "before it is multiplied.",
    "out of range for type int32": "A literal above 2**31 - 1 is no int32: write the same bits as a negative number, "
    "as 0xFFFF0000 is -65536 (0xFFFF0000 - 2**32).",
    "illegal memory access": "A compiled kernel accessed memory that does not exist, and this process can no longer "
    "use the GPU: restart the notebook's kernel. Offsets beyond 2**31 need .to(tl.int64); a mask belongs on every load "
    "and store.",
    "missing 1 required positional": "The launch hands over fewer arguments than the kernel takes.",
    "got an unexpected keyword argument": "The launch names an argument that the kernel does not take.",
    "make_shape_compatible": "Two blocks of different shapes meet in one operation: [:, None] and [None, :] turn rows "
    "and columns into a tile.",
    "is not defined": "A kernel sees its own arguments and variables, and constants that are tl.constexpr.",
    "is neither true nor false": "`if`, `while`, `and`, `or` and `not` decide once for the whole program, and need one "
    "number. tl.where(condition, a, b) chooses for each element; `&`, `|` and `~` combine masks.",
    "'int' object is not iterable": "In a kernel, brackets take only `:` and `None`, and no loop goes over a block: "
    "tl.load(x_ptr + offs) reads the elements at offs.",
    "unsupported tensor index": "In a kernel, brackets take only `:` and `None`: tl.load(x_ptr + offs) reads the "
    "elements at offs.",
    "does not support item assignment": "A block cannot be changed in one place: tl.where(offs == i, value, block) is "
    "a new one, and tl.store(out_ptr + offs, value) writes memory.",
    "Unsupported ptr type": "The first argument of tl.load and tl.store is a pointer plus offsets: x_ptr + offs.",
    "Value argument cannot be block type": "The store has a block of values and a single address: the address needs "
    "the offsets, out_ptr + offs.",
    "invalid operands of type pointer": "An offset has to be a whole number: `//` divides without a fraction.",
    "must be Tensor, not tensor": "PyTorch's functions do not take a kernel's blocks: Triton's are in `tl`, such as "
    "tl.exp.",
    "does not support ufuncs": "NumPy's functions do not take a kernel's blocks: Triton's are in `tl`, such as tl.exp.",
    "can only convert an array of size 1": "A Python function was given a block where it needs one number: Triton's "
    "functions for blocks are in `tl`, such as tl.exp.",
    "Expected dtype ['fp32', 'fp64']": "This function takes float32: convert its argument with .to(tl.float32).",
    "Did you forget to add @triton.jit": "Functions of `tl` work inside of a kernel, below @triton.jit, alone.",
    "object is not subscriptable": "A kernel is launched with its grid in brackets, kernel[grid](…), and has to stand "
    "below @triton.jit.",
    "Cannot call @triton.jit'd outside": "A kernel is launched with its grid in brackets, kernel[grid](…).",
    "'ellipsis'": "There is still a ... where code belongs.",
}
"""What errors that learners meet usually mean, by a part of their text."""


def crash(name: str, error: Exception) -> CaseResult:
    """A case that raised: the line of the learner's code, the error, and what it usually means."""
    text = str(error).strip() or type(error).__name__
    what = f"{type(error).__name__}: {text[-600:]}"
    means = [tip for sign, tip in CRASHES.items() if sign in what]
    place = of_error(error)
    return CaseResult(name, f"{what}\nIn {place}" if place else what, means=means[:1])


COMPILED_ONLY = ("not supported in interpreter mode", "'InterpreterBuilder' object has no attribute")
"""What the interpreter says of inline assembler, libdevice's functions, and instructions that it does not have."""


def compiled_only(error: Exception) -> bool:
    """Whether what `error` stopped in the interpreter may be right compiled: the interpreter cannot run it, or it was
    raised outside of a launch, by a function that asks for something that tensors have on a GPU alone."""
    return any(sign in str(error) for sign in COMPILED_ONLY) or not launched(error)


def too_long(name: str, seconds: float, launches: Sequence[Launch], error: BaseException) -> CaseResult:
    """A case that was stopped: where it was, and how far it had come."""
    what = f"still running after {seconds:g} seconds"
    place = of_error(error.__cause__) if error.__cause__ else None
    if place:
        what += f", in {place}"
    running = launches[-1] if launches and launches[-1].running else None
    if running:
        done = running.begun - 1
        what += f". {done:,} of {running.chosen:,} programs of {running.kernel.__name__} had run"
        if running.chosen < running.programs:
            what += f" ({running.chosen:,} of the {running.programs:,} were to)"
    if running and done < 16:
        means = "A loop never ends: does what it tests change in each turn? Or one program does the work of thousands."
    elif running:
        means = ("Each program comes to its end, but there are many. In the interpreter the time goes with the number "
                 "of programs and of turns of their loops: larger blocks need fewer.")
    else:
        means = "A loop outside of the kernel never ends, or there are very many launches."
    return CaseResult(name, what, fatal=True, means=[means])
