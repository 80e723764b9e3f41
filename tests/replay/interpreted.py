"""Calls that are kept, with the interpreter in place of compiled kernels.

Observed is what a compiled kernel's launch shows: the arguments by position. Made again is it from integers alone, as
by the C function that launches a compiled kernel: a tensor is made of the memory at each pointer.
"""
import ctypes
import inspect
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.interpreter import GridExecutor, InterpretedFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from course.replay import calls, launches


class Kernel:
    """What stands for a compiled kernel: an interpreted function with the options that it is launched with."""

    def __init__(self, function: InterpretedFunction, args: tuple, options: dict):
        self.function, self.options = function, options
        self.kinds = [kind_of(arg) for arg in args]
        descriptors = [arg for arg in args if isinstance(arg, TensorDescriptor)]
        self.metadata = SimpleNamespace(
            tensordesc_meta=[(d.block_shape, d.base.dtype, size_of(d.base)) for d in descriptors]
        )

    def run_again(self, grid, args: list) -> None:
        args, found = list(args), []
        for kind in self.kinds:
            arg = args.pop(0)
            if isinstance(kind, int):  # a descriptor's, then come its sizes and strides
                block, dtype, size = arg.encoding
                shape, strides = args[:kind], args[kind : 2 * kind]
                del args[: 2 * kind]
                arg = TensorDescriptor(tensor_at(arg.pointer, dtype, size), shape, strides, block)
            else:
                arg = restored(arg, kind)
            found.append(arg)
        RUN(self.function, *found, grid=grid, warmup=False, **self.options)


def size_of(t: torch.Tensor) -> int:
    """Bytes from the first element of `t` to the last."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) if t.numel() else 0
    return elements * t.element_size()


def kind_of(arg):
    """What has to be known of an argument beside its pointers."""
    if isinstance(arg, torch.Tensor):
        return arg.dtype, size_of(arg)
    if isinstance(arg, TensorDescriptor):
        return len(arg.shape)
    if isinstance(arg, tuple):
        return [type(arg), *map(kind_of, arg)]
    return None


def restored(arg, kind):
    if isinstance(kind, tuple):
        assert type(arg) is int
        return tensor_at(arg, *kind)
    if isinstance(kind, list):
        make, *kinds = kind
        items = [restored(item, k) for item, k in zip(arg, kinds, strict=True)]
        return make(*items) if hasattr(make, "_fields") else tuple(items)
    return arg


def tensor_at(pointer: int, dtype: torch.dtype, size: int) -> torch.Tensor:
    return torch.frombuffer((ctypes.c_char * size).from_address(pointer), dtype=dtype)


def not_copied(self, args_dev, args_hst, kwargs, kwargs_hst) -> None:
    """In place of what copies results back from the CPU, where they are: it takes tensors that begin at one address for
    one."""


class Map:
    """In place of an encoded descriptor."""

    def __init__(self, pointer, encoding):
        self.pointer, self.encoding = pointer, encoding


RUN = InterpretedFunction.run


def run(self, *args, grid, warmup, **kwargs):
    parameters = inspect.signature(self.fn).parameters
    bound = inspect.signature(self.fn).bind(*args, **{k: v for k, v in kwargs.items() if k in parameters})
    bound.apply_defaults()
    args = tuple(bound.arguments.values())
    options = {k: v for k, v in kwargs.items() if k not in parameters}
    if launches.this_thread.observer is not None:
        launches.this_thread.observer.launched(Kernel(self, args, options), grid, args)
    with _disable_current_modes():
        return RUN(self, *args, grid=grid, warmup=warmup, **options)


def pretend(monkeypatch) -> None:
    """Until the test's end, calls are kept in the interpreter as on a GPU."""
    monkeypatch.setattr(InterpretedFunction, "run", run)
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", not_copied)
    monkeypatch.setattr(launches, "c_launcher", lambda kernel, grid: lambda stream, args: kernel.run_again(grid, args))
    monkeypatch.setattr(launches.TensorMaps, "encoded", lambda self, pointer: Map(pointer, self.encoding))
    monkeypatch.setattr(calls, "current_device", lambda: -1)
    monkeypatch.setattr(calls, "current_stream", lambda device: 0)
    monkeypatch.setattr(calls, "is_capturing", lambda: False)
