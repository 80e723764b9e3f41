"""`Guarded`: a tensor between guard elements, in which a store outside of the tensor is seen afterwards."""
import numpy as np
import torch

GUARD = 1 << 14
"""Guard elements before and behind each tensor: memory that no program may read or write."""

UNTOUCHED = {1: 0x5A, 2: 0x7FDA, 4: 0x7FDADADA, 8: 0x7FFADADADADADADA}
"""What the output and its guard elements are filled with, by the size of an element: a NaN in every floating-point
format, and one that arithmetic does not produce. An input's guard elements get the next number, so that a NaN that was
read there can be told apart."""

AS_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Guarded:
    """A copy of a tensor, its strides kept, between guard elements; not `filled`, it has the shape alone."""

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
        """The buffer as integers, which can be compared where they are NaN as numbers."""
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

    def guard_writes(self) -> list[int]:
        """The elements outside of the tensor that were written, counted from the tensor's first element."""
        return [i - GUARD for i in ((self.bits != self.before) & ~self.owned).nonzero().flatten().tolist()]

    def place(self, element: int) -> str:
        """The name of the tensor's element that is `element` behind the buffer's first one: out[3, 0]."""
        positions = torch.arange(self.buffer.numel()).as_strided(self.tensor.shape, self.tensor.stride(), GUARD)
        index = (positions == element).nonzero()[0].tolist()
        return f"{self.name}[{', '.join(str(i) for i in index)}]"

    def describe(self, offset: int) -> str:
        """In words, the memory `offset` elements from the tensor's first one."""
        last = self.buffer.numel() - 2 * GUARD - 1
        if offset < 0:
            return f"{-offset} before its start"
        return f"{offset - last} past its end" if offset > last else "between its elements"

    @property
    def size(self) -> str:
        """In words."""
        return " × ".join(str(n) for n in self.tensor.shape) or "1"
