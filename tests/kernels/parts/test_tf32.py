"""float32 operands are rounded to the nearest TF32 number before tensor cores multiply them, in every path."""
import pytest
import torch
import torch.nn.functional as F

from course.kernels import conv2d, linear, matmul, scaled_dot_product_attention, stem
from course.kernels.convolution.stem import stem_weight
from course.kernels.parts.tf32 import extent, rounded_to_tf32

BIAS = 2e-5
"""Relative, of the sum of all errors; cut off instead of rounded, operands bring in 6.5e-4."""


def to_nearest(x: torch.Tensor) -> torch.Tensor:
    """PTX's cvt.rna.tf32.f32, in integers: add half of the last bit that is kept, and cut off what is below it."""
    bits = x.contiguous().view(torch.int32)
    finite = (bits & 0x7F800000) != 0x7F800000
    return torch.where(finite, (bits + 0x1000) & ~0x1FFF, bits).view(torch.float32)


@pytest.fixture
def allowed():
    """TF32 is allowed to PyTorch's products and convolutions, and to ours."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def error_and_bias(got, exact):
    """Relative to the result's size: the root mean square of the errors, and their mean along the result."""
    off = got.double() - exact
    return (off.norm() / exact.norm()).item(), ((off * exact.sign()).sum() / exact.abs().sum()).item()


def assert_as_good(ours, theirs, rounded, exact):
    """At most 1.1 of the error of PyTorch's TF32, and nothing one-sided. Where PyTorch computes in float32 all the same
    (batches of small matrices, groups), at most 1.1 of the error of an exact product of rounded operands."""
    error, bias = error_and_bias(ours, exact)
    their_error = max(error_and_bias(theirs, exact)[0], error_and_bias(rounded, exact)[0])
    assert error <= 1.1 * their_error, f"error {error:.3g}, PyTorch's {their_error:.3g}"
    assert abs(bias) <= BIAS, f"bias {bias:.3g}"


def test_extent():
    assert extent((3, 4), (4, 1)) == 12
    assert extent((3, 4), (0, 2)) == 7


def test_strides_stay(device):
    x = torch.randn(6, 5, 8, device=device)
    for view in (x, x[:, 1:3], x.transpose(0, 2), x[0].expand(3, 5, 8)):
        out = rounded_to_tf32(view)
        assert out.stride() == view.stride() and out.shape == view.shape


@pytest.mark.gpu
def test_rounding_is_to_nearest():
    x = torch.cat([
        torch.randn(100_003, device="cuda") * torch.logspace(-40, 38, 100_003, device="cuda"),
        torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 3.4e38, 2.0**-149, 1 + 2.0**-11, 1 + 3 * 2.0**-11],
                     device="cuda"),
    ])
    assert torch.equal(rounded_to_tf32(x).view(torch.int32), to_nearest(x).view(torch.int32))
    assert rounded_to_tf32(torch.full((5,), float("nan"), device="cuda")).isnan().all()


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
@pytest.mark.parametrize("shapes, how", [
    (((512, 512), (512, 512)), "rows"),  # through pointers: b is read by rows
    (((512, 512), (512, 512)), "columns"),  # by TMA
    (((1576, 768), (768, 768)), "columns"),
    (((16, 4096), (4096, 64)), "columns"),  # few tiles: sums are split
    (((16, 4096), (4096, 64)), "rows"),
    (((4, 197, 64), (4, 64, 197)), "rows"),
    (((512, 2047), (2047, 96)), "rows"),  # rows that TMA cannot read
])
def test_products(shapes, how, draw):
    a, b = (draw(shape, device="cuda") for shape in shapes)
    b = b if how == "rows" else b.mT.contiguous().mT
    rounded = to_nearest(a).double() @ to_nearest(b).double()
    assert_as_good(matmul(a, b), a @ b, rounded, a.double() @ b.double())


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_linear(draw):
    x, weight, bias = draw(197, 768, device="cuda"), draw(3072, 768, device="cuda"), draw(3072, device="cuda")
    exact = F.linear(x.double(), weight.double(), bias.double())
    rounded = F.linear(to_nearest(x).double(), to_nearest(weight).double(), bias.double())
    assert_as_good(linear(x, weight, bias), F.linear(x, weight, bias), rounded, exact)


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
@pytest.mark.parametrize("x_shape, w_shape, how, last", [
    ((4, 64, 56, 56), (64, 64, 3, 3), dict(padding=1), True),  # by TMA
    ((4, 64, 56, 56), (64, 64, 3, 3), dict(padding=1), False),  # through pointers
    ((2, 512, 7, 7), (512, 512, 3, 3), dict(padding=1), True),  # split
    ((4, 3, 224, 224), (64, 3, 7, 7), dict(stride=2, padding=3), True),  # few channels, spread
    ((2, 24, 20, 20), (48, 12, 3, 3), dict(groups=2), True),
    ((2, 64, 20, 20), (96, 64, 1, 1), dict(stride=2), True),
])
def test_convolutions(x_shape, w_shape, how, last, draw):
    memory_format = torch.channels_last if last else torch.contiguous_format
    x, weight = (draw(s, device="cuda").to(memory_format=memory_format) for s in (x_shape, w_shape))
    exact = F.conv2d(x.double(), weight.double(), **how)
    rounded = F.conv2d(to_nearest(x).double(), to_nearest(weight).double(), **how)
    assert_as_good(conv2d(x, weight, **how), F.conv2d(x, weight, **how), rounded, exact)


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_stem(draw):
    x, weight, bias = draw(2, 3, 224, 224, device="cuda"), draw(64, 3, 7, 7, device="cuda"), draw(64, device="cuda")

    def pooled(x, weight, bias):
        return F.max_pool2d(F.conv2d(x, weight, bias, 2, 3).relu(), 3, 2, 1)

    exact = pooled(*(t.double() for t in (x, weight, bias)))
    rounded = pooled(to_nearest(x).double(), to_nearest(weight).double(), bias.double())
    assert_as_good(stem(x, stem_weight(weight), bias), pooled(x, weight, bias), rounded, exact)


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention(is_causal):
    q, k, v = torch.rand(3, 2, 4, 197, 64, device="cuda")
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=is_causal)
    got = scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    error, bias = error_and_bias(got, exact)
    assert error <= 4e-4 and abs(bias) <= BIAS, (error, bias)


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
def test_operands_that_hold_tf32_numbers_give_a_result_that_does():
    x, weight = torch.randn(4, 64, 28, 28, device="cuda"), torch.randn(96, 64, 3, 3, device="cuda")
    x, weight = (rounded_to_tf32(t.to(memory_format=torch.channels_last)) for t in (x, weight))
    for images in (x, x.contiguous()):
        got = conv2d(images, weight, padding=1, activation="relu", tf32_operands=True)
        assert torch.equal(got, to_nearest(got.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        assert torch.equal(got, rounded_to_tf32(conv2d(images, weight, padding=1, activation="relu")))


@pytest.mark.gpu
@pytest.mark.usefixtures("allowed")
def test_resnet18_as_optimised():
    """torchvision's own is 9.1e-4 off in TF32."""
    import course
    from course.resnet import resnet18

    model = resnet18().cuda().eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    images = torch.randn(8, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        got = course.optimize(model)(images)
    reference = resnet18(layers=torch.nn).double().eval()
    reference.load_state_dict(model.state_dict())
    exact = reference(images.cpu().double()).cuda()
    error, _ = error_and_bias(got, exact)
    assert error <= 1.2e-3, error
