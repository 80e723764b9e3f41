"""Launches of compiled kernels, observed and kept, to be made again with other pointers.

`kernel[grid](...)` takes the CPU 15 to 40 us: Triton binds the arguments, looks at each of them for what it is compiled
for, finds the compiled kernel by all of that, and encodes a descriptor for each tensor that TMA reads. For arguments
that differ from those of an earlier launch in nothing but pointers, all of it comes out the same. What is left is the
last step, a function in C that Triton has for each kernel (or, since 3.7, for all of them) and that takes pointers as
integers, too.
"""
import copy
import inspect
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from course.compiling import is_collecting

RUN, LAUNCH_METADATA = JITFunction.run, CompiledKernel.launch_metadata
"""Triton's own. The latter is called at each launch, with the compiled kernel and its arguments."""

MOST_MAPS = 64
"""Pointers for which a launch keeps a descriptor encoded."""


class NotKept(Exception):
    """Why a launch, or a call, cannot be made again from what was seen of it."""


class Pointer(NamedTuple):
    """The place of a pointer that is not known yet: that of tensor number `tensor`, and so many bytes more."""

    tensor: int
    offset: int


class ThisThread(threading.local):
    """Who is told of the launches of a thread."""

    observer = None


this_thread = ThisThread()


def observed_launch_metadata(self, grid, stream, *args):
    if this_thread.observer is not None:
        this_thread.observer.launched(self, grid, args)
    return LAUNCH_METADATA(self, grid, stream, *args)


CompiledKernel.launch_metadata = observed_launch_metadata


def triton_is_watched() -> bool:
    """Whether a launch does more, or less, than launch: profilers and debuggers have hooks, or put another function in
    place of Triton's own, and where kernels are collected those that are not compiled are not launched."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(
        getattr(enter, "calls", enter) or getattr(leave, "calls", leave) or runtime.debug
        or JITFunction.run is not RUN or runtime.add_stages_inspection_hook is not None or is_collecting()
    )


class Launch:
    """One launch of `kernel`, a CompiledKernel, over `grid`, with the arguments `args` of the function it is made of.

    `place` gives the Pointer for a tensor. Raises NotKept where the launch depends on more than pointers.
    """

    def __init__(self, kernel, grid: tuple[int, ...], args: tuple, place: Callable[[torch.Tensor], Pointer]):
        self.launch = c_launcher(kernel, grid)
        self.args = []
        """those of the C function, None for those that hold pointers"""
        self.pointers: list[tuple[int, int, int]] = []
        """(where in args, number of the tensor, bytes beyond its pointer)"""
        self.tuples: list[tuple[int, tuple]] = []
        """(where in args, the tuple with a Pointer for each tensor)"""
        self.maps: list[tuple[int, TensorMaps, int, int]] = []
        """as `pointers`, with what encodes the descriptor"""
        encodings = iter(getattr(kernel.metadata, "tensordesc_meta", None) or ())
        for arg in args:
            if isinstance(arg, torch.Tensor):
                self.pointers.append((len(self.args), *place(arg)))
                self.args.append(None)
            elif isinstance(arg, tuple):
                if holds_tensor(arg):
                    self.tuples.append((len(self.args), with_pointers(arg, place)))
                    arg = None
                self.args.append(arg)
            elif is_descriptor(arg):
                maps = TensorMaps(arg, next(encodings, None))
                self.maps.append((len(self.args), maps, *place(arg.base)))
                self.args += [None, *arg.shape, *arg.strides]
            elif hasattr(arg, "data_ptr"):
                raise NotKept(f"a kernel gets a pointer as {type(arg).__name__}")
            else:
                self.args.append(arg)

    def __call__(self, tensors: list[torch.Tensor], pointers: list[int], stream: int) -> None:
        """Launches with these pointers, on `stream` of the current GPU."""
        args = self.args.copy()
        for where, tensor, offset in self.pointers:
            args[where] = pointers[tensor] + offset
        for where, placed in self.tuples:
            args[where] = with_integers(placed, pointers)
        for where, maps, tensor, offset in self.maps:
            args[where] = maps.at(pointers[tensor] + offset)
        self.launch(stream, args)


def holds_tensor(items: tuple) -> bool:
    """Whether a tensor, or anything else with a pointer, is in `items`."""
    return any(holds_tensor(item) if isinstance(item, tuple) else hasattr(item, "data_ptr") or is_descriptor(item)
               for item in items)


def is_descriptor(arg) -> bool:
    """Whether `arg` is a tensor descriptor, of Triton or of Gluon."""
    return hasattr(arg, "block_shape") and hasattr(arg, "base")


def with_pointers(items: tuple, place: Callable[[torch.Tensor], Pointer]) -> tuple:
    """`items` with a Pointer for each tensor."""
    placed = []
    for item in items:
        if isinstance(item, torch.Tensor):
            item = place(item)
        elif isinstance(item, tuple):
            item = with_pointers(item, place)
        elif hasattr(item, "data_ptr") or is_descriptor(item):
            raise NotKept(f"a kernel gets a {type(item).__name__} in a tuple")
        placed.append(item)
    return tuple(placed)


def with_integers(placed: tuple, pointers: list[int]) -> tuple:
    """`placed` with an integer for each Pointer."""
    return tuple([
        pointers[item.tensor] + item.offset if type(item) is Pointer
        else with_integers(item, pointers) if type(item) is tuple else item
        for item in placed
    ])


class TensorMaps:
    """What TMA gets for a tensor descriptor, encoded for each pointer at which the tensor was.

    An encoded descriptor depends on nothing but the pointer and what the descriptor says, and PyTorch's allocator
    gives the same memory again and again.
    """

    def __init__(self, descriptor, encoding):
        if not encoding:
            raise NotKept("a kernel gets a descriptor as pointers")
        self.descriptor, self.encoding = copy.copy(descriptor), encoding
        self.descriptor.base = None  # the tensor itself is not kept
        self.known = {}

    def at(self, pointer: int):
        found = self.known.get(pointer)
        if found is None:
            if len(self.known) >= MOST_MAPS:
                self.known.clear()
            self.known[pointer] = found = self.encoded(pointer)
        return found

    def encoded(self, pointer: int):
        from triton.backends.nvidia.driver import make_tensordesc_arg

        descriptor = copy.copy(self.descriptor)
        descriptor.base = Address(pointer)
        rest = [None] * (len(inspect.signature(make_tensordesc_arg).parameters) - 2)  # unused, since Triton 3.8
        return make_tensordesc_arg(descriptor, self.encoding, *rest)[0]


class Address(NamedTuple):
    """As much of a tensor as encoding a descriptor needs."""

    pointer: int

    def data_ptr(self) -> int:
        return self.pointer


def c_launcher(kernel, grid: tuple[int, ...]) -> Callable[[int, list], None]:
    """What launches `kernel` over `grid`, given a stream and the arguments. Raises NotKept where there is none."""
    launcher = kernel.run
    if type(launcher).__name__ != "CudaLauncher":
        raise NotKept("the GPU is none of NVIDIA's")
    if launcher.global_scratch_size or launcher.profile_scratch_size or getattr(launcher, "gsan_enabled", False):
        raise NotKept("a kernel needs memory of Triton's")
    x, y, z = (*grid, 1, 1)[:3]
    options = launcher.launch_cooperative_grid, launcher.launch_pdl
    nothing = None, None, None  # for hooks, of which there are none: see `triton_is_watched`
    scratch = None, None
    if hasattr(launcher, "kernel_signature"):  # since Triton 3.7
        start = triton.runtime.driver.active.utils.launch
        rest = kernel.packed_metadata, *nothing, *scratch, launcher.arg_annotations, launcher.kernel_signature

        def launch(stream: int, args: list) -> None:
            start(x, y, z, stream, kernel.function, *options, *rest, args)
    else:
        start = launcher.launch
        if inspect.isfunction(start):  # a wrapper, which encodes descriptors
            start = inspect.getclosurevars(start).nonlocals["launcher"]
        rest = *options, *scratch, kernel.packed_metadata, *nothing

        def launch(stream: int, args: list) -> None:
            start(x, y, z, stream, kernel.function, *rest, *args)

    return launch
