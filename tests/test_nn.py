import copy

import pytest
import torch

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
    "BatchNorm1d": (lambda layers: layers.BatchNorm1d(5), (4, 5)),
    "BatchNorm1d, sequences": (lambda layers: layers.BatchNorm1d(5), (4, 5, 3)),
    "BatchNorm3d": (lambda layers: layers.BatchNorm3d(2), (2, 2, 3, 2, 3)),
    "GroupNorm": (lambda layers: layers.GroupNorm(3, 6, eps=1e-3), (2, 6, 5, 4)),
    "GroupNorm, not affine": (lambda layers: layers.GroupNorm(2, 6, affine=False), (2, 6)),
    "ReLU": (lambda layers: layers.ReLU(), (3, 5)),
    "ReLU6": (lambda layers: layers.ReLU6(), (30, 5)),
    "LeakyReLU": (lambda layers: layers.LeakyReLU(0.3), (3, 5)),
    "SiLU": (lambda layers: layers.SiLU(), (3, 5)),
    "Sigmoid": (lambda layers: layers.Sigmoid(), (3, 5)),
    "Tanh": (lambda layers: layers.Tanh(), (3, 5)),
    "Hardswish": (lambda layers: layers.Hardswish(), (30, 5)),
    "Hardsigmoid": (lambda layers: layers.Hardsigmoid(), (30, 5)),
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
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm | torch.nn.LayerNorm | torch.nn.GroupNorm):
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
])
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


@pytest.mark.parametrize("kind", ["ReLU", "ReLU6", "LeakyReLU", "SiLU", "Hardswish", "Hardsigmoid"])
def test_in_place(kind, device):
    x = torch.randn(4, 3, device=device)[:, 1:]
    want = getattr(torch.nn, kind)()(x)
    assert getattr(nn, kind)(inplace=True)(x) is x
    torch.testing.assert_close(x, want)


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


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padding", [None, "boolean", "additive"])
@pytest.mark.parametrize("mask", [None, "boolean", "additive", "per head"])
def test_attention_with_masks(mask, padding, batch_first, device, ieee):
    ours, theirs = twins(lambda layers: layers.MultiheadAttention(12, 3, batch_first=batch_first), device)
    B, L, S = 2, 5, 7
    q, k = torch.randn(B, L, 12, device=device), torch.randn(B, S, 12, device=device)
    hidden = torch.rand(L, S, device=device) < 0.4
    hidden[:, 0] = False  # a query that sees no key is NaN in one of PyTorch's paths, and 0 in the others
    masks = {
        None: None, "boolean": hidden, "additive": torch.randn(L, S, device=device),
        "per head": torch.randn(B * 3, L, S, device=device),
    }
    ends = torch.arange(S, device=device) >= torch.tensor([[S], [4]], device=device)
    paddings = {None: None, "boolean": ends, "additive": torch.randn(B, S, device=device)}
    if mask == "boolean" and padding == "additive" or padding == "boolean" and mask not in (None, "boolean"):
        pytest.skip("PyTorch wants both masks of one type")
    if not batch_first:
        q, k = q.transpose(0, 1), k.transpose(0, 1)
    options = {"attn_mask": masks[mask], "key_padding_mask": paddings[padding], "need_weights": False}
    torch.testing.assert_close(ours(q, k, k, **options)[0], theirs(q, k, k, **options)[0])


def test_attention_says_causal(device, ieee):
    ours, theirs = twins(lambda layers: layers.MultiheadAttention(12, 3, batch_first=True), device)
    x = torch.randn(2, 5, 12, device=device)
    options = {"attn_mask": torch.nn.Transformer.generate_square_subsequent_mask(5, device=device), "is_causal": True}
    for padding in (None, torch.zeros(2, 5, device=device)):
        got, want = (layer(x, x, x, padding, need_weights=False, **options)[0] for layer in (ours, theirs))
        torch.testing.assert_close(got, want)
    with pytest.raises(RuntimeError, match="Need attn_mask"):  # as PyTorch's
        ours(x, x, x, need_weights=False, is_causal=True)


def test_attention_with_its_weights(device, ieee):
    ours, theirs = twins(lambda layers: layers.MultiheadAttention(12, 3, batch_first=True), device)
    x = torch.randn(2, 5, 12, device=device)
    for options in ({}, {"average_attn_weights": False}):
        for got, want in zip(ours(x, x, x, **options), theirs(x, x, x, **options), strict=True):
            torch.testing.assert_close(got, want)


def test_attention_that_drops(device, ieee):
    ours, theirs = twins(lambda layers: layers.MultiheadAttention(12, 3, 0.5, batch_first=True), device, training=True)
    x = torch.randn(2, 5, 12, device=device)
    got, want = [], []
    for results, layer in ((got, ours), (want, theirs)):
        torch.manual_seed(0)
        results.append(layer(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(got, want)


LACKING = {  # an option that the kernels lack, and what the report says of it
    "Conv2d": (lambda layers: layers.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (1, 2, 6, 6),
               "Conv2d: expected padding_mode 'zeros', got 'reflect'"),
    "MaxPool2d": (lambda layers: layers.MaxPool2d(2, return_indices=True), (1, 2, 6, 6),
                  "MaxPool2d: expected return_indices=False, got True"),
    "AvgPool2d": (lambda layers: layers.AvgPool2d(2, divisor_override=3), (1, 2, 6, 6),
                  "AvgPool2d: expected divisor_override=None, got 3"),
    "Softmax": (lambda layers: layers.Softmax(), (3, 4), "Softmax: expected dim to be an int, got None"),
    "MultiheadAttention, kdim": (
        lambda layers: layers.MultiheadAttention(8, 2, kdim=4), None,
        "MultiheadAttention: expected kdim and vdim 8 as embed_dim, got 4 and 8"),
    "MultiheadAttention, bias": (
        lambda layers: layers.MultiheadAttention(8, 2, add_bias_kv=True), None,
        "MultiheadAttention: expected add_bias_kv=False and add_zero_attn=False, got True"),
    "MultiheadAttention, zero": (
        lambda layers: layers.MultiheadAttention(8, 2, add_zero_attn=True), None,
        "MultiheadAttention: expected add_bias_kv=False and add_zero_attn=False, got True"),
    "MultiheadAttention, head size": (
        lambda layers: layers.MultiheadAttention(260, 1), None,
        "MultiheadAttention: expected heads of at most 256, got 260"),
}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", LACKING)
def test_options_that_kernels_lack(name, device):
    build, shape, message = LACKING[name]
    model = torch.nn.Sequential(build(torch.nn))
    kind = type(model[0])
    done = nn.replace_layers(model)
    assert done.left == {"0": message} and not done.replaced and type(model[0]) is kind

    ours, theirs = twins(build, device)
    if shape is None:
        inputs = [torch.randn(3, 2, dim, device=device) for dim in (ours.embed_dim, ours.kdim, ours.vdim)]
        got, want = ours(*inputs, need_weights=False)[0], theirs(*inputs, need_weights=False)[0]
    else:
        x = torch.randn(shape, device=device)
        got, want = ours(x), theirs(x)
    torch.testing.assert_close(got, want)


def test_additions_go_with_their_layers(device):
    assert nn.addition(nn) is nn.functional.add and nn.addition(torch.nn) is torch.add


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
        )

    ours, theirs = twins(build, device)
    x = torch.randn(2, 3, 8, 8, device=device)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), theirs(x))
