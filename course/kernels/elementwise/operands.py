"""The operands of add and mul, the second of which PyTorch takes in more forms than one."""
import torch

from course.kernels.parts.checks import check_broadcast, check_no_out, check_tensors, number


def operands(
    op: str, input: torch.Tensor, other: torch.Tensor | float, out: None
) -> tuple[torch.Tensor, torch.Tensor | None, float | None]:
    """(tensor, tensor, None), or (tensor, None, number) where `other` is a number, from the arguments of `op`, checked.

    A tensor of no dimensions follows the dtype of one that has some, and on the CPU it counts as a number, as in
    PyTorch. Raises the errors that `add` documents.
    """
    check_no_out(op, out)
    if not isinstance(other, torch.Tensor):
        check_tensors(op, input=input)
        return input, None, number(op, "other", other)
    if isinstance(input, torch.Tensor) and (input.dtype != other.dtype or input.device != other.device):
        if other.ndim == 0 < input.ndim and not other.is_complex():
            if other.device.type == "cpu" and not other.requires_grad:
                check_tensors(op, input=input)
                return input, None, number(op, "other", other)
            other = other.to(input.dtype)
        elif input.ndim == 0 < other.ndim and not input.is_complex():
            input = input.to(other)
    check_tensors(op, input=input, other=other)
    check_broadcast(op, input=input, other=other)
    return input, other, None
