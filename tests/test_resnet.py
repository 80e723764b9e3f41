import copy

import pytest
import torch
import torchvision

from course import resnet
from tests.compare import assert_close_to_original, assert_layers_like_pytorch
from tests.profile_kernels import assert_triton_only, peak_memory
from tests.test_nn import randomise

NAMES = [
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
]


def twins(name, device="cpu", dtype=torch.float32, **options):
    """The model on the course's layers and on PyTorch's, with the same weights and statistics."""
    ours = getattr(resnet, name)(**options).to(device).eval()
    randomise(ours)
    theirs = getattr(resnet, name)(**options, layers=torch.nn).to(device).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours.to(dtype), theirs.to(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_torchvisions(name):
    with torch.device("meta"):
        model, original = getattr(resnet, name)(), getattr(torchvision.models, name)()
    tensors = {key: (t.shape, t.dtype) for key, t in model.state_dict().items()}
    assert tensors == {key: (t.shape, t.dtype) for key, t in original.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_architecture_is_torchvisions(name):
    original = getattr(torchvision.models, name)(num_classes=7).eval()
    randomise(original)
    model = getattr(resnet, name)(num_classes=7, layers=torch.nn).eval()
    model.load_state_dict(original.state_dict(), strict=True)
    original.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(model(x), original(x), rtol=1e-5, atol=1e-5)


def test_initial_weights_are_torchvisions():
    torch.manual_seed(0)
    weight = resnet.resnet18().layer3[0].conv1.weight
    want = torchvision.models.resnet18().layer3[0].conv1.weight
    torch.testing.assert_close(weight.std(), want.std(), rtol=0.01, atol=0)


@pytest.mark.parametrize("name, options, size", [
    ("resnet18", {"num_classes": 10, "width": 12}, (32, 32)), ("resnet18", {"in_channels": 1, "width": 8}, (33, 47)),
    ("resnet34", {"width": 7}, (40, 32)), ("resnet50", {"num_classes": 1, "width": 8}, (32, 32)),
    ("resnext50_32x4d", {"num_classes": 3, "width": 16}, (32, 32)),
    ("wide_resnet50_2", {"num_classes": 3, "width": 4}, (32, 32)),
])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_like_pytorch(name, options, size, memory_format, device, ieee):
    ours, theirs = twins(name, device, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, options.get("in_channels", 3), *size, device=device).to(memory_format=memory_format)
    got, want = ours(x), theirs(x)
    assert got.shape == (2, options.get("num_classes", 1000))
    assert_close_to_original("fc", got, want)


@pytest.mark.parametrize("options", [{"groups": 2}, {"width_per_group": 128}])
def test_basic_blocks_have_no_groups(options):
    with pytest.raises(ValueError, match="ResNet: expected groups 1 and width_per_group 64 of blocks that are no"):
        resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), **options)


def test_half(device):
    """float16 against the same weights in float32."""
    ours, theirs = twins("resnet18", device, torch.float16, width=16, num_classes=10)
    x = torch.randn(2, 3, 32, 32, device=device, dtype=torch.float16)
    got, want = ours(x), theirs.float()(x.float())
    assert got.dtype == torch.float16
    assert (got.float() - want).abs().max() <= 2**-6 * want.abs().max()


def test_training_statistics(device, ieee):
    """In training mode the running statistics move as PyTorch's do."""
    ours, theirs = twins("resnet18", device, width=8, num_classes=10)
    x = torch.randn(4, 3, 32, 32, device=device)
    torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-3)


def test_copies_and_compiles(device, ieee):
    ours, theirs = twins("resnet18", device, width=8, num_classes=10)
    x = torch.randn(2, 3, 32, 32, device=device)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    assert_close_to_original("fc", compiled(x), theirs(x))


def test_resnet18_at_full_size(device, ieee, capsys):
    """With random weights, every submodule's output against PyTorch's; in the interpreter under 60 s."""
    ours, theirs = twins("resnet18", device)
    x = torch.randn(1, 3, 224, 224, device=device)
    assert_layers_like_pytorch(ours, theirs, x, capsys, but="relu")  # called more than once


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_only_triton_kernels_run(memory_format, tf32, dtype, device, ieee):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    model = resnet.resnet18().to(device, dtype, memory_format=memory_format).eval()
    x = torch.randn(2, 3, 224, 224, device=device, dtype=dtype).to(memory_format=memory_format)
    assert_triton_only(lambda: model(x))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_no_more_memory_than_torchvision(memory_format, batch, dtype, device):
    original = torchvision.models.resnet18().to(device, dtype, memory_format=memory_format).eval()
    x = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype).to(memory_format=memory_format)
    theirs = peak_memory(lambda: original(x))
    model = resnet.resnet18().to(device, dtype, memory_format=memory_format).eval()
    assert peak_memory(lambda: model(x)) <= theirs


@pytest.mark.gpu
def test_bottlenecks_run_triton_kernels_only(device):
    model = resnet.resnet50(width=16).to(device).eval()
    x = torch.randn(2, 3, 64, 64, device=device)
    assert_triton_only(lambda: model(x))
