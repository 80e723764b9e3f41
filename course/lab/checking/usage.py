"""What a function used while it ran, bytes, programs, launches and PyTorch's own operations, and whether that is more
than the task allows.

Two functions may give the same numbers, of which one reads its input twice or leaves the work to PyTorch: the results
do not show it, the accesses do.
"""
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course.lab.checking.guarded import GUARD, Guarded
from course.lab.interpret.observe import Access, Launch
from course.lab.interpret.place import Place, here

NO_PROGRAM = -1

COPIES = {"clone", "copy_", "_to_copy"}
MORE = 1.25
"""How many times the solution's bytes an answer may read before a word is said of it: blocks may have other sizes."""

FILLS = {"fill_", "zero_", "set_", "resize_", "empty_like", "zeros_like", "ones_like", "full_like", "new_empty",
         "new_empty_strided", "new_zeros", "new_ones", "new_full", "_local_scalar_dense"}


class Writer(NamedTuple):
    """A store to the output: the program, its grid, and the line of the learner's code."""

    program: tuple[int, int, int]
    grid: tuple[int, ...]
    place: Place | None


class Usage:
    """Observes the accesses of a function's kernels, and the programs that wrote each element of the output.

    `read` counts each element once an instruction, in bytes, for each input by its name and for all other memory under
    "". `masked` says whether a lane of any load was masked, `atomics` counts atomic operations, `grid` is that of the
    last launch that wrote to the output.
    """

    def __init__(self, inputs: Sequence[Guarded], out: Guarded):
        self.inputs, self.out = inputs, out
        self.launches: list[Launch] = []
        self.read = {g.name: 0 for g in inputs} | {"": 0}
        self.atomics = 0
        self.stores: dict[Place | None, list[int]] = {}  # by their line: all lanes, and those that wrote to the output
        self.masked = False
        self.grid: tuple[int, ...] = ()
        self.writers: list[Writer] = []
        self.writer = np.full(out.buffer.numel(), NO_PROGRAM)

    def __call__(self, access: Access) -> None:
        if access.kind != "store":
            self.masked |= not access.mask.all()
            first = access.addresses[access.mask]
            if first.size:
                owner = next((g.name for g in self.inputs if g.locate(first[:1])[0].any()), "")
                self.read[owner] += np.unique(first).size * access.itemsize
        self.atomics += access.kind == "atomic"
        if access.kind != "load":
            place = here()
            _, elements = self.out.locate(access.addresses[access.mask])
            count = self.stores.setdefault(place, [0, 0])
            count[0] += access.mask.size
            count[1] += elements.size
            if elements.size:
                self.grid = access.grid
                self.writer[elements] = len(self.writers)
                self.writers.append(Writer(access.program, access.grid, place))

    @property
    def lanes(self) -> int:
        """How many lanes the stores to the output had, the masked ones included."""
        return sum(lanes for lanes, stored in self.stores.values() if stored)

    @property
    def stored(self) -> int:
        """How many of them wrote to it."""
        return sum(stored for _, stored in self.stores.values())

    @property
    def complete(self) -> bool:
        """Whether every program of every launch ran."""
        return all(launch.begun == launch.programs for launch in self.launches)

    @property
    def judged(self) -> torch.Tensor:
        """The elements of the output that can be right or wrong: all, unless only some of the programs ran.

        Then those that these wrote, if there is one launch and nothing is atomic: what others would have added to an
        element, or left behind for a second launch, is missing.
        """
        if self.complete:
            return torch.ones(self.out.tensor.shape, dtype=torch.bool)
        written = torch.from_numpy(self.writer != NO_PROGRAM) & (len(self.launches) == 1 and not self.atomics)
        return written.as_strided(self.out.tensor.shape, self.out.tensor.stride(), GUARD)

    def written_by(self, index: tuple[int, ...]) -> Writer | None:
        """What wrote an element of the output last."""
        strides = self.out.tensor.stride()
        number = self.writer[GUARD + sum(i * stride for i, stride in zip(index, strides))]
        return None if number == NO_PROGRAM else self.writers[number]


class PyTorchWork(TorchDispatchMode):
    """Records the operations of PyTorch that run outside of kernels, on tensors of at least `size` elements.

    `computed` and `viewed` name them and the line they stand in, `copied` counts bytes.
    """

    def __init__(self, launches: Sequence[Launch], size: int):
        super().__init__()
        self.launches, self.size = launches, size
        self.computed: dict[str, Place | None] = {}
        self.viewed: dict[str, Place | None] = {}
        self.copied = 0
        self.copied_in: Place | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not (self.launches and self.launches[-1].running):
            self.record(func, [*args, *(kwargs or {}).values(), result])
        return result

    def record(self, func, values):
        tensors = [t for value in values for t in (value if isinstance(value, list | tuple) else [value])
                   if torch.is_tensor(t)]
        sizes = [t.numel() for t in tensors]
        name = func.overloadpacket.__name__
        if func.is_view:
            self.viewed.setdefault(name, here())
        elif len(tensors) < 2 or max(sizes) < self.size or name in FILLS:
            pass
        elif name in COPIES:
            self.copied += max(sizes) * tensors[0].element_size()
            self.copied_in = self.copied_in or here()
        else:
            self.computed.setdefault(name, here())


@dataclasses.dataclass
class Used:
    """What one run of a function used, by the names that `Exercise.frugal` has, and where."""

    kernels: Usage
    pytorch: PyTorchWork

    @property
    def own(self) -> bool:
        """Whether a kernel ran that is not one of the package's."""
        return any(not launch.kernel.__module__.startswith("course.kernels") for launch in self.kernels.launches)

    @property
    def amounts(self) -> dict[str, int]:
        return {
            "reads": sum(self.kernels.read.values()) + self.pytorch.copied,
            "programs": sum(launch.programs for launch in self.kernels.launches),
            "launches": len(self.kernels.launches),
            "copies": self.pytorch.copied,
            "views": len(self.pytorch.viewed),
            "atomics": self.kernels.atomics,
        }


def beyond(mine: Used, theirs: Used, frugal: tuple[str, ...]) -> tuple[str | None, str | None]:
    """What a right answer, `mine`, does that the task rules out; and else what it does more than the solution."""
    extra = {name: place for name, place in mine.pytorch.computed.items() if name not in theirs.pytorch.computed}
    launched = mine.own or not theirs.own and (mine.kernels.launches or not theirs.kernels.launches)
    if theirs.kernels.launches and extra or not launched:
        name, place = next(iter(extra.items()), (None, None))
        return (f"right, but computed by PyTorch{f' ({name}, in {place})' if name else ''}: the task asks for a kernel",
                None)
    used, enough = mine.amounts, theirs.amounts
    limits = {**enough, "reads": MORE * enough["reads"]}
    too_much = [what for what in used if used[what] > limits[what]]
    for what in frugal:
        if what in too_much:
            return words(what, mine, theirs), None
    return None, words("reads", mine, theirs) if "reads" in too_much else None


def words(what: str, mine: Used, theirs: Used) -> str:
    used, enough = mine.amounts[what], theirs.amounts[what]
    if what == "reads":
        most = max(mine.kernels.read, key=lambda name: mine.kernels.read[name] - theirs.kernels.read.get(name, 0))
        of = f", most of them of {most}" if most else ""
        return f"right, but it reads {used:,} bytes{of}, where {enough:,} would do"
    if what == "views":
        name, place = next(iter(mine.pytorch.viewed.items()))
        return f"right, but by a view of PyTorch's ({name}, in {place}): the task asks for strides alone"
    if what == "copies":
        return f"right, but PyTorch copies {used:,} bytes in {mine.pytorch.copied_in}, where {enough:,} would do"
    if what == "atomics":
        return f"right, but with {used:,} atomic operations, where {enough:,} would do"
    return f"right, but with {used:,} {what}, where {enough:,} would do"
