"""Triton's interpreter, made quicker and tidier.

Before every launch, and again for every call of one jit function by another, it goes through all members of
`triton.language` and replaces those that are built in, which took most of the time of a small launch. Which ones these
are does not change, so they are looked for once. After a call it left them replaced, and nothing could be compiled any
more in the same process; here they are put back.
"""
import inspect

import triton.language as tl
from triton.runtime import interpreter


BUILTINS = {
    owner: [(name, member) for name, member in inspect.getmembers(owner) if tl.core.is_builtin(member)]
    for owner in (tl, tl.core, tl.math, tl.tensor, tl.core.tensor_descriptor_base)
}
"""The members of Triton's modules and classes that the interpreter replaces, by their names."""


def patch_builtin(owner, builder, scope) -> None:
    for name, member in BUILTINS[owner]:
        if getattr(owner, name) is member:  # the caller may have replaced it already
            interpreter._patch_attr(owner, name, member, builder, scope)


def call(self, *args, **kwargs):
    """A jit function called by another one."""
    scope = interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    finally:
        scope.restore()


interpreter._patch_builtin = patch_builtin
interpreter.InterpretedFunction.__call__ = call
