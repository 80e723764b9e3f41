import hypothesis
import hypothesis.strategies as st
import torch
from torch._prims_common import suggest_memory_format as pytorch_suggests

from course.kernels.parts.images import suggest_memory_format


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=3, max_size=5))
def test_any_strides(dims):
    last = sum(max(size - 1, 0) * stride for size, stride in dims)
    t = torch.empty(last + 1).as_strided(*zip(*dims))
    assert suggest_memory_format(t.shape, t.stride()) == pytorch_suggests(t)


def test_memory_formats():
    for shape, own in (((2, 3, 4, 5), torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)):
        t = torch.empty(shape)
        for x in (t, t.to(memory_format=own), t[:, :1], t.to(memory_format=own)[:1], t.to(memory_format=own)[0][None]):
            assert suggest_memory_format(x.shape, x.stride()) == pytorch_suggests(x)
