"""Runs a learner's function where its mistakes do no harm: time limits and guarded memory."""
import ctypes
import threading
from collections.abc import Callable

import numpy as np
import torch

from course.lab.interpret import Access
from course.lab.races import Races

GUARD = 1 << 14
"""Elements before and behind each tensor that nobody may touch."""

UNTOUCHED = {1: 0x5A, 2: 0x7FDA, 4: 0x7FDADADA, 8: 0x7FFADADADADADADA}
"""What the output and its surroundings are filled with, by the size of an element: a NaN in every floating-point
format, and one that arithmetic does not produce. An input's surroundings get the next number, so that a NaN that was
read there can be told apart."""

AS_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TimeUp(BaseException):
    """Raised inside a function that runs too long. Not an Exception, which the function might catch."""


def within(seconds: float, function: Callable[[], object]) -> None:
    """Runs `function`, raises what it raises, and TimeoutError where it is not done in time.

    It runs in a thread, which is stopped at its next line of Python: the interpreter stops, a GPU goes on.
    """
    raised = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def work():
        try:
            if device is not None:
                torch.cuda.set_device(device)
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(TimeUp))
            thread.join(2.0)
    if raised and isinstance(raised[0], Exception):
        raise raised[0]
    if raised or thread.is_alive():
        raise TimeoutError


class Guarded:
    """A copy of a tensor, its strides kept, amid memory that nobody may touch."""

    def __init__(self, name: str, like: torch.Tensor, device, filled: bool):
        self.name = name
        span = 1 + sum((size - 1) * stride for size, stride in zip(like.shape, like.stride())) if like.numel() else 0
        self.buffer = torch.empty(GUARD + span + GUARD, dtype=like.dtype, device=device)
        self.bits.fill_(UNTOUCHED[like.element_size()] + filled)
        self.tensor = self.buffer.as_strided(like.shape, like.stride(), GUARD)
        once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in like.stride())
        if filled:
            self.tensor[once].copy_(like[once])
        self.before = self.bits.clone()
        self.owned = torch.zeros(self.buffer.shape, dtype=torch.bool, device=device)
        self.owned.as_strided(like.shape, like.stride(), GUARD)[once] = True

    @property
    def bits(self) -> torch.Tensor:
        return self.buffer.view(AS_INTEGERS[self.buffer.element_size()])

    @property
    def unwritten(self) -> torch.Tensor:
        """Where the tensor still holds what the memory was filled with."""
        bits = self.bits.as_strided(self.tensor.shape, self.tensor.stride(), GUARD)
        return (bits == UNTOUCHED[self.buffer.element_size()]).cpu()

    def locate(self, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of `addresses` lie in the buffer, and which of its elements those are."""
        first = self.buffer.data_ptr()
        here = (addresses >= first) & (addresses < first + self.buffer.nbytes)
        behind = (addresses[here] - np.uint64(first)) // np.uint64(self.buffer.element_size())
        return here, behind.astype(np.int64)

    def changed(self) -> bool:
        """Whether anything was written into the tensor."""
        return bool((self.bits != self.before)[self.owned].any())

    def trespassed(self) -> list[int]:
        """Where the memory around the tensor was written, counted from the tensor's first element."""
        return [i - GUARD for i in ((self.bits != self.before) & ~self.owned).nonzero().flatten().tolist()]

    def place(self, element: int) -> str:
        """The name of the tensor's element that is `element` behind the buffer's first one: out[3, 0]."""
        positions = torch.arange(self.buffer.numel()).as_strided(self.tensor.shape, self.tensor.stride(), GUARD)
        index = (positions == element).nonzero()[0].tolist()
        return f"{self.name}[{', '.join(str(i) for i in index)}]"

    def describe(self, offset: int) -> str:
        """In words, the memory `offset` elements from the first one."""
        size = " × ".join(str(n) for n in self.tensor.shape)
        whose = f"{self.name}, which is of size {size or 1}"
        last = self.buffer.numel() - 2 * GUARD - 1
        if offset < 0:
            return f"{elements(-offset)} before the start of {whose}"
        if offset > last:
            return f"{elements(offset - last)} past the end of {whose}"
        return f"memory between the elements of {whose}"


def elements(n: int) -> str:
    return f"{n} element{'s' * (n != 1)}"


class Watch:
    """The tensors of one run, and the first time that each kind of access went astray, or that two programs met."""

    def __init__(self, guarded: list[Guarded]):
        self.astray: dict[str, str] = {}  # "load", "store" or "race": what happened
        self.guarded, self.races = guarded, Races(guarded)

    def __call__(self, access: Access) -> None:
        self.races(access)
        if self.races.found and not self.astray:
            self.astray["race"] = self.races.found
        kind = "load" if access.kind == "load" else "store"
        if kind in self.astray:
            return
        program = access.program[0] if not any(access.program[1:]) else access.program
        addresses = access.addresses[access.mask]
        for g in self.guarded:
            _, touched = g.locate(addresses)
            strays = touched[~g.owned.numpy()[touched]]
            if strays.size:
                verb = "read" if kind == "load" else "wrote to"
                self.astray[kind] = f"Program {program} {verb} {g.describe(int(strays[0]) - GUARD)}"
                return
        if (access.mask & ~access.ours).any():
            self.astray[kind] = f"Program {program} made a {kind} far outside of every tensor"
