"""Whether programs of one launch meet at an element. The interpreter runs them one after the other, and forgives it."""
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from course.lab.interpret import Access

if TYPE_CHECKING:
    from course.lab.sandbox import Guarded

NOBODY, SEVERAL = 0, -1

MEETS = {"load": ("store", "atomic"), "store": ("store", "load", "atomic"), "atomic": ("store", "load")}
"""What two programs must not both do to one element, or it matters who comes first."""

DONE = {"load": "read", "store": "wrote", "atomic": "added to"}


class Races:
    """Who has touched each element of some tensors, and in `found` the first two programs of a launch that met.

    A store of the bits that are there already meets nobody. Once a launch has used an atomic on other memory, a lock
    or a counter, its programs may be waiting for each other, and nothing more is said of that launch.
    """

    def __init__(self, tensors: Iterable["Guarded"]):
        self.found: str | None = None
        self.tensors = list(tensors)
        self.start(launch=0)

    def start(self, launch: int) -> None:
        """Forgets what earlier launches did: they are over when this one begins."""
        self.launch, self.waiting = launch, False
        self.numbers: dict[tuple[int, int, int], int] = {}  # of the programs, in the touches below
        self.touches = [{kind: np.zeros(t.buffer.numel(), np.int64) for kind in MEETS} for t in self.tensors]

    def __call__(self, access: Access) -> None:
        if access.launch != self.launch:
            self.start(access.launch)
        if self.found or self.waiting:
            return
        me = self.numbers.setdefault(access.program, len(self.numbers) + 1)
        lanes = access.mask & access.ours
        addresses = access.addresses[lanes]
        elsewhere = np.ones(addresses.shape, dtype=bool)
        for tensor, touched in zip(self.tensors, self.touches):
            here, elements = tensor.locate(addresses)
            elsewhere &= ~here
            matters = tensor.owned.numpy()[elements]
            if access.kind == "store":
                matters &= bits(access.value[lanes][here]) != tensor.bits.numpy()[elements]
            for kind in MEETS[access.kind]:
                who = touched[kind][elements]
                met = matters & (who != NOBODY) & (who != me)
                if met.any():
                    lane = int(met.argmax())
                    self.found = self.describe(access, kind, int(who[lane]), tensor.place(int(elements[lane])))
                    return
            mine = touched[access.kind]
            mine[elements] = np.where((mine[elements] == NOBODY) | (mine[elements] == me), me, SEVERAL)
        self.waiting = access.kind == "atomic" and bool(elsewhere.any())

    def describe(self, access: Access, kind: str, who: int, place: str) -> str:
        others = [program for program, number in self.numbers.items() if number == who or who == SEVERAL]
        other, me = names([next(p for p in others if p != access.program), access.program])
        if kind == access.kind:
            return f"Programs {other} and {me} both {DONE[kind]} {place}, and nobody knows which comes last"
        return (
            f"Program {other} {DONE[kind]} {place} and program {me} {DONE[access.kind]} it, and nobody knows which "
            "comes first"
        )


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"i{values.dtype.itemsize}")


def names(programs: Sequence[tuple[int, int, int]]) -> list:
    """Programs as a reader knows them: by a number if no other dimension of the grid is in sight."""
    dimensions = max((i + 1 for program in programs for i, n in enumerate(program) if n), default=1)
    return [program[0] if dimensions == 1 else program[:dimensions] for program in programs]
