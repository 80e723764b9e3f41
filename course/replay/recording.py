"""A call of a function on tensors, recorded as the memory it takes, the kernels it launches and what PyTorch computes.

    recorder = Recorder(inputs)
    with recorder:
        result = function(*inputs)
    recording = recorder.recording(result)       # raises NotKept if the call cannot be repeated from it
    recording.run(other_inputs, their_pointers, stream)

Tensors are numbered: first the inputs, then what the call makes, in that order. A kernel's argument is known by its
pointer: it is that of an input, or lies in memory that the call took. Everything else in a recording is a constant, so
it holds for inputs of the same shapes, strides, dtypes, device and alignment, and for equal other arguments.

While the call runs, PyTorch's operations are seen by a TorchDispatchMode and Triton's launches by `replay.launches`. A
call that reads a tensor's elements, or gives a kernel a tensor from elsewhere, is not kept.
"""
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.replay.launches import Launch, NotKept, Pointer, this_thread

aten = torch.ops.aten

ALLOCATIONS = {
    aten.empty, aten.empty_like, aten.empty_permuted, aten.empty_strided, aten.new_empty, aten.new_empty_strided,
}
"""Operations whose result has no contents."""

UNREPEATABLE = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of operations that need not do the same in the next call of the same shapes."""

Step = Callable[[list[torch.Tensor], list[int], int], None]
"""Does its part, given the tensors, their pointers and a stream; and appends what it makes to the first two."""


def forgo(reason: str) -> None:
    """Leaves the call that is recorded in this thread, if one is, for another time."""
    if this_thread.observer is not None:
        this_thread.observer.forgo(reason)


def holds_while(condition: Callable[[], bool]) -> None:
    """What is recorded in this thread, if a call is, holds only while `condition` does."""
    if this_thread.observer is not None:
        this_thread.observer.condition = condition


def made_anew(make: Callable[..., torch.Tensor], *args) -> torch.Tensor:
    """make(*args), a tensor that is neither the call's own nor one of its inputs, and is asked for again each time."""
    return make(*args) if this_thread.observer is None else this_thread.observer.made(make, args)


class Recording:
    """What `run` does is what the recorded call did, with other inputs; while `condition` holds, if there is one."""

    def __init__(
        self, steps: list[Step], result: Callable[[list[torch.Tensor]], object], condition: Callable[[], bool] | None
    ):
        self.steps, self.result, self.condition = steps, result, condition

    def run(self, tensors: list[torch.Tensor], pointers: list[int], stream: int):
        """The call's result. Both lists are those of the inputs, and change."""
        for step in self.steps:
            step(tensors, pointers, stream)
        return self.result(tensors)


class Recorder(TorchDispatchMode):
    """See above."""

    def __init__(self, inputs: list[torch.Tensor]):
        super().__init__()
        self.device = inputs[0].device
        self.steps: list[Step] = []
        self.tensors: list[torch.Tensor] = []
        """Held until the end, so that no memory is given out twice and a pointer says whose it is."""
        self.by_pointer: dict[int, int] = {}
        self.by_storage: dict[int, int | None] = {}
        """The number of the tensor that a storage belongs to; None where that is open."""
        self.used: set[int] = set()
        self.against: str | None = None
        """Why the call cannot be kept"""
        self.later = False
        """Whether the next one like it might be"""
        self.condition: Callable[[], bool] | None = None
        self.paused = False
        self.entered = 0
        for t in inputs:
            self.add(t)
        self.inputs = len(inputs)

    def __enter__(self):
        self.entered += 1  # once more for each operation of ours that runs
        this_thread.observer = self
        return super().__enter__()

    def __exit__(self, *error):
        self.entered -= 1
        if not self.entered:
            this_thread.observer = None
        return super().__exit__(*error)

    # what the call does

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "course":  # an operation of ours: what it is made of is what counts
            with self:
                result = func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
            self.attempt(self.changed, func, args, kwargs)
            return result
        result = func(*args, **kwargs)
        self.attempt(self.computed, func, args, kwargs, result)
        return result

    def launched(self, kernel, grid, args) -> None:
        """A launch: see `replay.launches`."""
        self.attempt(lambda: self.steps.append(Launch(kernel, grid, args, self.place)))

    def made(self, make: Callable[..., torch.Tensor], args: tuple) -> torch.Tensor:
        """make(*args), without what it does."""
        self.paused = True
        try:
            t = make(*args)
        finally:
            self.paused = False
        self.add(t)

        def step(tensors, pointers, stream):
            t = make(*args)
            tensors.append(t)
            pointers.append(t.data_ptr())

        self.steps.append(step)
        return t

    def forgo(self, reason: str) -> None:
        self.against, self.later = reason, True

    def attempt(self, record, *args) -> None:
        """record(*args), for which the call itself must never fail."""
        try:
            if not self.paused:
                record(*args)
        except Exception as reason:  # NotKept, or what another version of PyTorch or Triton leads to
            self.against = self.against or str(reason) or repr(reason)

    # what is kept of it

    def add(self, t: torch.Tensor) -> None:
        """Gives `t` the next number."""
        number, storage = len(self.tensors), t.untyped_storage().data_ptr()
        self.tensors.append(t)
        self.by_pointer.setdefault(t.data_ptr(), number)
        self.by_storage[storage] = None if storage in self.by_storage else number

    def place(self, t: torch.Tensor) -> Pointer:
        """Where `t` begins. Raises NotKept where that is neither an input's memory nor the call's."""
        pointer = t.data_ptr()
        number = self.by_pointer.get(pointer)
        if number is None:
            number = self.by_storage.get(t.untyped_storage().data_ptr())
        if number is None or pointer == 0:
            raise NotKept(f"of unknown origin is a tensor {tuple(t.shape)}")
        self.used.add(number)
        return Pointer(number, pointer - self.tensors[number].data_ptr())

    def view(self, t: torch.Tensor) -> Callable[[list[torch.Tensor]], torch.Tensor]:
        """What makes `t` of the numbered tensors."""
        number, offset = self.place(t)
        whole, shape, stride = self.tensors[number], t.shape, t.stride()
        if t.dtype != whole.dtype or t.is_neg():
            raise NotKept("a tensor is seen as one of another dtype")
        if offset == 0 and shape == whole.shape and stride == whole.stride():
            return lambda tensors: tensors[number]
        away = offset // t.element_size()
        return lambda tensors: tensors[number].as_strided(shape, stride, tensors[number].storage_offset() + away)

    def computed(self, func, args: tuple, kwargs: dict, result) -> None:
        """An operation of PyTorch's."""
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if not all(isinstance(t, torch.Tensor) for t in results) or UNREPEATABLE & set(func.tags):
            raise NotKept(f"{func} is not the same each time")
        if all(t.is_meta for t in results):
            return
        if func.overloadpacket in ALLOCATIONS and result.device == self.device:
            self.allocated(result)
            return
        operands = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(t.device != self.device for t in (*operands, *results)):
            raise NotKept(f"{func} has tensors on more than one device")
        changes = func._schema.is_mutable
        known = {t.untyped_storage().data_ptr() for t in operands}
        if all(t.untyped_storage().data_ptr() in known for t in results) and not changes:
            return  # a view: of a tensor that a kernel gets, the pointer is all that counts
        if len(operands) != sum(isinstance(t, torch.Tensor) for t in args):
            raise NotKept(f"{func} gets tensors in a list or by name")
        makers = [self.view(t) if isinstance(t, torch.Tensor) else constant(t) for t in args]
        if not changes:
            for t in results:
                self.add(t)

        def step(tensors, pointers, stream):
            result = func(*[make(tensors) for make in makers], **kwargs)
            if not changes:
                results = result if isinstance(result, (tuple, list)) else (result,)
                tensors.extend(results)
                pointers.extend([t.data_ptr() for t in results])

        self.steps.append(step)

    def allocated(self, t: torch.Tensor) -> None:
        self.add(t)
        shape, stride, dtype, device = t.shape, t.stride(), t.dtype, t.device

        def step(tensors, pointers, stream):
            t = torch.empty_strided(shape, stride, dtype=dtype, device=device)
            tensors.append(t)
            pointers.append(t.data_ptr())

        self.steps.append(step)

    def changed(self, func, args: tuple, kwargs: dict) -> None:
        """An operation of ours, of which autograd has to be told what it changed."""
        given = dict(zip([argument.name for argument in func._schema.arguments], args)) | kwargs
        for argument in func._schema.arguments:
            t = given.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and t is not None:
                view = self.view(t)
                self.steps.append(lambda tensors, pointers, stream, view=view: bump_version(view(tensors)))

    def recording(self, result) -> Recording:
        """The call, whose result is `result`. Raises NotKept where it cannot be kept."""
        unused = {self.by_pointer[t.data_ptr()] for t in self.tensors[: self.inputs]} - self.used
        if self.against is None and unused:
            self.against = f"no kernel gets input number {min(unused)}"
        if self.against is not None:
            raise NotKept(self.against)
        if isinstance(result, torch.Tensor):
            return Recording(self.steps, self.result(result), self.condition)
        if type(result) is not tuple or not all(isinstance(t, torch.Tensor) for t in result):
            raise NotKept(f"the result is a {type(result).__name__}")
        views = [self.result(t) for t in result]
        return Recording(self.steps, lambda tensors: tuple([view(tensors) for view in views]), self.condition)

    def result(self, t: torch.Tensor) -> Callable[[list[torch.Tensor]], torch.Tensor]:
        """What makes `t`, a result, which is an input itself or the call's own."""
        number = self.by_pointer.get(t.data_ptr())
        if number is not None and number < self.inputs and t is not self.tensors[number]:
            raise NotKept("the result is a view of an input")
        if number not in self.used:
            raise NotKept("no kernel writes the result")
        return self.view(t)


def constant(value):
    return lambda tensors: value


def bump_version(t: torch.Tensor) -> None:
    """Tells autograd that `t` was changed."""
    if not t.is_inference():
        torch.autograd.graph.increment_version(t)
