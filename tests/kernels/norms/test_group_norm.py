import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from course.kernels import group_norm
from course.runtime import INTERPRET
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.images import LAYOUTS, images
from tests.kernels.views import each_view


def check(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Errs as layer_norm does, of which these are the rows."""
    got = group_norm(x, num_groups, weight, bias, eps)
    mixed = any(t is not None and t.dtype != x.dtype for t in (weight, bias))
    if INTERPRET or x.is_contiguous() and not mixed:  # on a GPU PyTorch's result is contiguous, and of one dtype
        assert_like_pytorch(got, F.group_norm(x, num_groups, weight, bias, eps))
    x64, w64, b64 = (None if t is None else t.double() for t in (x, weight, bias))
    exact = F.group_norm(x64, num_groups, w64, b64, eps)
    if x.numel():
        rows = x64.reshape(x.shape[0], num_groups, -1)
        rstd = (rows.var(-1, keepdim=True, correction=0) + eps).rsqrt()
        magnitude = ((rows.abs() + rows.abs().mean(-1, keepdim=True)) * rstd).reshape(x.shape)
        each_channel = (-1, *[1] * (x.ndim - 2))
        magnitude = magnitude * (1.0 if weight is None else w64.abs().view(each_channel))
        magnitude = magnitude + (0.0 if bias is None else b64.abs().view(each_channel))
        # NumPy adds the squares of a group one after the other, which errs by the root of their number; a GPU in a tree
        terms = max(16, round(rows.shape[-1] ** 0.5 / 4)) if INTERPRET else 16
        assert_accurate(got, exact, terms=terms, magnitude=magnitude.nan_to_num(0, 0, 0))


def affine(x, dtype=None):
    return torch.randn(2, x.shape[1], dtype=dtype or x.dtype, device=x.device).unbind()


@pytest.mark.parametrize("shape, num_groups", [
    ((4, 6), 3), ((2, 1), 1), ((1, 4), 2), ((2, 4), 4), ((3, 8, 7), 2), ((2, 9, 4, 5), 3), ((2, 6, 2, 3, 4), 2),
    ((2, 4, 1, 1, 1, 5), 4), ((300, 12), 3), ((5, 64, 7, 7), 32), ((1, 320, 14, 14), 32), ((2, 30, 13, 1), 1),
])
def test_shapes(shape, num_groups, dtype, device):
    x = torch.randn(shape, dtype=dtype, device=device)
    check(x, num_groups, *affine(x))


@pytest.mark.parametrize("shape, num_groups", [
    ((2, 4, 90, 91), 1), ((1, 20, 64, 64), 2), ((2, 3, 200, 201), 3), ((1, 2, 300_001), 1), ((2, 70_001), 1),
    ((2, 5000, 9), 1), ((1, 6, 300, 301), 2),
])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_groups_larger_than_a_block(shape, num_groups, layout, dtype, device):
    x = 3 * torch.randn(shape, dtype=dtype, device=device) + 1
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    check(x, num_groups, *affine(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_groups", [1, 3, 6])
def test_layouts(layout, num_groups, dtype, device):
    x = LAYOUTS[layout](torch.randn(3, 6, 5, 8, dtype=dtype, device=device))
    check(x, num_groups, *affine(x))


@each_view
def test_strides(view, device):
    x = view(torch.randn(4, 6, 5, 16, device=device))
    for num_groups in (1, x.shape[1]):
        check(x, num_groups, *affine(x))


def test_optional_arguments(dtype, device):
    x = torch.randn(2, 6, 5, 5, dtype=dtype, device=device)
    weight, bias = affine(x)
    check(x, 2, weight)
    check(x, 2, None, bias, eps=0.5)
    check(x, 3, weight.repeat_interleave(2)[::2], bias[:1].expand(6))
    check(x, 2, *affine(x, torch.float32))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape, num_groups", [((6, 4), 1), ((2, 6, 13, 14), 2), ((2, 6, 130, 131), 2)])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_groups_of_equal_numbers_are_zeros(layout, shape, num_groups, eps, dtype, device):
    equal = torch.tensor([0.1, -7.7, 1 / 3, 5.0, 1e-30, 3e4], dtype=dtype, device=device)
    each_channel = (-1, *[1] * (len(shape) - 2))
    groups = torch.arange(shape[0] * num_groups, device=device).view(shape[0], num_groups, 1)
    for first in range(0, 6, groups.numel()):
        x = equal[(first + groups) % 6].expand(-1, -1, shape[1] // num_groups).reshape(shape[0], *each_channel)
        x = x.expand(shape).contiguous()
        x = LAYOUTS[layout](x) if len(shape) == 4 else x
        weight, bias = affine(x)
        assert not group_norm(x, num_groups, eps=eps).any()
        assert torch.equal(group_norm(x, num_groups, weight, bias, eps), bias.view(each_channel).expand(shape))


@pytest.mark.parametrize("shape", [(2, 6, 9, 9), (2, 6, 130, 131)])
def test_a_mean_far_from_zero(shape, device):
    check(torch.randn(shape, device=device) + 10_000, 2)


@pytest.mark.parametrize("shape, num_groups", [((0, 4), 2), ((0, 4, 3, 3), 4)])
def test_empty(shape, num_groups, device):
    check(torch.randn(shape, device=device), num_groups)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("size", [5, 150])
def test_nan_and_infinity(size, dtype, device):
    x = torch.randn(2, 8, size, size, dtype=dtype, device=device)
    x[0, 1, 2, 2], x[0, 3, 0, 0], x[1, 0, 0, 0], x[1, 1, 0, 0] = float("nan"), float("inf"), float("inf"), -float("inf")
    weight, bias = affine(x)
    check(x, 4, weight, bias)
    weight[6], bias[7] = float("nan"), float("inf")  # with infinite weights PyTorch computes inf - inf
    check(x, 4, weight, bias)
    assert group_norm(torch.zeros_like(x), 4, eps=0.0).isnan().all()


@hypothesis.given(data=st.data())
def test_any_images(data, device):
    x = data.draw(images(device))
    num_groups = data.draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    hypothesis.assume(x.numel() > num_groups)
    check(x, num_groups, *affine(x))


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(2, 6, 4, 5, dtype=dtype, device=device)
    for t in (x, x[..., 0], x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.group_norm.default, (t, 3, *affine(x), 1e-5))
    torch.library.opcheck(torch.ops.course.group_norm.default, (x, 2, None, None, 1e-5))


def test_compiles_without_graph_breaks(device):
    x = torch.randn(2, 6, 4, 5, device=device)
    compiled = torch.compile(group_norm, fullgraph=True, backend="aot_eager")
    given = affine(x)
    torch.testing.assert_close(compiled(x, 3, *given), F.group_norm(x, 3, *given))


def test_bad_input(device):
    x = torch.randn(2, 6, 4, 5, device=device)
    weight, bias = affine(x)
    for num_groups in (0, -2, 4, 7):
        with pytest.raises(ValueError, match="group_norm: expected num_groups to divide the 6 channels, got"):
            group_norm(x, num_groups)
    with pytest.raises(TypeError, match="group_norm: expected num_groups to be an integer, got 2.0"):
        group_norm(x, 2.0)
    with pytest.raises(ValueError, match=r"group_norm: expected input of shape \(N, C, \.\.\.\), .* got \(6,\)"):
        group_norm(x[0, :, 0, 0], 2)
    with pytest.raises(ValueError, match=r"group_norm: expected input of shape .* got \(2, 6, 0, 5\)"):
        group_norm(x[:, :, :0], 2)
    with pytest.raises(ValueError, match=r"group_norm: expected more than one value per group, got \(1, 6\) in 6"):
        group_norm(x[:1, :, 0, 0], 6)
    with pytest.raises(ValueError, match=r"group_norm: expected weight of shape \(6,\), got \(5,\)"):
        group_norm(x, 2, weight[1:])
    with pytest.raises(TypeError, match="group_norm: expected weight in torch.float32 as input, got torch.float16"):
        group_norm(x, 2, weight.half(), bias)
    with pytest.raises(TypeError, match="group_norm: expected input in float32, float16 or bfloat16, got torch.int64"):
        group_norm(x.long(), 2)
    with pytest.raises(TypeError, match="group_norm: expected eps to be a number, got None"):
        group_norm(x, 2, eps=None)
    with torch.enable_grad(), pytest.raises(ValueError, match="group_norm: weight requires a gradient"):
        group_norm(x, 2, weight.requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"group_norm: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        group_norm(torch.randn(2, 4), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("shape, num_groups", [
    ((9, 64, 2000, 2000), 32), ((1, 2, 33000, 33000), 1), ((2**26 + 1, 32), 2),
])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, num_groups, memory_format):
    shape = shape if len(shape) == 4 else (*shape, 1, 1)
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_(3, 2)
    last = x[-1, -(shape[1] // num_groups) :].float()
    var, mean = torch.var_mean(last, correction=0)
    got = group_norm(x, num_groups)[-1, -1].flatten()[-9:].float()
    torch.testing.assert_close(got, (last[-1].flatten()[-9:] - mean) * (var + 1e-5).rsqrt(), rtol=2e-3, atol=2e-3)
