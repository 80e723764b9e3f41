"""`replace_layers`: what it replaces, and what PyTorch can do with a model afterwards."""
import copy
import importlib
import io
import pickle

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from course import nn
from tests.test_nn import randomise


def test_replaces_every_layer_of_a_resnet(device, ieee):
    model = torchvision.models.resnet18(num_classes=10).to(device).eval()
    randomise(model)
    reference = copy.deepcopy(model)
    tensors = {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()}
    parameters = [id(t) for t in [*model.parameters(), *model.buffers()]]
    done = nn.replace_layers(model)

    assert not done.left
    assert list(done.replaced) == [name for name, layer in model.named_modules() if not list(layer.children())]
    assert str(done) == (
        "replaced 51: 20 Conv2d, 20 BatchNorm2d, 9 ReLU, 1 MaxPool2d, 1 AdaptiveAvgPool2d, 1 Linear\nleft 0"
    ).replace("51", str(len(done.replaced)))
    assert type(model.layer1[0].conv1) is nn.Conv2d and type(model.fc) is nn.Linear
    assert [id(t) for t in [*model.parameters(), *model.buffers()]] == parameters
    assert {name: t.data_ptr() for name, t in model.state_dict(keep_vars=True).items()} == tensors
    x = torch.randn(2, 3, 32, 32, device=device)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-4)


def test_replaces_every_layer_of_a_vit(device, ieee):
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    ).to(device).eval()
    torch.nn.init.normal_(model.heads.head.weight)  # zero at first
    randomise(model)
    reference = copy.deepcopy(model)
    done = nn.replace_layers(model)
    assert type(model.encoder.layers[0].self_attention) is nn.MultiheadAttention
    assert not done.left  # its dropouts do nothing
    assert str(done).endswith(
        "2 MultiheadAttention, 2 GELU, 1 Conv2d\n"
        "  encoder.layers.encoder_layer_0.self_attention and 1 more: MultiheadAttention: PyTorch's own forward "
        "where need_weights=True, with nested tensors, and with dropout in training\nleft 0"
    )
    x = torch.randn(2, 3, 32, 32, device=device)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


def test_replaces_one_kind():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    done = nn.replace_layers(model, only={"Conv2d"})
    assert done.replaced == {"0": "Conv2d", "2": "Conv2d"}
    assert done.left == {"1": "ReLU: only Conv2d asked for"}
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
        "conv": Standardised(2, 2, 1), "linear": Linear(), "wrapped": wrapped, "norm": torch.nn.InstanceNorm2d(2),
        "up": torch.nn.ConvTranspose2d(2, 2, 2),
        "float64": torch.nn.Linear(2, 2).double(),
        "parametrised": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)),
    })
    done = nn.replace_layers(model)
    assert not done.replaced
    assert done.left["conv"] == (
        "Standardised: a subclass of torch.nn.Conv2d, which may have a forward of its own (see also=)"
    )
    assert done.left["linear"] == "Linear: not in course.nn"
    assert done.left["float64"] == "Linear: expected float32, float16 or bfloat16, got torch.float64"
    assert done.left["wrapped"] == "Linear: its forward was set on the instance"
    assert done.left["norm"] == "InstanceNorm2d: not in course.nn"
    assert done.left["up"] == "ConvTranspose2d: not in course.nn"
    assert done.left["parametrised"].startswith("ParametrizedLinear: a subclass of torch.nn.Linear")


def test_transformer_encoder_layer(device, ieee):
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).to(device).eval()
    x = torch.randn(2, 5, 8, device=device)
    want = model(x)
    done = nn.replace_layers(model)
    assert "unless torch.backends.mha.set_fastpath_enabled(False)" in done.left[""]
    calls = []
    model.linear1.register_forward_hook(lambda *_: calls.append(1))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.testing.assert_close(model(x), want)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert calls


class Shifted(torch.nn.LayerNorm):
    """A subclass that computes what its parent does."""

    def forward(self, x):
        return super().forward(x)


def test_also_maps_subclasses(device, ieee):
    model = torch.nn.Sequential(Shifted(6), torch.nn.Linear(6, 4), Shifted(4)).to(device)
    reference = copy.deepcopy(model)
    assert not {"0", "2"} & set(nn.replace_layers(copy.deepcopy(model)).replaced)
    done = nn.replace_layers(model, also={Shifted: nn.LayerNorm})
    assert done.replaced == {"0": "Shifted", "1": "Linear", "2": "Shifted"} and not done.left
    assert type(model[0]) is nn.LayerNorm
    x = torch.randn(3, 6, device=device)
    torch.testing.assert_close(model(x), reference(x))
    assert nn.replace_layers(model, also={Shifted: nn.LayerNorm}).left["0"] == (
        "LayerNorm: on this course's kernels already"
    )


def test_also_goes_with_only():
    model = torch.nn.Sequential(Shifted(6), torch.nn.Linear(6, 4))
    done = nn.replace_layers(model, only={"LayerNorm"}, also={Shifted: nn.LayerNorm})
    assert done.replaced == {"0": "Shifted"} and done.left == {"1": "Linear: only LayerNorm asked for"}


@pytest.mark.parametrize("also", [{"Shifted": nn.LayerNorm}, {Shifted: "LayerNorm"}, {Shifted: nn.functional.relu}])
def test_also_maps_classes_of_layers(also):
    with pytest.raises(TypeError, match="replace_layers: expected also to map classes of layers to classes of layers"):
        nn.replace_layers(torch.nn.Sequential(Shifted(6)), also=also)


def test_layers_that_do_nothing_are_no_news():
    model = torch.nn.Sequential(
        torch.nn.Identity(), torch.nn.Flatten(), torch.nn.Dropout(0.1), torch.nn.Dropout2d(0.0), torch.nn.Sequential(),
        torch.nn.ModuleList(), torchvision.ops.StochasticDepth(0.1, "row"), torchvision.ops.Permute([0]),
    ).eval()
    model[3].train()
    assert str(nn.replace_layers(model)) == "replaced 0\nleft 0"
    model.train()
    assert nn.replace_layers(model).left == {
        "2": "Dropout: not in course.nn", "6": "StochasticDepth: not in course.nn",
    }


def other_packages():
    """Layers of other packages: what makes one, and the shape of its input."""
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    convnext = torchvision.models.convnext
    layers, activations = timm.layers, transformers.activations
    return [
        (lambda: convnext.LayerNorm2d(6), (2, 6, 3, 5)), (lambda: layers.LayerNorm(6), (2, 5, 6)),
        (lambda: layers.LayerNorm2d(6), (2, 6, 3, 5)), (lambda: layers.LayerNormFp32(6), (2, 6)),
        (lambda: layers.norm.LayerNorm2dFp32(6), (2, 6, 3, 5)), (lambda: layers.GroupNorm(6, 2), (2, 6, 3, 5)),
        (lambda: layers.GroupNorm1(6), (2, 6, 3, 5)), (lambda: layers.BatchNormAct2d(6), (2, 6, 3, 5)),
        (lambda: layers.BatchNormAct2d(6, act_layer="silu", inplace=False), (2, 6, 3, 5)),
        (lambda: layers.BatchNormAct2d(6, apply_act=False), (2, 6, 3, 5)),
        (lambda: layers.GroupNormAct(6, 2), (2, 6, 3, 5)), (lambda: layers.norm_act.GroupNorm1Act(6), (2, 6, 3, 5)),
        (lambda: layers.LayerNormAct(6), (2, 5, 6)), (lambda: layers.LayerNormAct2d(6), (2, 6, 3, 5)),
        *[(lambda kind=kind: getattr(layers.activations, kind)(), (7, 30))
          for kind in ("GELU", "GELUTanh", "QuickGELU", "Sigmoid", "Tanh", "Swish", "HardSwish", "HardSigmoid")],
        (lambda: layers.activations.Sigmoid(inplace=True), (7, 30)),
        *[(lambda kind=kind: getattr(activations, kind)(), (7, 30))
          for kind in ("GELUActivation", "GELUTanh", "NewGELUActivation", "FastGELUActivation",
                       "AccurateGELUActivation", "QuickGELUActivation", "SiLUActivation")],
    ]


def test_layers_of_other_packages(device, ieee):
    for build, shape in other_packages():
        theirs = build().to(device).eval()
        randomise(theirs)
        ours = copy.deepcopy(theirs)
        done = nn.replace_layers(ours)
        kind = type(theirs).__name__
        assert done.replaced[""] == kind and not done.left, kind
        assert list(ours.state_dict()) == list(theirs.state_dict())
        x = 4 * torch.randn(shape, device=device)
        y = x.clone()
        torch.testing.assert_close(ours(y), theirs(x), msg=lambda text, kind=kind: f"{kind}: {text}")
        torch.testing.assert_close(y, x)  # written over, or not, by both


def test_known_layers_exist():
    """Under the names that nn.OTHERS has, in the versions that are installed; one name is that of an older one."""
    for path in {*nn.OTHERS, *nn.NOTHING, *nn.NOTHING_IN_EVAL} - {"transformers.activations.PytorchGELUTanh"}:
        module, _, name = path.rpartition(".")
        pytest.importorskip(module.partition(".")[0])
        found = getattr(importlib.import_module(module), name)
        assert f"{found.__module__}.{found.__qualname__}" == path


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_byobnet"])
def test_tiny_models_of_timm(name, device, ieee):
    model = pytest.importorskip("timm").create_model(name).to(device).eval()
    x = torch.randn(1, 3, 32, 32, device=device)
    want = model(x)
    assert not nn.replace_layers(model).left
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)


def test_clip(device, ieee):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = transformers.CLIPVisionModel(config).to(device).eval()
    x = torch.randn(2, 3, 16, 16, device=device)
    want = model(x).pooler_output
    done = nn.replace_layers(model)
    assert "QuickGELUActivation" in done.replaced.values()
    torch.testing.assert_close(model(x).pooler_output, want, rtol=1e-4, atol=1e-5)


# what PyTorch does with a replaced model


def small_resnet(device):
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)
    randomise(model.to(device).eval())
    return model


def test_traced_by_fx(device, ieee):
    model = small_resnet(device)
    want = [(node.op, node.target) for node in torch.fx.symbolic_trace(model).graph.nodes if node.op == "call_module"]
    nn.replace_layers(model)
    traced = torch.fx.symbolic_trace(model)
    assert [(node.op, node.target) for node in traced.graph.nodes if node.op == "call_module"] == want
    assert type(traced.layer1) is torch.nn.Module and type(traced.get_submodule("layer1.0.conv1")) is nn.Conv2d
    x = torch.randn(1, 3, 32, 32, device=device)
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=0)


def test_traced_with_masks(device, ieee):
    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(query=x, key=x, value=x, need_weights=False)[0]

    model = Attends().to(device).eval()
    nn.replace_layers(model)
    x = torch.randn(2, 3, 8, device=device)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


def test_features_are_extracted(device, ieee):
    model = small_resnet(device)
    names = get_graph_node_names(model)
    nodes = {"layer1.0.relu_1": "a", "layer2": "b", "fc": "c"}
    x = torch.randn(1, 3, 32, 32, device=device)
    want = create_feature_extractor(model, nodes)(x)
    nn.replace_layers(model)
    assert get_graph_node_names(model) == names
    got = create_feature_extractor(model, nodes)(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_exported(device, ieee):
    model = small_resnet(device)
    nn.replace_layers(model)
    x = torch.randn(2, 3, 32, 32, device=device)
    exported = torch.export.export(model, (x,)).module()
    assert "torch.ops.course.conv2d" in exported.code
    torch.testing.assert_close(exported(x), model(x))
    batch = torch.export.Dim("batch", min=2, max=16)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 3, 32, 32, device=device)
    torch.testing.assert_close(exported(x), model(x))


def test_in_inference_mode(device, ieee):
    model = small_resnet(device)
    x = torch.randn(1, 3, 32, 32, device=device)
    want = model(x)
    nn.replace_layers(model)
    with torch.enable_grad(), torch.inference_mode():
        got = model(x)
    assert got.is_inference()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_copied_and_pickled(device):
    timm = pytest.importorskip("timm")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4), torch.nn.ReLU(), timm.layers.LayerNorm2d(4),
        timm.layers.QuickGELU(), torch.nn.AdaptiveAvgPool2d(1),
    ).to(device).eval()
    nn.replace_layers(model)
    x = torch.randn(1, 3, 8, 8, device=device)
    want = model[:4](x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert [type(layer) for layer in other] == [type(layer) for layer in model]
        assert other[0].weight is not model[0].weight
        torch.testing.assert_close(other[:4](x), want, rtol=0, atol=0)


def test_replica(device, ieee):
    """As torch.nn.DataParallel makes one: a copy whose parameters are plain tensors."""
    layer = nn.Conv2d(3, 4, 3).to(device)
    replica = layer._replicate_for_data_parallel()
    replica.weight, replica.bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    x = torch.randn(1, 3, 6, 6, device=device)
    torch.testing.assert_close(replica(x), layer(x), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_data_parallel(device, ieee):
    model = small_resnet(torch.device("cuda:0"))
    nn.replace_layers(model)
    x = torch.randn(6, 3, 32, 32, device="cuda:0")
    got = torch.nn.DataParallel(model, device_ids=[0, 1])(x)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)


def test_transformer_with_masks(device, ieee):
    model = torch.nn.Transformer(8, 2, 1, 1, 16, batch_first=True).to(device).eval()
    x = torch.randn(2, 5, 8, device=device)
    ends = torch.tensor([[5], [3]], device=device) <= torch.arange(5, device=device)
    mask = model.generate_square_subsequent_mask(5, device=device)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which knows no layers, and would compute the encoder at once
    try:
        want = model(x, x, tgt_mask=mask, src_key_padding_mask=ends, memory_key_padding_mask=ends)
        nn.replace_layers(model)
        got = model(x, x, tgt_mask=mask, src_key_padding_mask=ends, memory_key_padding_mask=ends)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("options", [{}, {"tgt_is_causal": True}, {"memory_key_padding_mask": True}])
def test_transformer_decoder_layer(options, device, ieee):
    model = torch.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True).to(device).eval()
    x, memory = torch.randn(2, 5, 8, device=device), torch.randn(2, 6, 8, device=device)
    options = {**options, "tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(5, device=device)}
    if "memory_key_padding_mask" in options:
        options["memory_key_padding_mask"] = torch.arange(6, device=device).expand(2, 6) > 3
    want = model(x, memory, **options)
    done = nn.replace_layers(model)
    assert done.replaced["self_attn"] == "MultiheadAttention" and not done.left
    torch.testing.assert_close(model(x, memory, **options), want)


def test_siglip(device, ieee):
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = transformers.SiglipVisionModel(config).to(device).eval()
    randomise(model)
    x = torch.randn(2, 3, 16, 16, device=device)
    want = model(x).pooler_output
    done = nn.replace_layers(model)
    assert list(done.in_part.values()) == [f"MultiheadAttention: {nn.MultiheadAttention.falls_back}"]
    torch.testing.assert_close(model(x).pooler_output, want, rtol=1e-4, atol=1e-5)


# autocast


def mixed_model(layers):
    """A norm that stays float32 between layers that do not, and a sum of both dtypes."""

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = layers.Conv2d(3, 8, 3), layers.BatchNorm2d(8)
            self.norm, self.linear, self.act = layers.LayerNorm(8), layers.Linear(8, 8), layers.GELU()
            self.attention = layers.MultiheadAttention(8, 2, batch_first=True)
            self.softmax, self.pool = layers.Softmax(-1), layers.AdaptiveAvgPool2d(1)
            self.add = nn.addition(layers)

        def forward(self, x):
            seen = [self.conv(x)]
            seen.append(self.bn(seen[-1]))
            pooled = self.pool(seen[-1]).flatten(1)
            seen.append(self.norm(pooled))
            y = self.act(self.linear(seen[-1]))
            seen.append(self.add(y, seen[-1]))
            tokens = seen[1].flatten(2).mT
            seen.append(self.attention(tokens, tokens, tokens, need_weights=False)[0])
            seen.append(self.softmax(self.linear(self.norm(tokens))))
            return [*seen, pooled, y]

    return Mixed()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_autocast(low, device):
    ours, theirs = mixed_model(nn).to(device).eval(), mixed_model(torch.nn).to(device).eval()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 8, 8, device=device)
    with torch.autocast(device.type, low):
        got, want = ours(x), theirs(x)
        replaced = copy.deepcopy(theirs)
        nn.replace_layers(replaced)
        again = replaced(x)
    assert [t.dtype for t in got] == [t.dtype for t in want] == [t.dtype for t in again]
    exact = theirs.double()(x.double())
    for ours, theirs, e in zip([*got, *again], [*want, *want], [*exact, *exact], strict=True):
        error, allowed = ((t.double() - e).abs().max() for t in (ours, theirs))
        assert error <= 2 * allowed + 4 * torch.finfo(low).eps * e.abs().max()
