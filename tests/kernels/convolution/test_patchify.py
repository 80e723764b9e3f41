import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from course.kernels import patchify
from tests.kernels.images import LAYOUTS


def check(x, patch_size):
    PH, PW = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    got = patchify(x, patch_size)
    GH, GW = x.shape[2] // PH, x.shape[3] // PW
    patches = x[:, :, : GH * PH, : GW * PW].unflatten(3, (GW, PW)).unflatten(2, (GH, PH))
    want = patches.permute(0, 2, 4, 1, 3, 5).reshape(len(x), GH * GW, x.shape[1] * PH * PW)
    assert got.is_contiguous() and got.dtype == x.dtype
    assert torch.equal(got[:, 1:], want) and not got[:, 0].any()


@pytest.mark.parametrize("shape, patch_size", [
    ((2, 3, 32, 48), 16), ((1, 1, 7, 7), 7), ((3, 5, 9, 11), (2, 3)), ((2, 3, 10, 10), 4), ((1, 2, 3, 2050), (3, 1)),
    ((1, 3, 4, 2500), (2, 1250)), ((0, 3, 8, 8), 4),
])
def test_shapes(shape, patch_size, dtype, device):
    check(torch.randn(shape, dtype=dtype, device=device), patch_size)


@pytest.mark.parametrize("view", LAYOUTS)
def test_strides(view, device):
    check(LAYOUTS[view](torch.randn(4, 6, 12, 8, device=device)), (3, 2))


@hypothesis.given(shape=st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(9, 20)] * 2), ph=st.integers(1, 9),
                  pw=st.integers(1, 9))
def test_any_shapes(shape, ph, pw, device):
    check(torch.randn(shape, device=device), (ph, pw))


def test_opcheck(device):
    torch.library.opcheck(torch.ops.course.patchify.default, (torch.randn(2, 3, 8, 9, device=device), [4, 3]))


def test_bad_input(device):
    with pytest.raises(ValueError, match=r"patchify: expected input \(B, C, H, W\), got \(3, 8, 8\)"):
        patchify(torch.randn(3, 8, 8, device=device), 4)
    with pytest.raises(ValueError, match="patchify: expected patch_size of at least 1, got 0"):
        patchify(torch.randn(1, 3, 8, 8, device=device), 0)
    with pytest.raises(ValueError, match=r"patchify: expected images of at least \(4, 9\), got \(1, 3, 8, 8\)"):
        patchify(torch.randn(1, 3, 8, 8, device=device), (4, 9))


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements():
    x = torch.randn(1, 2, 2**15, 2**15 + 16, dtype=torch.float16, device="cuda")
    got = patchify(x, 16)
    assert torch.equal(got[0, -1].view(2, 16, 16), x[0, :, -16:, -16:])
