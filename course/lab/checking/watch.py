"""What is wrong with the memory accesses of a launch: elements outside of the tensors, and data races.

Both are invisible in the results. Memory outside of a tensor may hold anything, and a data race, two programs of a
launch that access one element of which at least one writes it, has a result that depends on their order. The
interpreter runs the programs one after the other, so that it may come out right.
"""
from collections.abc import Iterable

import numpy as np

from course.lab.checking.guarded import GUARD, Guarded
from course.lab.interpret.observe import Access
from course.lab.interpret.place import here

NO_PROGRAM, SEVERAL = 0, -1

CONFLICTS = {"load": ("store", "atomic"), "store": ("store", "load", "atomic"), "atomic": ("store", "load")}
"""The accesses of one program to an element that make an access of another program to it a data race."""

DONE = {"load": "read", "store": "wrote", "atomic": "added to"}


class Watch:
    """Observes the accesses to some tensors. `faults` describes the first bad load, the first bad store (or atomic
    operation), and, where it comes before these, the first data race, under "load", "store" and "race"."""

    def __init__(self, guarded: list[Guarded]):
        self.faults: dict[str, str] = {}
        self.guarded, self.races = guarded, Races(guarded)

    def __call__(self, access: Access) -> None:
        self.races(access)
        if self.races.found and not self.faults:
            self.faults["race"] = self.races.found
        kind = "load" if access.kind == "load" else "store"
        if kind in self.faults:
            return
        program = name(access.program, access.grid)
        addresses = access.addresses[access.mask]
        for g in self.guarded:
            _, touched = g.locate(addresses)
            outside = touched[~g.owned.numpy()[touched]]
            if outside.size:
                verb = "read" if kind == "load" else "wrote"
                number = f"{outside.size:,} elements" if outside.size > 1 else "1 element"
                first = "; the first lies" if outside.size > 1 else ","
                self.faults[kind] = (f"Program {program} {verb} {number} outside of {g.name}, which is of size {g.size}"
                                     f"{first} {g.describe(int(outside[0]) - GUARD)}{where()}")
                return
        if (access.mask & ~access.in_a_tensor).any():
            self.faults[kind] = f"Program {program} made a {kind} far outside of every tensor{where()}"


class Races:
    """Observes which programs of a launch access each element of some tensors; `found` describes the first data race.

    A store of the value that the element already holds is none. Where a launch uses an atomic operation on memory
    outside of these tensors, as a lock or a counter, its programs may be synchronised with each other by it: from there
    on no data race of that launch is reported.
    """

    def __init__(self, tensors: Iterable[Guarded]):
        self.found: str | None = None
        self.tensors = list(tensors)
        self.start(launch=0)

    def start(self, launch: int) -> None:
        """Forgets the accesses of earlier launches: they have ended when this one begins."""
        self.launch, self.synchronised = launch, False
        self.numbers: dict[tuple[int, int, int], int] = {}  # of the programs, in `accessed`
        self.accessed = [{kind: np.zeros(t.buffer.numel(), np.int64) for kind in CONFLICTS} for t in self.tensors]

    def __call__(self, access: Access) -> None:
        if access.launch != self.launch:
            self.start(access.launch)
        if self.found or self.synchronised:
            return
        this = self.numbers.setdefault(access.program, len(self.numbers) + 1)
        lanes = access.mask & access.in_a_tensor
        addresses = access.addresses[lanes]
        elsewhere = np.ones(addresses.shape, dtype=bool)
        for tensor, accessed in zip(self.tensors, self.accessed):
            here, elements = tensor.locate(addresses)
            elsewhere &= ~here
            matters = tensor.owned.numpy()[elements]
            if access.kind == "store":
                matters &= bits(access.value[lanes][here]) != tensor.bits.numpy()[elements]
            for kind in CONFLICTS[access.kind]:
                by = accessed[kind][elements]
                conflict = matters & (by != NO_PROGRAM) & (by != this)
                if conflict.any():
                    lane = int(conflict.argmax())
                    self.found = self.describe(access, kind, int(by[lane]), tensor.place(int(elements[lane])))
                    return
            mine = accessed[access.kind]
            mine[elements] = np.where((mine[elements] == NO_PROGRAM) | (mine[elements] == this), this, SEVERAL)
        self.synchronised = access.kind == "atomic" and bool(elsewhere.any())

    def describe(self, access: Access, kind: str, by: int, place: str) -> str:
        others = [program for program, number in self.numbers.items() if number == by or by == SEVERAL]
        other = name(next(p for p in others if p != access.program), access.grid)
        this = name(access.program, access.grid)
        if kind == access.kind:
            return f"Programs {other} and {this} both {DONE[kind]} {place}, in no defined order{where()}"
        return (f"Program {other} {DONE[kind]} {place} and program {this} {DONE[access.kind]} it, in no defined order"
                f"{where()}")


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"i{values.dtype.itemsize}")


def name(program: tuple[int, ...], grid: tuple[int, ...]) -> int | tuple[int, ...]:
    """A program as its kernel numbers it: by one number in a grid of one dimension."""
    return program[0] if len(grid) == 1 else tuple(program[:len(grid)])


def where() -> str:
    place = here()
    return f" (in {place})" if place else ""
