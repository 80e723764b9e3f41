import pytest
import torch

from course.kernels import row_statistics
from course.kernels.parts.sizes import cdiv
from course.kernels.products.row_statistics import PART
from tests.compare import assert_accurate, one_dtype
from tests.kernels.products.test_matmul import normal

EQUAL = (0.1, -7.7, 1 / 3, 5.0, 1e-30, 3e4)


def check_statistics(got, x):
    """Of each part of the rows of `x` the mean and the squared deviations from it."""
    width, whole = PART.value, x.shape[-1] // PART.value
    full, rest = x.split((whole * width, x.shape[-1] - whole * width), dim=-1)
    for first, parts in ((0, full.unflatten(-1, (whole, width))), (whole, rest[..., None, :])):
        if parts.numel() == 0:
            continue
        parts, here = parts.double(), slice(first, first + parts.shape[-2])
        assert_accurate(got[..., 0, here], parts.mean(-1), terms=width, magnitude=parts.abs().mean(-1))
        exact = (parts - parts.mean(-1, keepdim=True)).square().sum(-1)
        # a mean that is off by e adds e to every deviation
        off = 4 * width * 2.0**-24 * parts.abs().amax(-1)
        assert_accurate(got[..., 1, here], exact, terms=width, magnitude=exact + width * off * parts.abs().amax(-1))


@pytest.mark.parametrize("shape", [
    (1, 1), (5, 31), (3, 32), (2, 7, 33), (197, 100), (3, 768), (2, 1025), (40,), (0, 7),
])
def test_shapes(shape, dtype, device):
    x = normal(shape, dtype)
    check_statistics(row_statistics(x), x)


def test_strides(device):
    x = normal((6, 4, 80))
    for view in (x.transpose(0, 1), x[:, :1], x[..., ::2], x.mT, x[:1].expand(3, -1, -1)):
        check_statistics(row_statistics(view), view)


def test_rows_far_from_zero(device):
    """The mean of squares less the squared mean would leave no digit of a variance of 1 here."""
    x = normal((4, 200)) + 1e4
    check_statistics(row_statistics(x), x)


@pytest.mark.parametrize("K", [1, 3, 9, 31, 32, 33, 100, 768, 1000])
def test_equal_numbers_are_their_mean(K, dtype, device):
    x = torch.tensor(EQUAL, dtype=dtype, device=device)[:, None].expand(-1, K)
    means, squares = row_statistics(x).unbind(-2)
    parts = cdiv(K, PART.value)
    assert torch.equal(means[:, :parts], x[:, :1].float().expand(-1, parts)) and not squares[:, :parts].any()


@one_dtype
def test_opcheck(dtype, device):
    torch.library.opcheck(torch.ops.course.row_statistics.default, (normal((2, 3, 40), dtype),))


def test_compiles_without_graph_breaks(device):
    x = normal((6, 40))
    compiled = torch.compile(row_statistics, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), row_statistics(x))


def test_bad_input(device):
    x = normal((3, 40))
    with pytest.raises(ValueError, match=r"row_statistics: expected input \(\.\.\., K\) with K of at least 1, .*0\)"):
        row_statistics(x[:, :0])
    with pytest.raises(ValueError, match=r"row_statistics: expected input \(\.\.\., K\) with K of at least 1, .*\(\)"):
        row_statistics(x[0, 0])
    with pytest.raises(TypeError, match="row_statistics: expected input in float32, float16 or bfloat16, got"):
        row_statistics(x.long())


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2**25 + 5, 64), (2**30 + 5, 1)])  # the second has as many statistics
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape):
    x = torch.empty(shape, dtype=torch.float16, device="cuda").normal_()
    statistics = row_statistics(x)
    for part in (slice(300), slice(-300, None)):
        check_statistics(statistics[part], x[part])
