import copy

import pytest
import torch
import torchvision

from course import nn
from tests.compare import assert_like_pytorch

LAYERS = {  # the layer from a namespace, and the shape of its input
    "Linear": (lambda layers: layers.Linear(12, 7), (3, 5, 12)),
    "Linear without bias": (lambda layers: layers.Linear(12, 7, bias=False), (12,)),
    "Conv2d": (lambda layers: layers.Conv2d(6, 8, (3, 2), 2, padding=1, dilation=(1, 2), groups=2), (2, 6, 9, 8)),
    "Conv2d, same": (lambda layers: layers.Conv2d(3, 4, 5, padding="same", bias=False), (2, 3, 7, 6)),
    "Conv2d, unbatched": (lambda layers: layers.Conv2d(3, 4, 3), (3, 7, 6)),
    "BatchNorm2d": (lambda layers: layers.BatchNorm2d(5, eps=1e-3), (2, 5, 4, 3)),
    "BatchNorm2d, not affine": (lambda layers: layers.BatchNorm2d(5, affine=False), (2, 5, 4, 3)),
    "BatchNorm2d, no averages": (lambda layers: layers.BatchNorm2d(5, track_running_stats=False), (2, 5, 4, 3)),
    "LayerNorm": (lambda layers: layers.LayerNorm((4, 6), eps=1e-6), (2, 3, 4, 6)),
    "LayerNorm, not affine": (lambda layers: layers.LayerNorm(6, elementwise_affine=False), (2, 6)),
    "LayerNorm, no bias": (lambda layers: layers.LayerNorm(6, bias=False), (2, 6)),
    "ReLU": (lambda layers: layers.ReLU(), (3, 5)),
    "GELU": (lambda layers: layers.GELU(), (3, 5)),
    "GELU, tanh": (lambda layers: layers.GELU(approximate="tanh"), (3, 5)),
    "Softmax": (lambda layers: layers.Softmax(dim=1), (3, 5, 2)),
    "MaxPool2d": (lambda layers: layers.MaxPool2d(3, stride=2, padding=1), (2, 3, 7, 8)),
    "MaxPool2d, ceil": (lambda layers: layers.MaxPool2d(2, dilation=2, ceil_mode=True), (2, 3, 7, 8)),
    "AvgPool2d": (lambda layers: layers.AvgPool2d((2, 3)), (2, 3, 7, 8)),
    "AvgPool2d, not padding": (lambda layers: layers.AvgPool2d(3, 2, 1, True, False), (2, 3, 8, 7)),
    "AdaptiveAvgPool2d": (lambda layers: layers.AdaptiveAvgPool2d((None, 3)), (2, 3, 7, 8)),
}


def twins(build, device, training=False):
    """A layer of course.nn and PyTorch's, with the same random weights and statistics."""
    ours, theirs = build(nn).to(device).train(training), build(torch.nn).to(device).train(training)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def randomise(model):
    """Other weights and statistics than the initial ones, many of which are 0 or 1 and would hide an omission."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            for name, t in [*layer.named_parameters(), *layer.named_buffers()]:
                if t.is_floating_point():
                    t.uniform_(0.5, 1.5) if "var" in name or name == "weight" else t.normal_(std=0.2)


@pytest.mark.parametrize("name", LAYERS)
def test_like_pytorch(name, device, ieee):
    build, shape = LAYERS[name]
    ours, theirs = twins(build, device)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    x = torch.randn(shape, device=device)
    got, want = ours(x), theirs(x)
    assert_like_pytorch(got, want)
    torch.testing.assert_close(got, want)


def test_same_initial_weights(device):
    for name, (build, _) in LAYERS.items():
        weights = []
        for layers in (nn, torch.nn):
            torch.manual_seed(0)
            weights.append(build(layers).state_dict())
        for key in weights[0]:
            assert torch.equal(weights[0][key], weights[1][key]), (name, key)


@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.3}, {"momentum": None}, {"momentum": 0.0}, {"affine": False}, {"track_running_stats": False},
])  # fmt: skip
def test_batch_norm_in_training(options, device):
    ours, theirs = twins(lambda layers: layers.BatchNorm2d(4, **options), device, training=True)
    for step in range(4):
        if step == 3:
            ours.eval(), theirs.eval()
        x = torch.randn(3, 4, 5, 2, device=device) * (step + 1) + step
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    if ours.track_running_stats:
        assert ours.num_batches_tracked == 3


def test_batch_norm_that_stopped_tracking(device):
    ours, theirs = twins(lambda layers: layers.BatchNorm2d(4), device, training=True)
    ours.track_running_stats = theirs.track_running_stats = False
    before = copy.deepcopy(ours.state_dict())
    x = torch.randn(3, 4, 5, 2, device=device)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_wants_four_dimensions(device):
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(4).to(device)(torch.randn(2, 4, 5, device=device))


def test_relu_in_place(device):
    x = torch.randn(4, 3, device=device)[:, 1:]
    want = x.relu()
    assert nn.ReLU(inplace=True)(x) is x
    assert torch.equal(x, want)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(batch_first, bias, device, ieee):
    ours, theirs = twins(
        lambda layers: layers.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first), device, training=True
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if bias:
        for layer in (ours, theirs):
            layer.in_proj_bias.copy_(torch.linspace(-1, 1, 36))
    x, y, z = (torch.randn(5, 4, 12, device=device) for _ in range(3))
    for q, k, v in [(x, x, x), (x, y, y), (x, y, z), (x[:, :2], x[:, :2], x[:, :2]), (x[0], x[0], x[0])]:
        got, weights = ours(q, k, v, need_weights=False)
        want, _ = theirs(q, k, v, need_weights=False)
        assert weights is None
        torch.testing.assert_close(got, want)


def test_attention_lengths_differ(device, ieee):
    ours, theirs = twins(lambda layers: layers.MultiheadAttention(12, 3, batch_first=True), device)
    q, k = torch.randn(2, 5, 12, device=device), torch.randn(2, 9, 12, device=device)
    torch.testing.assert_close(ours(q, k, k, need_weights=False)[0], theirs(q, k, k, need_weights=False)[0])


def test_attention_says_what_it_lacks(device):
    attention = nn.MultiheadAttention(8, 2, dropout=0.1).to(device)
    x = torch.randn(3, 1, 8, device=device)
    with pytest.raises(ValueError, match="MultiheadAttention: expected need_weights=False, got True"):
        attention(x, x, x)
    for mask in ({"attn_mask": torch.zeros(3, 3)}, {"key_padding_mask": torch.zeros(1, 3)}, {"is_causal": True}):
        with pytest.raises(ValueError, match="MultiheadAttention: expected no key_padding_mask, no attn_mask"):
            attention(x, x, x, need_weights=False, **mask)
    with pytest.raises(ValueError, match="MultiheadAttention: expected eval mode or dropout 0, got dropout 0.1"):
        attention(x, x, x, need_weights=False)


@pytest.mark.parametrize("build, message", [
    (lambda layers: layers.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
     "Conv2d: expected padding_mode 'zeros', got 'reflect'"),
    (lambda layers: layers.MaxPool2d(2, return_indices=True), "MaxPool2d: expected return_indices=False, got True"),
    (lambda layers: layers.AvgPool2d(2, divisor_override=3), "AvgPool2d: expected divisor_override=None, got 3"),
    (lambda layers: layers.Softmax(), "Softmax: expected dim to be an int, got None"),
    (lambda layers: layers.MultiheadAttention(8, 2, kdim=4),
     "MultiheadAttention: expected kdim and vdim 8 as embed_dim, got 4 and 8"),
    (lambda layers: layers.MultiheadAttention(8, 2, add_bias_kv=True),
     "MultiheadAttention: expected add_bias_kv=False and add_zero_attn=False, got True"),
    (lambda layers: layers.MultiheadAttention(8, 2, add_zero_attn=True),
     "MultiheadAttention: expected add_bias_kv=False and add_zero_attn=False, got True"),
])  # fmt: skip
def test_options_that_kernels_lack(build, message):
    with pytest.raises(ValueError, match=message):
        build(nn)
    model = torch.nn.Sequential(build(torch.nn))
    kind = type(model[0])
    report = nn.replace_layers(model)
    assert report.left == {"0": message} and not report.replaced
    assert type(model[0]) is kind


def test_a_gradient_is_an_error(device):
    x = torch.randn(2, 3, device=device)
    with torch.enable_grad(), pytest.raises(ValueError, match="linear: weight requires a gradient"):
        nn.Linear(3, 3).to(device)(x)


def test_compiles_without_graph_breaks(device, ieee):
    def build(layers):
        return torch.nn.Sequential(
            layers.Conv2d(3, 8, 3), layers.BatchNorm2d(8), layers.ReLU(inplace=True), layers.MaxPool2d(2),
            layers.AdaptiveAvgPool2d(1), torch.nn.Flatten(), layers.Linear(8, 6), layers.LayerNorm(6), layers.GELU(),
            layers.Softmax(-1),
        )  # fmt: skip

    ours, theirs = twins(build, device)
    x = torch.randn(2, 3, 8, 8, device=device)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), theirs(x))


# replace_layers


def test_replaces_every_layer_of_a_resnet(device, ieee):
    model = torchvision.models.resnet18(num_classes=10).to(device).eval()
    randomise(model)
    reference = copy.deepcopy(model)
    tensors = {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()}
    parameters = [id(t) for t in [*model.parameters(), *model.buffers()]]
    report = nn.replace_layers(model)

    assert not report.left
    assert list(report.replaced) == [name for name, layer in model.named_modules() if not list(layer.children())]
    assert str(report) == (
        "replaced 51: 20 Conv2d, 20 BatchNorm2d, 9 ReLU, 1 MaxPool2d, 1 AdaptiveAvgPool2d, 1 Linear\nleft 0"
    ).replace("51", str(len(report.replaced)))
    assert type(model.layer1[0].conv1) is nn.Conv2d and type(model.fc) is nn.Linear
    assert [id(t) for t in [*model.parameters(), *model.buffers()]] == parameters
    assert {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()} == tensors
    x = torch.randn(2, 3, 32, 32, device=device)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-4)


def test_replaces_every_layer_of_a_vit(device, ieee):
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    ).to(device).eval()  # fmt: skip
    torch.nn.init.normal_(model.heads.head.weight)  # zero at first
    randomise(model)
    reference = copy.deepcopy(model)
    report = nn.replace_layers(model)
    assert type(model.encoder.layers[0].self_attention) is nn.MultiheadAttention
    assert set(report.left.values()) == {"Dropout: not in course.nn"}
    assert str(report).endswith(
        "2 MultiheadAttention, 2 GELU, 1 Conv2d\nleft 7:\n  encoder.dropout and 6 more: Dropout: not in course.nn"
    )
    x = torch.randn(2, 3, 32, 32, device=device)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


def test_replaces_one_kind():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    report = nn.replace_layers(model, only={"Conv2d"})
    assert report.replaced == {"0": "Conv2d", "2": "Conv2d"}
    assert report.left == {"1": "ReLU: only Conv2d asked for"}
    assert [type(layer) for layer in model] == [nn.Conv2d, torch.nn.ReLU, nn.Conv2d]
    assert nn.replace_layers(model).replaced == {"1": "ReLU"}


@pytest.mark.parametrize("only, unknown", [({"Conv2d", "Conv3d", "Bias"}, "Bias, Conv3d"), ("ReLU", "L, R, U, e")])
def test_only_names_what_exists(only, unknown):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=f"replace_layers: expected only among Linear, .*, got {unknown}$"):
        nn.replace_layers(model, only=only)
    assert type(model[0]) is torch.nn.Conv2d


def test_keeps_hooks_training_flag_and_sharing(device):
    shared = torch.nn.ReLU()
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), shared, shared).to(device)
    model[0].eval()
    seen = []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(type(layer)))
    nn.replace_layers(model)
    assert model.training and not model[0].training and model[1] is model[2]
    model(torch.randn(2, 3, 4, 4, device=device))
    assert seen == [nn.BatchNorm2d]


def test_replaces_a_single_layer_and_back():
    layer = torch.nn.Linear(3, 4)
    assert nn.replace_layers(layer).replaced == {"": "Linear"} and type(layer) is nn.Linear
    layer.__class__ = torch.nn.Linear
    assert nn.replace_layers(layer).replaced == {"": "Linear"}
    again = nn.replace_layers(layer)
    assert str(again) == "replaced 0\nleft 1:\n  (the model itself): Linear: on this course's kernels already"


def test_leaves_what_it_does_not_know():
    class Standardised(torch.nn.Conv2d):
        pass

    class Linear(torch.nn.Module):
        pass

    wrapped = torch.nn.Linear(2, 2)
    wrapped.forward = lambda x: x
    model = torch.nn.ModuleDict({
        "conv": Standardised(2, 2, 1), "linear": Linear(), "wrapped": wrapped, "norm": torch.nn.GroupNorm(1, 2),
        "parametrised": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)),
    })  # fmt: skip
    report = nn.replace_layers(model)
    assert not report.replaced
    assert report.left["conv"] == "Standardised: a subclass of torch.nn.Conv2d, which may have a forward of its own"
    assert report.left["linear"] == "Linear: not in course.nn"
    assert report.left["wrapped"] == "Linear: its forward was set on the instance"
    assert report.left["norm"] == "GroupNorm: not in course.nn"
    assert report.left["parametrised"].startswith("ParametrizedLinear: a subclass of torch.nn.Linear")


def test_transformer_encoder_layer(device, ieee):
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).to(device).eval()
    x = torch.randn(2, 5, 8, device=device)
    want = model(x)
    report = nn.replace_layers(model)
    assert "unless torch.backends.mha.set_fastpath_enabled(False)" in report.left[""]
    calls = []
    model.linear1.register_forward_hook(lambda *_: calls.append(1))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.testing.assert_close(model(x), want)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert calls
