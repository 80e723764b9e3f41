"""Checks made before a kernel is launched: one line that names the operation, what was expected and what it got.

What is of the wrong type or dtype is a TypeError, everything else a ValueError. Numbers are taken as PyTorch takes
them: of NumPy, or as a tensor of one element, too.
"""
import math
import operator
from collections.abc import Collection

import torch
from torch.autograd import forward_ad

from course.runtime import INTERPRET

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

LARGEST = 2**29
"""Of a kernel size, a stride, a padding or a dilation: sums of a few of them are computed in int32."""


def check_tensors(op: str, **tensors: torch.Tensor | None) -> None:
    """All of `tensors` share one supported dtype and one device that kernels reach, and none wants a derivative.

    An optional argument that was not given is None, and is skipped.
    """
    first_name, first = next(iter(tensors.items()))
    for name, t in tensors.items():
        if t is None:
            continue
        if not isinstance(t, torch.Tensor):
            raise TypeError(f"{op}: expected {name} to be a tensor, got {type(t).__name__}")
        if t.dtype not in FLOATS:
            raise TypeError(f"{op}: expected {name} in float32, float16 or bfloat16, got {t.dtype}")
        if t.dtype != first.dtype:
            raise TypeError(f"{op}: expected {name} in {first.dtype} as {first_name}, got {t.dtype}")
        if t.device != first.device:
            raise ValueError(f"{op}: expected {name} on {first.device} as {first_name}, got {t.device}")
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{op}: {name} requires a gradient and this kernel has no backward: "
                "call it under torch.no_grad() or torch.inference_mode(), or detach the tensor"
            )
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None:
            raise ValueError(
                f"{op}: {name} has a tangent and this kernel has no forward-mode derivative: "
                "differentiate torch.nn.functional's operation instead"
            )
    check_device(op, first_name, first)


def check_with_parameters(op: str, name: str, x: torch.Tensor, **parameters: torch.Tensor | None) -> None:
    """`x`, whose name is `name`, and a norm's parameters: of its dtype or, beside 16 bits, all of them of float32.

    So come a model's parameters that stayed float32, under autocast on a CPU for instance.
    """
    given = {key: t for key, t in parameters.items() if t is not None}
    if given and isinstance(x, torch.Tensor) and x.dtype != torch.float32:
        if all(isinstance(t, torch.Tensor) and t.dtype == torch.float32 for t in given.values()):
            check_tensors(op, **{name: x})
            check_tensors(op, **given)
            for key, t in given.items():
                if t.device != x.device:
                    raise ValueError(f"{op}: expected {key} on {x.device} as {name}, got {t.device}")
            return
    check_tensors(op, **{name: x}, **given)


def check_device(op: str, name: str, t: torch.Tensor) -> None:
    """Compiled kernels read GPU memory only."""
    if t.device.type == "cpu" and not INTERPRET:
        raise ValueError(
            f"{op}: expected {name} on a GPU, got cpu: move it with .cuda(), "
            "or set TRITON_INTERPRET=1 before Python starts to run kernels on the CPU"
        )


def in_one_line(value: object) -> str:
    """`value` as an error shows it."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else " ".join(repr(value).split())


def integer(op: str, name: str, value: object) -> int:
    """`value` as an int. TypeError on what is none, True and False included."""
    if type(value) is int:
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{op}: expected {name} to be an integer, got {in_one_line(value)}")


def number(op: str, name: str, value: object) -> float:
    """`value` as a float that float32 can hold, as which a kernel gets it; infinities and NaN are among them."""
    try:
        real = float(value) if type(value) in (float, int) else value.__float__()
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{op}: expected {name} to be a number, got {in_one_line(value)}") from None
    if abs(real) > 3.4028235e38 and not math.isinf(real):
        raise ValueError(f"{op}: expected {name} within the range of float32, got {real}")
    return real


def flag(op: str, name: str, value: object) -> bool:
    """`value`, which is True or False."""
    if type(value) is not bool:
        raise TypeError(f"{op}: expected {name} to be True or False, got {in_one_line(value)}")
    return value


def check_one_of(op: str, name: str, value: object, known: Collection[str | None]) -> None:
    """`value` is one of `known`."""
    if not isinstance(value, str | None) or value not in known:
        raise ValueError(f"{op}: expected {name} to be one of {list(known)}, got {in_one_line(value)}")


def check_no_out(op: str, out: object) -> None:
    """`out`, which PyTorch would write the result to, was not given."""
    if out is not None:
        raise ValueError(f"{op}: expected out=None, got {in_one_line(out)}: the result is always a new tensor")


def check_dim(op: str, dim: int, ndim: int) -> int:
    """`dim` counted from the first dimension; a negative one was counted from the last."""
    dim = integer(op, "dim", dim)
    if not -ndim <= dim < ndim:
        raise ValueError(f"{op}: expected dim between {-ndim} and {ndim - 1}, got {dim}")
    return dim % ndim


def pair(op: str, name: str, value: int | tuple[int, ...], minimum: int = 0) -> tuple[int, int]:
    """`value` for the height and for the width, as PyTorch takes it: an integer for both, in a tuple or not, or two."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, 2):
        raise ValueError(f"{op}: expected {name} to be an integer or a pair of integers, got {len(values)} of them")
    try:
        high, wide = integer(op, name, values[0]), integer(op, name, values[-1])
    except TypeError:
        got = in_one_line(value)
        raise TypeError(f"{op}: expected {name} to be an integer or a pair of integers, got {got}") from None
    if high < minimum or wide < minimum:
        raise ValueError(f"{op}: expected {name} of at least {minimum}, got {value}")
    if high > LARGEST or wide > LARGEST:
        raise ValueError(f"{op}: expected {name} of at most {LARGEST}, got {value}")
    return high, wide


def broadcast_shapes(*shapes: torch.Size) -> torch.Size:
    """The shape that all of `shapes` broadcast to. RuntimeError if there is none.

    `torch.broadcast_shapes` takes longer than everything else before a launch, so it is asked only if shapes differ.
    """
    return shapes[0] if all(shape == shapes[0] for shape in shapes) else torch.broadcast_shapes(*shapes)


def check_broadcast(op: str, **tensors: torch.Tensor) -> None:
    """The shapes of `tensors` broadcast with each other."""
    try:
        broadcast_shapes(*[t.shape for t in tensors.values()])
    except RuntimeError:
        got = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"{op}: expected shapes that broadcast, got {got}") from None
