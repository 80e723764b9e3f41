"""Triton's interpreter with every memory access on record: the same on a machine with a GPU and without one.

Where kernels are compiled, `observed` interprets them for its duration: a launch, a call of one jit function by
another and the member functions of `tl.tensor` all lead to the interpreter, and everything is put back afterwards.
"""
import contextlib
import dataclasses
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from course import _interpreter  # noqa: F401  in effect once imported
from course.runtime import INTERPRET

_ONE_AT_A_TIME = threading.Lock()

# the interpreter computes with NumPy, which warns of an infinity; a GPU warns of nothing
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"triton\.runtime\.interpreter")
warnings.filterwarnings("ignore", "overflow encountered in reduce", RuntimeWarning, r"numpy\._core\.fromnumeric")


class Access(NamedTuple):
    """One load, store or atomic instruction of one program of one launch: of each lane its address, its mask,
    whether the address belongs to any tensor of the launch, and of a store the value."""

    kind: str
    launch: int
    program: tuple[int, int, int]
    addresses: np.ndarray
    mask: np.ndarray
    ours: np.ndarray
    itemsize: int
    value: np.ndarray | None = None


@contextlib.contextmanager
def observed(observe: Callable[[Access], None]) -> Iterator[None]:
    """Interprets every kernel launched inside, and calls `observe` with each of its memory accesses.

    Memory that belongs to none of a launch's tensors is neither read nor written, so that a wild
    pointer is on record and does no harm. Integers that overflow, and assertions of the kernel, raise.
    """
    regions, launches = [], 0

    def see(kind, builder, pointers, mask, value=None):
        addresses = np.asarray(pointers.data)
        mask = np.broadcast_to(np.asarray(mask.data, dtype=bool), addresses.shape)
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        ours = np.zeros(addresses.shape, dtype=bool)
        for first, end in regions:
            ours |= (addresses >= first) & (addresses <= end - itemsize)
        if value is not None:
            value = np.broadcast_to(np.asarray(value.data), addresses.shape)
        observe(Access(kind, launches, tuple(builder.grid_idx), addresses, mask, ours, itemsize, value))
        return TensorHandle(mask & ours, tl.int1)

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    atomic_rmw, atomic_cas = InterpreterBuilder.create_atomic_rmw, InterpreterBuilder.create_atomic_cas
    host_args = GridExecutor._init_args_hst

    def masked_load(self, pointers, mask, *rest, **options):
        return load(self, pointers, see("load", self, pointers, mask), *rest, **options)

    def masked_store(self, pointers, value, mask, *rest, **options):
        return store(self, pointers, value, see("store", self, pointers, mask, value), *rest, **options)

    def rmw(self, op, pointers, value, mask, *rest):
        return atomic_rmw(self, op, pointers, value, see("atomic", self, pointers, mask), *rest)

    def cas(self, pointers, *rest):
        everyone = TensorHandle(np.ones_like(pointers.data, dtype=bool), tl.int1)
        if not see("atomic", self, pointers, everyone).data.all():
            raise IndexError("atomic_cas outside of every tensor")
        return atomic_cas(self, pointers, *rest)

    def launched_with(self, args, kwargs):
        nonlocal launches
        launches += 1
        args, kwargs = host_args(self, args, kwargs)
        regions[:] = [extent(t) for t in tensors_in([*args, *kwargs.values()])]
        return args, kwargs

    with _ONE_AT_A_TIME, contextlib.ExitStack() as patches:
        for owner, name, new in [
            (InterpreterBuilder, "create_masked_load", masked_load),
            (InterpreterBuilder, "create_masked_store", masked_store),
            (InterpreterBuilder, "create_atomic_rmw", rmw),
            (InterpreterBuilder, "create_atomic_cas", cas),
            (GridExecutor, "_init_args_hst", launched_with),
            (interpreter, "_patch_lang_tensor", patch_tensor),
            (interpreter.interpreter_builder, "options", checking_options()),
        ]:
            patches.enter_context(mock.patch.object(owner, name, new))
        if not INTERPRET:
            patches.enter_context(_jit_functions_interpreted())
        yield


def interpreted() -> contextlib.AbstractContextManager[None]:
    """Interprets every kernel launched inside, on any machine: `print` and `breakpoint()` work in it as in Python.

    Slow, on copies of the tensors in the CPU's memory, which are copied back. Stray accesses do no harm; an integer
    that overflows raises an error.
    """
    return observed(lambda access: None)


def checking_options():
    """The interpreter's own, which would let an int32 overflow and a failing tl.device_assert pass."""
    return dataclasses.replace(interpreter.interpreter_builder.options, debug=True, sanitize_overflow=True)


def extent(t: torch.Tensor) -> tuple[int, int]:
    """First address of the memory that `t` is a view of, and the address behind it."""
    storage = t.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def tensors_in(args) -> Iterator[torch.Tensor]:
    """The tensors among a launch's arguments, in tuples and descriptors too."""
    for arg in args:
        if isinstance(arg, torch.Tensor):
            yield arg
        elif isinstance(arg, tuple):
            yield from tensors_in(arg)
        elif isinstance(arg, TensorDescriptor):
            yield arg.base


_patch_lang_tensor = interpreter._patch_lang_tensor


def patch_tensor(tensor, scope):
    """Triton 3.6 cannot make an index of a tensor, as range(n) needs it, beside NumPy 2.4."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


@contextlib.contextmanager
def _jit_functions_interpreted() -> Iterator[None]:
    interpreted = functools.cache(InterpretedFunction)

    def run(self, *args, **kwargs):
        return interpreted(self.fn).run(*args, **kwargs)

    def called(self, *args, **kwargs):
        return interpreted(self.fn)(*args, **kwargs)

    def bound(self, instance, owner=None):  # x.sum() in a kernel: tl.tensor holds jit functions as methods
        return functools.partial(self, instance) if isinstance(instance, tl.tensor) else self

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(JITFunction, "__call__", called),
        mock.patch.object(JITFunction, "__get__", bound, create=True),
        triton.knobs.runtime.scope(),
    ):
        triton.knobs.runtime.interpret = True
        yield
