"""`Guarded`: copies that keep their strides, and the guard elements around them."""
import pytest
import torch

from course.lab.checking.guarded import Guarded


@pytest.mark.parametrize("like", [
    torch.randn(5), torch.randn(9)[::2], torch.randn(3, 4).T, torch.randn(1).expand(4), torch.randn(0),
    torch.tensor(1.0), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.arange(5),
    torch.randn(4).bfloat16(),
])
def test_guarded_copies(like):
    filled = Guarded("x", like, "cpu", filled=True)
    assert filled.tensor.equal(like) and filled.tensor.stride() == like.stride()
    assert not filled.changed() and not filled.guard_writes()
    empty = Guarded("out", like, "cpu", filled=False)
    assert empty.unwritten.all() and (empty.tensor.isnan().all() or not like.is_floating_point())
    empty.bits[0] = 0
    assert empty.guard_writes() == [-(1 << 14)] and not empty.changed()
