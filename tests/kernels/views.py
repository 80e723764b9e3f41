"""Tensors of any shape and strides, for the kernels that take them all."""
import pytest
import torch
from hypothesis import strategies as st

VIEWS = [
    lambda t: t.mT, lambda t: t[..., ::2], lambda t: t[:, :, ::2], lambda t: t[:, 1:], lambda t: t[:, 1:, :, 1:],
    lambda t: t[:, 3], lambda t: t.permute(1, 2, 3, 0), lambda t: t.permute(3, 1, 2, 0), lambda t: t.flatten(1).T,
    lambda t: t.to(memory_format=torch.channels_last), lambda t: t[:, :1].expand(t.shape),
    lambda t: t[..., :1].expand(t.shape),
]
"""Each takes a contiguous tensor of four dimensions, and returns one that is not."""

each_view = pytest.mark.parametrize("view", VIEWS)


@st.composite
def strided(draw, device, sizes=(1, 24), dims=(1, 4)):
    """Some of the elements of a tensor whose `sizes` and number of `dims` are in these ranges, in some order."""
    shape = draw(st.lists(st.integers(*sizes), min_size=dims[0], max_size=dims[1]))
    some = tuple(slice(None, None, draw(st.sampled_from([1, 1, 2]))) for _ in shape)
    return torch.randn(shape, device=device)[some].permute(draw(st.permutations(range(len(shape)))))


@st.composite
def operands(draw, device):
    """Two tensors that broadcast: some of their dimensions are 1, or missing in front."""
    shape = draw(st.lists(st.integers(0, 9), max_size=4))

    def operand():
        sizes = [draw(st.sampled_from([1, n])) for n in shape]
        return torch.randn(sizes[draw(st.integers(0, len(sizes))) :], device=device)

    return operand(), operand()
