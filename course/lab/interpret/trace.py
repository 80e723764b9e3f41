"""`trace`: which program of a launch accesses which element, and the bytes moved. `draw_access` draws it."""
import dataclasses
import inspect
from collections.abc import Callable

import numpy as np
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from course.lab.interpret.observe import Access, observed

PAD = 1 << 16
"""Bytes around the copy of each tensor, so that an address next to it can be told from one far from every tensor."""


@dataclasses.dataclass
class Touch:
    """One memory instruction of one program, on one tensor: the place of each lane, and its state."""

    program: tuple[int, int, int]
    kind: str
    row: np.ndarray
    column: np.ndarray
    state: np.ndarray  # of "active", "masked", "outside"
    placed: np.ndarray  # False where the lane's place is not known


@dataclasses.dataclass
class Trace:
    """All memory accesses of one launch of `kernel`."""

    kernel: str
    grid: tuple[int, ...]
    tensors: dict[str, tuple[int, int]]  # name: rows and columns as drawn
    touches: dict[str, list[Touch]]
    read: int
    written: int
    ideal: int
    lost: int  # active lanes whose address is far from every tensor

    @property
    def moved(self) -> int:
        return self.read + self.written

    def lanes(self, state: str | None = None) -> int:
        """How many lanes loads and stores had, or how many of them in one state."""
        states = [touch.state for touches in self.touches.values() for touch in touches]
        return sum(s.size if state is None else int((s == state).sum()) for s in states)

    def __repr__(self):
        text = (
            f"{self.kernel} on a grid of {self.grid}: {self.read} bytes read, {self.written} written, "
            f"{self.moved} moved; {self.ideal} would do ({self.moved / max(self.ideal, 1):.2f} times); "
            f"{self.lanes('masked')} of {self.lanes()} lanes masked"
        )
        outside = self.lanes("outside") + self.lost
        return text + (f"; {outside} lanes outside of their tensor" if outside else "")


def trace(kernel, grid: tuple[int, ...] | Callable, *args, **kwargs) -> Trace:
    """Runs `kernel[grid](*args, **kwargs)` in the interpreter, on copies of its tensors, and returns what it accessed.

    An instruction of one program counts each element once; `ideal` counts each element read and each element
    written once for the whole launch. Raises what the kernel raises.
    """
    fn, kwargs = plain_function(kernel, kwargs)
    signature = inspect.signature(fn)
    bound = signature.bind(*args, **{name: value for name, value in kwargs.items() if name in signature.parameters})
    bound.apply_defaults()
    grid = grid(bound.arguments) if callable(grid) else grid
    copies = Copies()
    arguments = {name: copies.of(value, name) for name, value in bound.arguments.items()}
    accesses: list[Access] = []
    with observed(accesses.append):
        InterpretedFunction(fn)[grid](**arguments)
    return summarise(fn.__name__, grid, copies.tensors, accesses)


def plain_function(kernel, kwargs):
    """The Python function under triton.jit, with the first configuration of an autotuner around it."""
    while not isinstance(kernel, (JITFunction, InterpretedFunction)):
        if hasattr(kernel, "configs"):
            kwargs = {**kernel.configs[0].kwargs, **kwargs}
        kernel = kernel.fn
    return kernel.fn, kwargs


class Copies:
    """Copies of a launch's tensors on the CPU, padded; views of one memory stay views of one memory."""

    def __init__(self):
        self.tensors: dict[str, torch.Tensor] = {}
        self.storages: dict[int, torch.Tensor] = {}

    def of(self, value, name):
        if isinstance(value, tuple):
            return tuple(self.of(v, f"{name}[{i}]") for i, v in enumerate(value))
        if isinstance(value, TensorDescriptor):
            return dataclasses.replace(value, base=self.of(value.base, name))
        if not isinstance(value, torch.Tensor):
            return value
        self.tensors[name] = self.copy(value)
        return self.tensors[name]

    def copy(self, t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in self.storages:
            padded = torch.zeros(storage.nbytes() + 2 * PAD, dtype=torch.uint8)
            padded[PAD : PAD + storage.nbytes()] = torch.empty(0, dtype=torch.uint8).set_(storage.cpu())
            self.storages[storage.data_ptr()] = padded
        padded = self.storages[storage.data_ptr()]
        offset = PAD // t.element_size() + t.storage_offset()
        return torch.empty(0, dtype=t.dtype).set_(padded.untyped_storage(), offset, t.shape, t.stride())


def summarise(kernel, grid, tensors, accesses):
    layouts = {name: Layout(t) for name, t in tensors.items()}
    touches = {f"{name} {what}": [] for name in layouts for what in ("read", "written")}
    read = written = lost = 0
    distinct = {"read": set(), "written": set()}
    for access in accesses:
        directions = {"load": ["read"], "store": ["written"], "atomic": ["read", "written"]}[access.kind]
        size = np.unique(access.addresses[access.mask]).size * access.itemsize
        read += size * ("read" in directions)
        written += size * ("written" in directions)
        name = max(layouts, key=lambda name: layouts[name].near(access))
        if layouts[name].near(access) == (0, 0, 0):
            lost += int(access.mask.sum())
            continue
        touch = layouts[name].touch(access)
        for what in directions:
            touches[f"{name} {what}"].append(touch)
            distinct[what].update((int(a), access.itemsize) for a in access.addresses[touch.state == "active"])
    ideal = sum(itemsize for seen in distinct.values() for _, itemsize in seen)
    sizes = {name: (layout.rows, layout.columns) for name, layout in layouts.items()}
    return Trace(kernel, grid, sizes, {k: v for k, v in touches.items() if v}, read, written, ideal, lost)


class Layout:
    """Where a tensor's elements lie in memory, and where in a drawing of rows and columns."""

    def __init__(self, t: torch.Tensor):
        for d in range(t.ndim):
            if t.stride(d) == 0:
                t = t.narrow(d, 0, 1)  # an expanded dimension is one element in memory
        self.columns = t.shape[-1] if t.ndim else 1
        self.rows = t.numel() // max(self.columns, 1)
        self.itemsize, self.base = t.element_size(), t.data_ptr()
        storage = t.untyped_storage()
        self.region = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
        self.steps = [(t.stride(d), np.array([d == t.ndim - 2, d == t.ndim - 1])) for d in range(t.ndim)]
        offsets = np.zeros(t.shape, dtype=np.int64)
        for d in range(t.ndim):
            offsets += np.arange(t.shape[d]).reshape([-1] + [1] * (t.ndim - 1 - d)) * t.stride(d)
        self.place_of = {int(offset): divmod(i, self.columns) for i, offset in enumerate(offsets.flat)}
        self.pitch = t.stride(-2) if t.ndim > 1 and t.stride(-1) == 1 else 0
        self.gap = max(self.pitch - self.columns, 0)  # between the end of a row and the start of the next

    def near(self, access):
        """How many active lanes are in this tensor, how many lanes at all, and how many in its padded memory."""
        inside = (access.addresses >= self.region[0]) & (access.addresses < self.region[1])
        offsets = (access.addresses[inside].astype(np.int64) - self.base) // self.itemsize
        ours = np.array([int(offset) in self.place_of for offset in offsets], dtype=bool)
        # the active first: where tensors lie one behind the other, most masked lanes of a block may be in the next
        return int((ours & access.mask[inside]).sum()), int(ours.sum()), int(inside.sum())

    def touch(self, access):
        offsets = (access.addresses.astype(np.int64) - self.base) // self.itemsize
        place = np.full((*offsets.shape, 2), -1)
        placed = np.zeros(offsets.shape, dtype=bool)
        state = np.where(access.mask, "outside", "masked").astype("<U7")
        for lane in np.ndindex(offsets.shape):
            found = self.place_of.get(int(offsets[lane]))
            if found and access.mask[lane]:
                place[lane], placed[lane], state[lane] = found, True, "active"
        self.extrapolate(offsets, place, placed)
        return Touch(access.program, access.kind, place[..., 0], place[..., 1], state, placed)

    def extrapolate(self, offsets, place, placed):
        """Lanes without an element (masked, or outside) stand where the block's other lanes would put them."""
        anchors = np.argwhere(placed)
        steps = [self.step_along(axis, offsets, place, placed) for axis in range(offsets.ndim)]
        strides = [np.diff(offsets, axis=axis) for axis, size in enumerate(offsets.shape) if size > 1]
        if self.gap and any(stride.min() < stride.max() for stride in strides):
            steps = [None] * offsets.ndim  # no one step leads from lane to lane
        for lane in np.argwhere(~placed):
            if anchors.size:
                anchor = anchors[np.abs(anchors - lane).sum(axis=1).argmin()]
                start = place[tuple(anchor)].copy()
            else:  # no lane of the block is in the tensor: its first one goes where its address says
                anchor = np.zeros(offsets.ndim, dtype=int)
                first = int(offsets[tuple(anchor)])
                start = self.beside_a_row(first) if self.gap else self.by_address(first)
            moves = [(n, step) for n, step in zip(lane - anchor, steps) if n]
            if start is None or any(step is None for _, step in moves):
                start, moves = self.beside_a_row(int(offsets[tuple(lane)])) if self.gap else None, []
            if start is not None:
                place[tuple(lane)] = start + sum(n * step for n, step in moves)
                placed[tuple(lane)] = True

    def step_along(self, axis, offsets, place, placed) -> np.ndarray | None:
        """How far apart on the drawing neighbours along one axis of a block are."""
        if offsets.shape[axis] == 1:
            return np.zeros(2, dtype=int)
        before, after = (np.take(placed, np.arange(n, n + placed.shape[axis] - 1), axis) for n in (0, 1))
        pairs = np.argwhere(before & after)
        if pairs.size:
            first, second = tuple(pairs[0]), tuple(pairs[0] + (np.arange(offsets.ndim) == axis))
            return place[second] - place[first]
        stride = int(np.diff(offsets, axis=axis).flat[0])
        return next((step.astype(int) for s, step in reversed(self.steps) if s == stride), None)

    def beside_a_row(self, offset: int) -> np.ndarray:
        """Where rows lie apart, the address alone shows which of them a place is next to."""
        row, column = divmod(offset + self.gap // 2, self.pitch)
        return np.array((row, column - self.gap // 2))

    def by_address(self, offset: int) -> np.ndarray | None:
        place = np.zeros(2, dtype=int)
        for stride, step in sorted(self.steps[-2:], key=lambda s: -s[0]):
            n, offset = divmod(offset, stride) if stride else (0, offset)
            place += n * step
        return place if offset == 0 else None
