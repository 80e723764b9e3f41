"""Triton's interpreter, made quicker and tidier.

Before every launch, and again for every call of one jit function by another, Triton's interpreter goes through all
members of `triton.language` and replaces those that are built in, which took most of the time of a small launch. Which
members are built in does not change: here they are looked for once. After such a call the interpreter left them
replaced, and nothing could be compiled any more in the same process: here they are put back.

What is replaced, and the number of the program that runs, are the process's: two threads that launch at once would
compute with each other's. Here one launch waits for the other.
"""
import inspect
import threading
import warnings

import numpy
import triton.language as tl
from triton.runtime import interpreter

BUILTINS = {
    owner: [(name, member) for name, member in inspect.getmembers(owner) if tl.core.is_builtin(member)]
    for owner in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
}
"""The members of Triton's modules and classes that the interpreter replaces, by their names."""

# x.exp() and its like are built in, too, but Triton marks only the functions, and an interpreted method failed
BUILTINS[tl.tensor] += [
    (name, member) for name, member in inspect.getmembers(tl.tensor)
    if not tl.core.is_builtin(member) and tl.core.is_builtin(getattr(tl.math, name, None))
]

# of the largest of some NaNs, which no GPU says anything of, and numpy.errstate does not silence
warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning, "triton.runtime.interpreter")

PATCH_LANG_TENSOR, RUN = interpreter._patch_lang_tensor, interpreter.InterpretedFunction.run
"""The interpreter's own, below ours."""

ONE_LAUNCH = threading.RLock()
"""Held by the thread whose launch is interpreted, which may launch again, in a hook or a grid."""


def patch_builtin(owner, builder, scope) -> None:
    for name, member in BUILTINS[owner]:
        if getattr(owner, name) is member:  # the caller may have replaced it already
            interpreter._patch_attr(owner, name, member, builder, scope)


def patch_lang_tensor(tensor, scope) -> None:
    """Triton 3.6 cannot make an index of a tensor, as range(n) needs it, beside NumPy 2.4."""
    PATCH_LANG_TENSOR(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def call(self, *args, **kwargs):
    """A jit function called by another one."""
    scope = interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    finally:
        scope.restore()


def run(self, *args, **kwargs):
    """A launch. NumPy, which computes it, would warn of an infinity, as no GPU does."""
    with ONE_LAUNCH, numpy.errstate(all="ignore"):
        return RUN(self, *args, **kwargs)


interpreter._patch_builtin = patch_builtin
interpreter._patch_lang_tensor = patch_lang_tensor
interpreter.InterpretedFunction.__call__ = call
interpreter.InterpretedFunction.run = run
