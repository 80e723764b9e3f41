"""A checkpoint's tensors put into a model, all of them or none."""
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mode

import torch

from course.preprocess import Preprocess


def copy_strictly(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, Sequence[str]],
    optional: Collection[str] = (),
) -> None:
    """Copies a checkpoint's `tensors` into `model`, converted to its dtypes and devices.

    `names` gives for every name in the model's state_dict the checkpoint's; where there are several, each fills an
    equal part of the first dimension, in order. `optional` are names of the checkpoint that may be missing, or there
    and unused. A missing, unknown or misshapen tensor is a ValueError that lists all of them, raised before
    the first copy; so is a tensor of integers where floats are needed, a value that is not finite in the model's dtype,
    and a negative running variance. A model on the meta device gets its memory once everything is known to fit; what
    is missing and optional in it becomes 0.
    """
    targets = targets_in(model, names)
    problems = [f"missing {name} {kind(target)}" for name, target in targets.items()
                if name not in tensors and name not in optional]
    for name, tensor in tensors.items():
        if name not in targets:
            if name not in optional:
                problems.append(f"unknown {name} {kind(tensor)}")
        elif kind(tensor) != kind(targets[name]):
            problems.append(f"misshapen {name}: expected {kind(targets[name])}, got {kind(tensor)}")
        elif problem := bad_values(name, tensor, targets[name].dtype):
            problems.append(problem)
    if problems:
        count = "1 tensor does" if len(problems) == 1 else f"{len(problems)} tensors do"
        raise ValueError("\n  ".join([f"{type(model).__name__}: {count} not fit the model", *problems]))

    if any(target.is_meta for target in targets.values()):
        model.to_empty(device=torch.get_default_device())
        targets = targets_in(model, names)
        with torch.no_grad():
            for name in targets.keys() - tensors.keys():
                targets[name].zero_()
    with torch.no_grad():
        for name in targets.keys() & tensors.keys():
            targets[name].copy_(tensors[name])


def targets_in(model, names):
    """{a checkpoint's name: the model's tensor, or part of one, that it fills}."""
    state = model.state_dict()
    targets = {}
    for ours, theirs in names.items():
        parts = state[ours].chunk(len(theirs)) if len(theirs) > 1 else [state[ours]]
        targets.update(zip(theirs, parts))
    return targets


def kind(tensor):
    """What must be equal for one tensor to be copied into another."""
    numbers = "" if tensor.is_floating_point() else " complex" if tensor.is_complex() else " of integers"
    return f"{tuple(tensor.shape)}{numbers}"


def bad_values(name, tensor, dtype):
    """What is wrong with a tensor of the right shape, once it is converted to `dtype`; None if nothing is."""
    if tensor.is_meta:
        return f"without values {name}: on the meta device"
    if not tensor.is_floating_point():
        return None
    values = tensor.to(dtype)
    if wrong := int((~values.isfinite()).sum()):
        return f"not finite {name}: {wrong} of {values.numel()} values in {str(dtype).removeprefix('torch.')}"
    if name.endswith("running_var") and (wrong := int((values < 0).sum())):
        return f"negative {name}: {wrong} of {values.numel()} variances"
    return None


def prefix_before(names: Iterable[str], known: Sequence[str]) -> str:
    """What a wrapper put before the names: "module." where DataParallel did. `known` are names that one expects."""
    pattern = re.compile(rf"((?:.+\.)?)(?:{'|'.join(map(re.escape, known))})")
    found = [match[1] for name in names if (match := pattern.fullmatch(name))]
    return mode(found) if found else ""


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> Mapping[str, torch.Tensor]:
    """`tensors` by their names without `prefix`; those that lack it, or would then have another's name, keep theirs."""
    if not prefix:
        return tensors
    return {
        name.removeprefix(prefix) if name.removeprefix(prefix) not in tensors else name: tensor
        for name, tensor in tensors.items()
    }


def finished(
    model: torch.nn.Module, where: str, outputs: int, class_names: Sequence[str] | None, preprocess: Preprocess
) -> torch.nn.Module:
    """`model`, which has so many `outputs`, in eval mode, with class names, by default numbers, and `preprocess`."""
    if class_names is None:
        class_names = [str(i) for i in range(outputs)]
    if len(class_names) != outputs:
        raise ValueError(f"{where}: expected {outputs} class names, got {len(class_names)}")
    model.class_names, model.preprocess = list(class_names), preprocess
    return model.eval()
