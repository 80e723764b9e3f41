"""`observed`: kernels run in Triton's interpreter, and each of their memory accesses is passed to a function.

The same on a machine with a GPU and without one. Where kernels are compiled, `observed` interprets them for its
duration: a launch, a call of one jit function by another and the member functions of `tl.tensor` all lead to the
interpreter, and everything is put back afterwards.
"""
import builtins
import contextlib
import dataclasses
import functools
import inspect
import math
import operator
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
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

import course.interpreter  # noqa: F401  in effect once imported
from course.runtime import INTERPRET

_ONE_AT_A_TIME = threading.Lock()

TRITON = os.path.join(os.path.dirname(triton.__file__), "")
"""The folder of Triton's own code."""


@dataclasses.dataclass
class Launch:
    """One launch: how many of its programs were to run, `chosen`, and how many have begun."""

    kernel: Callable
    grid: tuple[int, ...]
    chosen: int = 0
    begun: int = 0
    running: bool = True

    @property
    def programs(self) -> int:
        return math.prod(self.grid)


class Access(NamedTuple):
    """One load, store or atomic instruction of one program of one launch: of each lane its address, its mask,
    whether the address is in any tensor of the launch, and of a store the value."""

    kind: str
    launch: int
    grid: tuple[int, ...]
    program: tuple[int, int, int]
    addresses: np.ndarray
    mask: np.ndarray
    in_a_tensor: np.ndarray
    itemsize: int
    value: np.ndarray | None = None


@contextlib.contextmanager
def observed(observe: Callable[[Access], None], most_programs: int | None = None) -> Iterator[list[Launch]]:
    """Interprets every kernel launched inside, and calls `observe` with each of its memory accesses.

    Memory that belongs to none of a launch's tensors is neither read nor written, so that a wrong
    pointer is recorded and does no harm. Integers that overflow, assertions of the kernel, and blocks of several
    elements that are asked whether they are true raise, as whatever is wrong in a kernel does, its own exception.
    Of a launch of more than `most_programs` programs a quarter of that number runs, spread over the grid. Yields the
    list of the launches so far.
    """
    regions: list[tuple[int, int]] = []
    launches: list[Launch] = []

    def see(kind, builder, pointers, mask, value=None):
        addresses = np.asarray(pointers.data)
        mask = np.broadcast_to(np.asarray(mask.data, dtype=bool), addresses.shape)
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        in_a_tensor = np.zeros(addresses.shape, dtype=bool)
        for first, end in regions:
            in_a_tensor |= (addresses >= first) & (addresses <= end - itemsize)
        if value is not None:
            value = np.broadcast_to(np.asarray(value.data), addresses.shape)
        place = len(launches), launches[-1].grid, tuple(builder.grid_idx)
        observe(Access(kind, *place, addresses, mask, in_a_tensor, itemsize, value))
        return TensorHandle(mask & in_a_tensor, tl.int1)

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
        all_lanes = TensorHandle(np.ones_like(pointers.data, dtype=bool), tl.int1)
        if not see("atomic", self, pointers, all_lanes).data.all():
            raise IndexError("atomic_cas outside of every tensor")
        return atomic_cas(self, pointers, *rest)

    def run(self, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name in inspect.getfullargspec(self.fn).args}
        host, host_kwargs = host_args(self, args, kwargs)
        regions[:] = [extent(t) for t in tensors_in([*host, *host_kwargs.values()])]
        for hook in self.pre_run_hooks:
            hook(*host, **host_kwargs)
        scope = interpreter._patch_lang(self.fn)
        scope.set_attr(tl.tensor, "__bool__", truth)
        scope.set_attr(tl.tensor, "__array_ufunc__", None)  # or np.exp(x) would call x.exp()
        try:
            bound = inspect.getcallargs(self.fn, *host, **host_kwargs)
            bound = {n: v if n in self.constexprs else interpreter._implicit_cvt(v) for n, v in bound.items()}
            launch = Launch(self.fn, checked(self.grid(bound) if callable(self.grid) else self.grid))
            launches.append(launch)
            numbers = spread(launch.programs, most_programs)
            launch.chosen = len(numbers)
            x, y, z = launch.grid + (1,) * (3 - len(launch.grid))
            interpreter.interpreter_builder.set_grid_dim(x, y, z)
            for number in numbers:
                launch.begun += 1
                interpreter.interpreter_builder.set_grid_idx(number // (y * z), number // z % y, number % z)
                self.fn(**bound)
        finally:
            scope.restore()
        self._restore_args_dev(args, host, kwargs, host_kwargs)
        launch.running = False

    with _ONE_AT_A_TIME, contextlib.ExitStack() as patches:
        for owner, name, new in [
            (InterpreterBuilder, "create_masked_load", masked_load),
            (InterpreterBuilder, "create_masked_store", masked_store),
            (InterpreterBuilder, "create_atomic_rmw", rmw),
            (InterpreterBuilder, "create_atomic_cas", cas),
            (GridExecutor, "__call__", run),
            (builtins, "max", of_blocks_too(max, "maximum")),
            (builtins, "min", of_blocks_too(min, "minimum")),
            (interpreter.interpreter_builder, "options", checking_options()),
        ]:
            patches.enter_context(mock.patch.object(owner, name, new))
        if not INTERPRET:
            patches.enter_context(_jit_functions_interpreted())
        yield launches


def launched(error: BaseException) -> bool:
    """Whether `error` was raised by a launch or a jit function that `observed` interpreted, not by the code around."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(code.co_filename == __file__ and code.co_name in ("run", "called") for code in frames)


def checked(grid) -> tuple[int, ...]:
    """A launch's grid, or TypeError: what a GPU would refuse too, in words."""
    if isinstance(grid, int | float):
        raise TypeError(f"the grid is the number {grid}: expected a tuple of up to three, such as ({grid},)")
    if not isinstance(grid, tuple | list) or not 1 <= len(grid) <= 3:
        raise TypeError(f"the grid is {grid!r}: expected a tuple of one, two or three numbers")
    if any(isinstance(n, float) for n in grid):
        raise TypeError(f"the grid is {grid!r}: expected whole numbers, as triton.cdiv(n, BLOCK) gives")
    return tuple(operator.index(n) for n in grid)


def spread(n: int, most: int | None) -> Sequence[int]:
    """The numbers of the programs to run: all `n`, or a quarter of `most`, the first and the last among them."""
    if most is None or n <= most:
        return range(n)
    return sorted({i * (n - 1) // (most // 4 - 1) for i in range(most // 4)})


def truth(self) -> bool:
    """`bool` of a value in a kernel. The interpreter, and Triton itself on the way, takes every block for true; in a
    kernel the compiler refuses it."""
    if self.handle.data.size != 1:
        if sys._getframe(1).f_code.co_filename.startswith(TRITON):
            return True
        raise ValueError(f"a block of {self.handle.data.size:,} elements is neither true nor false")
    return bool(self.handle.data)


def of_blocks_too(function, name):
    """Python's `max` or `min`, which the compiler takes for Triton's `name`."""

    def call(*args, **kwargs):
        blocks = len(args) == 2 and any(isinstance(a, tl.tensor) for a in args)
        return getattr(tl, name)(*args) if blocks else function(*args, **kwargs)

    return call


def interpreted() -> contextlib.AbstractContextManager[None]:
    """Interprets every kernel launched inside, on any machine: `print` and `breakpoint()` work in it as in Python.

    Slow, on copies of the tensors in the CPU's memory, which are copied back. Accesses outside of the tensors do no
    harm; an integer that overflows raises an error.
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
