"""Calls that are kept: a function's call is recorded the second time that it comes, and from then on repeated.

What a call checks and chooses depends on its *signature*: of each tensor the shape, the strides, the dtype, the device,
whether it begins at a multiple of 16 bytes, and whether another one begins where it does; all other arguments; and
whether float32 products are TF32. A call of a signature that is known is not checked again: its kernels are launched as
they were, with other pointers. That takes the CPU a third of the time, or less.

A call is made the usual way where PyTorch or Triton want to see more of it than the launches: under autocast, where a
gradient is wanted, in a transform of torch.func, in a mode of torch.overrides or of torch.utils._python_dispatch, while
it is traced, compiled or profiled, or with hooks on Triton's launches; and wherever an argument is anything but a plain
tensor on the current GPU or a plain constant.
"""
import weakref
from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from course.replay.launches import NotKept, triton_is_watched
from course.precision import conv_precision, matmul_precision
from course.replay.recording import Recorder, Recording
from course.runtime import INTERPRET

ON: bool = not INTERPRET and torch.backends.cuda.is_built()
"""Whether calls are kept. The interpreter launches nothing."""

MOST = 4096
"""Signatures of a function that are remembered, at most."""

MADE_THE_USUAL_WAY = object()
"""What `Calls` returns for a call that it does not make."""

SEEN = "seen once"
"""In place of a recording"""

CONSTANTS = {int, bool, str, type(None), torch.dtype}
"""The types of arguments other than tensors, floats and tuples of integers."""

current_device = getattr(torch._C, "_cuda_getDevice", None)
current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
"""As torch.cuda.current_device and torch.cuda.current_stream have it, without their checks: a GPU is there already
where a tensor on it is."""

is_capturing = torch.cuda.is_current_stream_capturing


class Calls:
    """The calls of `fn` that are kept."""

    everywhere: "weakref.WeakSet[Calls]" = weakref.WeakSet()

    def __init__(self, fn: Callable):
        self.fn = fn
        self.known: dict[tuple, Recording | str] = {}
        """by signature; a string says why the call is not kept"""
        Calls.everywhere.add(self)

    def __call__(self, args: tuple, kwargs: dict):
        """fn(*args, **kwargs), or MADE_THE_USUAL_WAY where the caller has to make the call."""
        if somebody_watches():
            return MADE_THE_USUAL_WAY
        tensors, pointers = [], []
        try:
            device = current_device()
            signature = signature_of(args, kwargs, device, tensors, pointers)
        except RuntimeError:  # of a sparse tensor, for instance, which has no pointer, or where there is no GPU
            return MADE_THE_USUAL_WAY
        if signature is None:
            return MADE_THE_USUAL_WAY
        known = self.known.get(signature)
        if type(known) is Recording and (known.condition is None or known.condition()):
            return known.run(tensors, pointers, current_stream(device))
        if known is None or type(known) is Recording:
            self.remember(signature, SEEN)
        elif known is SEEN and tensors and not is_capturing():
            return self.record(signature, args, kwargs, tensors)
        return MADE_THE_USUAL_WAY

    def record(self, signature: tuple, args: tuple, kwargs: dict, tensors: list[torch.Tensor]):
        """fn(*args, **kwargs), recorded if that can be."""
        known, recorder = self.known, Recorder(tensors)
        with recorder:
            result = self.fn(*args, **kwargs)
        try:
            recording = recorder.recording(result)
        except NotKept as reason:
            recording = SEEN if recorder.later else str(reason)
        if known is self.known:  # nothing was forgotten meanwhile
            self.remember(signature, recording)
        return result

    def remember(self, signature: tuple, what: Recording | str) -> None:
        if len(self.known) >= MOST:
            self.known.clear()
        self.known[signature] = what


def forget() -> None:
    """Forgets all calls that were kept: to be called when another configuration, or another kernel, was chosen."""
    for calls in list(Calls.everywhere):
        calls.known = {}


def somebody_watches() -> bool:
    """Whether PyTorch or Triton want to see more of a call than its launches."""
    return (
        torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch._C._autograd._profiler_enabled()
        or triton_is_watched()
    )


def signature_of(
    args: tuple, kwargs: dict, device: int, tensors: list[torch.Tensor], pointers: list[int]
) -> tuple | None:
    """The signature of a call on GPU number `device`, and its tensors and their pointers, in two lists to append to.

    None where an argument is more than its shape and its pointer, or its value.
    """
    signature = [device]
    gradients, float32 = torch.is_grad_enabled(), False
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            pointer = value.data_ptr()
            if (
                pointer == 0 or value.get_device() != device or value.is_neg()
                or gradients and value.requires_grad
            ):
                return None
            if pointer in pointers:  # two that begin at one address cannot be told apart where they are used
                signature.append(pointers.index(pointer))
            tensors.append(value)
            pointers.append(pointer)
            dtype = value.dtype
            float32 = float32 or dtype is torch.float32
            signature += (dtype, value.shape, value.stride(), pointer % 16 == 0)
        elif kind in CONSTANTS:
            signature += (kind, value)
        elif kind is float:
            signature += (kind, value.hex())  # -0.0 equals 0.0, and NaN nothing
        elif kind is tuple or kind is list:
            for item in value:
                if type(item) is not int and item is not None:  # True equals 1
                    return None
            signature += (kind, *value)
        else:
            return None
    if kwargs:
        signature += kwargs
    if float32:
        signature += (matmul_precision(torch.float32), conv_precision(torch.float32))
    return tuple(signature)
