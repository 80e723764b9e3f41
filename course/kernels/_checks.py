"""Checks made before a kernel is launched: one line that names the operation, what was expected and what came.

A wrong dtype is a TypeError, everything else a ValueError.
"""
import torch

from course.runtime import INTERPRET

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_tensors(op: str, **tensors: torch.Tensor | None) -> None:
    """All of `tensors` share one supported dtype and one device that kernels reach, and none wants a gradient.

    None, for an argument that was not given, is skipped.
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
    check_device(op, first_name, first)


def check_device(op: str, name: str, t: torch.Tensor) -> None:
    """Compiled kernels read GPU memory only."""
    if t.device.type == "cpu" and not INTERPRET:
        raise ValueError(
            f"{op}: expected {name} on a GPU, got cpu: move it with .cuda(), "
            "or set TRITON_INTERPRET=1 before Python starts to run kernels on the CPU"
        )


def check_dim(op: str, dim: int, ndim: int) -> int:
    """`dim` counted from the front, whichever end it was counted from."""
    if not -ndim <= dim < ndim:
        raise ValueError(f"{op}: expected dim between {-ndim} and {ndim - 1}, got {dim}")
    return dim % ndim


def broadcast_shapes(*shapes: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, which takes longer than all else before a launch, where it is needed."""
    return shapes[0] if all(shape == shapes[0] for shape in shapes) else torch.broadcast_shapes(*shapes)


def check_broadcast(op: str, **tensors: torch.Tensor) -> None:
    """The shapes of `tensors` broadcast with each other."""
    try:
        broadcast_shapes(*[t.shape for t in tensors.values()])
    except RuntimeError:
        came = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"{op}: expected shapes that broadcast, got {came}") from None
