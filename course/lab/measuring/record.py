"""`record`: a CUDA graph, or on the CPU a list of operations that is used in the same way."""
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.graphs import Captured


def record(call: Callable[[], torch.Tensor]) -> "Captured | Tape":
    """Records what `call` does to its tensors; `replay()` does it again and writes `outputs[0]` anew.

    On a GPU a CUDA graph. On the CPU the PyTorch operations are kept, each with the tensors it was called with, and
    run again one by one: as slow as before, and the same in everything else. Kernels that are launched
    directly, as kernel[grid](...), are no PyTorch operations and are not kept there.
    """
    on_gpu = call().is_cuda
    return (Captured if on_gpu else Tape)([call])


class Tape:
    """What course.graphs.Captured is on a GPU, on the CPU."""

    def __init__(self, calls):
        for call in [*calls, *calls]:  # as often as a graph's calls are made before they are captured
            call()
        with Recorder() as recorder, torch.no_grad():
            self.outputs = [call() for call in calls]
        self.steps = recorder.steps

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, result in self.steps:
            again = operation(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again)):
                if old.data_ptr() != new.data_ptr():  # a view, or what was changed in place, is there already
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.steps.append((operation, args, kwargs or {}, result))
        return result


def tensors(result) -> list[torch.Tensor]:
    return [t for t in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(t)]
