import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from course.kernels import batch_norm
from course.runtime import INTERPRET
from tests.compare import assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.images import LAYOUTS, images


def parameters(x, dtype=None):
    """running_mean, running_var, weight and bias for `x`."""
    made = torch.randn(4, x.shape[1], dtype=torch.float32, device=x.device)
    made[1] = made[1].abs() + 0.1
    return made.to(dtype or x.dtype).unbind()


def check(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    dims = [d for d in range(x.ndim) if d != 1]
    x64, *stats64, weight64, bias64 = (
        t if t is None else t.double() for t in (x, running_mean, running_var, weight, bias)
    )
    before = [t if t is None else t.clone() for t in stats64]
    want = F.batch_norm(x64, *stats64, weight64, bias64, training, momentum, eps)
    got = batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    formats = (torch.contiguous_format, *([torch.channels_last] if x.ndim == 4 else []))
    if INTERPRET or any(x.is_contiguous(memory_format=f) for f in formats):  # else PyTorch's own backends differ
        assert_like_pytorch(got, want.to(x.dtype))

    mean, var = (x64.mean(dims), x64.var(dims, correction=0)) if training else before
    of_mean = x64.abs().mean(dims).nan_to_num() if training else torch.zeros_like(mean)  # what its error goes with
    scale = (var + eps).rsqrt() * (1 if weight is None else weight64.abs())
    shape = [-1, *[1] * (x.ndim - 2)]
    magnitude = ((x64 - mean.view(shape)).abs() + of_mean.view(shape)) * scale.view(shape)
    magnitude += 0 if bias is None else bias64.abs().view(shape)
    assert_accurate(got, want, terms=10 if training else 2, magnitude=magnitude.nan_to_num())
    if training and running_mean is not None:
        assert_accurate(running_mean, stats64[0], terms=10, magnitude=before[0].abs() + of_mean)
        assert_accurate(running_var, stats64[1], terms=10, magnitude=before[1] + 2 * var + of_mean * var.sqrt())


@pytest.mark.parametrize("shape", [
    (4, 3), (2, 1), (3, 5, 7), (2, 3, 4, 5), (2, 3, 2, 3, 4), (5, 130), (300, 2), (1, 2, 97), (1, 1, 300, 301),
    (3, 70, 1, 1), (40, 1, 3, 3),
])
@pytest.mark.parametrize("training", [False, True])
def test_shapes(shape, training, device):
    x = torch.randn(shape, device=device)
    check(x, *parameters(x), training)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [False, True])
def test_layouts(layout, training, dtype, device):
    x = LAYOUTS[layout](torch.randn(3, 6, 5, 8, dtype=dtype, device=device))
    check(x, *parameters(x), training)


@pytest.mark.parametrize("view", [
    lambda t: t.transpose(1, 2), lambda t: t.permute(2, 1, 0, 4, 3), lambda t: t[:, :, 1:, :, ::2],
    lambda t: t.to(memory_format=torch.channels_last_3d), lambda t: t[:, :, 0], lambda t: t[..., 0, 0].mT,
    lambda t: t[..., 0, 0, 0].mT,
])
def test_strides(view, device):
    x = view(torch.randn(3, 4, 5, 6, 7, device=device))
    check(x, *parameters(x))
    check(x, *parameters(x), training=True)


@pytest.mark.parametrize("training", [False, True])
def test_half_input_with_parameters_in_float32(training, dtype, device):
    x = torch.randn(3, 5, 4, 4, dtype=dtype, device=device)
    check(x, *parameters(x, torch.float32), training)


def test_optional_arguments(device):
    x = torch.randn(3, 5, 4, 4, device=device)
    running_mean, running_var, weight, bias = parameters(x)
    check(x, running_mean, running_var)
    check(x, running_mean, running_var, weight, eps=0.5)
    check(x, running_mean, running_var, None, bias, training=True, momentum=0.7, eps=0.5)
    check(x, None, None, training=True)
    check(x, *torch.stack([running_mean, running_var, weight, bias], dim=1).unbind(1), training=True, momentum=1.0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_mean_does_not_cancel(layout, device):
    x = LAYOUTS[layout](torch.randn(6, 3, 70, 40, device=device) + 1000)
    check(x, *parameters(x), training=True)


@pytest.mark.parametrize("shape", [(9, 6), (192, 6), (2, 6, 97), (3, 6, 16, 16), (4, 6, 33, 20), (2, 6, 130, 131)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_channels_of_equal_numbers_are_zeros(shape, layout, dtype, device):
    equal = torch.tensor([0.1, -7.7, 1 / 3, 5.0, 1e-30, 3e4], dtype=dtype, device=device)
    x = equal.view(-1, *[1] * (len(shape) - 2)).expand(shape)
    if layout != "expanded":
        x = LAYOUTS[layout](x) if len(shape) == 4 else x.contiguous()
    _, _, weight, bias = parameters(x)
    for eps in (1e-5, 1e-12):
        stats = torch.zeros(2, 6, device=device)
        assert not batch_norm(x, stats[0], stats[1], training=True, momentum=1.0, eps=eps).any()
        assert torch.equal(stats[0], equal.float()) and not stats[1].any()
        got = batch_norm(x, None, None, weight, bias, training=True, eps=eps)
        assert torch.equal(got, bias.view(-1, *[1] * (len(shape) - 2)).expand(shape))
        if dtype == torch.float32:
            assert not batch_norm(x, *stats, eps=eps).any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_training_gives_the_same_bits_again(layout, dtype, device):
    x = LAYOUTS[layout](torch.randn(8, 6, 33, 20, dtype=dtype, device=device))
    runs = []
    for _ in range(3):
        stats = torch.zeros(2, 6, device=device)
        runs.append((batch_norm(x, stats[0], stats[1], training=True), stats))
    for y, stats in runs[1:]:
        assert y.equal(runs[0][0]) and stats.equal(runs[0][1])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)])
def test_empty(shape, device):
    x = torch.randn(shape, device=device)
    running_mean, running_var, weight, bias = parameters(x)
    before = running_mean.clone(), running_var.clone()
    for training in (False, True):
        got = batch_norm(x, running_mean, running_var, weight, bias, training)
        assert_like_pytorch(got, F.batch_norm(x, running_mean.clone(), running_var.clone(), weight, bias, training))
    assert running_mean.equal(before[0]) and running_var.equal(before[1])


def test_nan_and_infinity(dtype, device):
    x = torch.randn(4, 6, 3, 3, dtype=dtype, device=device)
    x[1, 0, 1, 1], x[2, 1, 0, 2] = float("nan"), float("inf")
    stats = torch.zeros(6, dtype=dtype, device=device), torch.ones(6, dtype=dtype, device=device)
    stats[0][2], stats[1][3], stats[1][4], stats[1][5] = float("inf"), float("nan"), 0.0, -1.0
    x[:, 4] = 0.0
    check(x, *stats)
    y = batch_norm(x, stats[0].zero_(), stats[1].fill_(1), training=True)
    assert y[:, :2].isnan().all() and not y[:, 2:].isnan().any()
    assert stats[0].isnan().tolist()[0] and stats[1].isnan().tolist() == [True, True, False, False, False, False]


@hypothesis.given(data=st.data(), training=st.booleans())
def test_any_images(data, training, device):
    x = data.draw(images(device))
    hypothesis.assume(not training or x.shape[0] * x.shape[2] * x.shape[3] > 1)
    check(x, *parameters(x), training)


@one_dtype
def test_opcheck(dtype, device):
    x = torch.randn(2, 3, 4, 5, dtype=dtype, device=device)
    given = parameters(x)
    for t in (x, x[..., 0], x.to(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.course.batch_norm.default, (t, *given, 1e-5))
        torch.library.opcheck(torch.ops.course.batch_norm_training.default, (t, *given, 0.1, 1e-5))
    torch.library.opcheck(torch.ops.course.batch_norm_training.default, (x, None, None, None, None, 0.1, 1e-5))


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(training, device):
    x = torch.randn(2, 3, 4, 5, device=device)
    given = parameters(x)
    eager = [t.clone() for t in given]
    compiled = torch.compile(batch_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, *given, training), batch_norm(x, *eager, training))
    torch.testing.assert_close(list(given), eager)


def test_bad_input(device):
    x = torch.randn(2, 3, 4, 5, device=device)
    mean, var, weight, bias = parameters(x)
    with pytest.raises(ValueError, match=r"batch_norm: expected weight of shape \(3,\), got \(2,\)"):
        batch_norm(x, mean, var, weight[:2])
    with pytest.raises(ValueError, match=r"batch_norm: expected running_mean of shape \(3,\), got \(1, 3\)"):
        batch_norm(x, mean[None], var)
    with pytest.raises(ValueError, match="batch_norm: expected running_mean and running_var when not in training, got"):
        batch_norm(x, None, None)
    with pytest.raises(ValueError, match="batch_norm: expected both of running_mean and running_var or neither, got"):
        batch_norm(x, mean, None, training=True)
    with pytest.raises(ValueError, match=r"batch_norm: expected more than one value per channel in training, got \(1,"):
        batch_norm(x[:1, :, :1, :1], mean, var, training=True)
    with pytest.raises(ValueError, match=r"batch_norm: expected input of shape \(N, C, ...\) with 2 to 5 .*\(5,\)"):
        batch_norm(x[0, 0, 0], mean, var)
    with pytest.raises(TypeError, match="batch_norm: expected running_mean in float32, float16 or bfloat16, got torch"):
        batch_norm(x, mean.double(), var.double())
    with pytest.raises(TypeError, match="batch_norm: expected weight in torch.float16 as running_mean, got torch"):
        batch_norm(x.half(), mean.half(), var.half(), weight)
    with pytest.raises(ValueError, match="batch_norm: expected bias on .* as running_mean, got meta"):
        batch_norm(x, mean, var, weight, bias.to("meta"))
    with pytest.raises(ValueError, match="batch_norm: expected running_mean on .* as input, got meta"):
        batch_norm(x, mean.to("meta"), var.to("meta"))
    with pytest.raises(TypeError, match="batch_norm: expected input in float32, float16 or bfloat16, got torch.int64"):
        batch_norm(x.long(), mean, var)
    with torch.enable_grad(), pytest.raises(ValueError, match="batch_norm: weight requires a gradient"):
        batch_norm(x, mean, var, weight.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"batch_norm: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        batch_norm(torch.randn(2, 3), torch.zeros(3), torch.ones(3))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(9, 64, 2000, 2000), (1, 2, 33000, 33000)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(shape, memory_format):
    x = torch.empty(shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_(3, 2)
    last = x[:, -1].float()
    var, mean = torch.var_mean(last)
    stats = torch.zeros(2, shape[1], device="cuda")
    got = batch_norm(x, stats[0], stats[1], training=True, momentum=1.0)
    torch.testing.assert_close(stats[:, -1], torch.stack([mean, var]), rtol=1e-4, atol=0)
    torch.testing.assert_close(got[-1, -1, -9:].float(), (last[-1, -9:] - mean) * var.rsqrt(), rtol=2e-3, atol=1e-4)
