import copy
import json
import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
import torchvision
import transformers
from PIL import Image
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import course.nn
from course import resnet
from course.data import digit_scans, digits, photos
from course.formats.resnet import KNOWN, resnet_for
from course.load_weights import (
    CHECKPOINTS, DIGITS_RESNET18, DIGITS_VIT, Preprocess, copy_strictly, load_resnet, load_vit,
)
from course.originals import TorchvisionResNet, original_resnet

SMALL = dict(
    image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
    id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
)


def randomise(model):
    """Other values than a constructor's in every tensor, so that two that are mixed up cannot look alike."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.2 + tensor.ndim % 2 * 0.9)  # running variances stay positive
    return model.eval()


def huggingface(folder, cls=transformers.ViTForImageClassification, version=4, **config):
    """A small ViT of transformers with random weights, saved in the names of transformers 4 (as by default) or 5."""
    model = randomise(cls(transformers.ViTConfig(**{**SMALL, **config})))
    model.save_pretrained(folder, save_original_format=version == 4)
    return model


def edit(folder, change):
    """Rewrites the folder's model.safetensors after `change(tensors)`."""
    file = Path(folder) / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(file).items()}
    change(tensors)
    safetensors.torch.save_file(tensors, file)


# -- ViT ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("config", [
    {}, {"qkv_bias": False}, {"image_size": [12, 20], "patch_size": [4, 5], "num_channels": 1},
    {"hidden_act": "gelu_new", "layer_norm_eps": 0.1}, {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {}},
], ids=lambda config: ",".join(config))
def test_vit_is_the_original(tmp_path, version, config):
    original = huggingface(tmp_path, version=version, **config)
    names = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert any("encoder.layer.0.attention.attention.query" in name for name in names) == (version == 4)
    model = load_vit(tmp_path, layers=torch.nn)
    assert not model.training
    assert model.class_names == list(original.config.id2label.values())
    images = torch.randn(2, *model.embeddings.image_shape)
    torch.testing.assert_close(model(images), original(images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("pooler", [True, False])
def test_vit_without_a_head(tmp_path, version, pooler):
    def make(config):
        return transformers.ViTModel(config, add_pooling_layer=pooler)

    original = huggingface(tmp_path, make, version)
    assert ("pooler.dense.weight" in safetensors.torch.load_file(tmp_path / "model.safetensors")) == pooler
    model = load_vit(str(tmp_path), layers=torch.nn)
    assert model.class_names == []
    images = torch.randn(2, 3, 16, 16)
    states = original(images).last_hidden_state
    torch.testing.assert_close(model(images), states[:, 0], rtol=1e-4, atol=1e-5)


def test_vit_with_ten_or_more_classes_keeps_their_order(tmp_path):
    names = [f"class {i}" for i in range(12)]
    huggingface(tmp_path, id2label=dict(enumerate(names)), label2id={})
    assert load_vit(tmp_path).class_names == names


@pytest.mark.parametrize("version, query", [(4, "attention.attention.query"), (5, "attention.q_proj")])
def test_vit_lists_every_tensor_that_does_not_fit(tmp_path, version, query):
    huggingface(tmp_path, version=version)
    layer = {4: "vit.encoder.layer", 5: "vit.layers"}[version]

    def change(tensors):
        del tensors[f"{layer}.1.{query}.weight"], tensors["classifier.bias"]
        tensors["decoder.0.weight"] = torch.zeros(5)
        tensors[f"{layer}.3.layernorm_before.bias"] = torch.zeros(24)
        tensors["vit.layernorm.weight"] = torch.zeros(25)
        tensors[f"{layer}.0.{query}.bias"] = torch.zeros(24, dtype=torch.int8)

    edit(tmp_path, change)
    with pytest.raises(ValueError) as error:
        load_vit(tmp_path)
    first, *lines = str(error.value).split("\n  ")
    assert first == "ViT: 6 tensors do not fit the model"
    assert sorted(lines) == sorted([
        "missing classifier.bias (3,)", f"missing {layer}.1.{query}.weight (24, 24)", "unknown decoder.0.weight (5,)",
        f"unknown {layer}.3.layernorm_before.bias (24,)", "misshapen vit.layernorm.weight: expected (24,), got (25,)",
        f"misshapen {layer}.0.{query}.bias: expected (24,), got (24,) of integers",
    ])


def test_vit_in_the_names_of_both_versions_is_an_error(tmp_path):
    huggingface(tmp_path / "4")
    huggingface(tmp_path / "5", version=5)
    edit(tmp_path / "4", lambda tensors: tensors.update(safetensors.torch.load_file(tmp_path / "5/model.safetensors")))
    with pytest.raises(ValueError, match=r"(?s)48 tensors do not fit.*unknown vit.encoder.layer"):
        load_vit(tmp_path / "4")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_vit_is_converted_to_the_models_dtype(tmp_path, dtype):
    original = huggingface(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    model = load_vit(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, original.classifier.weight.to(dtype).float())


def test_copy_strictly_leaves_the_model_untouched_or_copies_everything():
    def make():
        return torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.BatchNorm1d(6)).double()

    model, other = randomise(make()), randomise(make())
    names = {name: [name] for name in model.state_dict()} | {"0.weight": ["q", "k", "v"]}
    tensors = other.state_dict() | dict(zip("qkv", other[0].weight.chunk(3)))
    del tensors["0.weight"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(ValueError, match="1 tensor does not fit the model\n  misshapen 1.running_var"):
        copy_strictly(model, tensors | {"1.running_var": torch.ones(5)}, names)
    with pytest.raises(ValueError, match=r"missing k \(2, 2\)"):
        copy_strictly(model, {name: tensor for name, tensor in tensors.items() if name != "k"}, names)
    with pytest.raises(ValueError, match="unknown 0.weight"):
        copy_strictly(model, other.state_dict(), names)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    copy_strictly(model, {name: tensor.float() for name, tensor in tensors.items() if "num" not in name},
                  names, optional=["1.num_batches_tracked"])
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        torch.testing.assert_close(tensor, other.state_dict()[name])


def test_vit_folder_that_is_not_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json in .*"):
        load_vit(tmp_path)
    original = huggingface(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_vit(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(original.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no model.safetensors .*pickles such as pytorch_model.bin are never"):
        load_vit(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_vit(tmp_path)
    transformers.BeitConfig(hidden_size=24, num_attention_heads=3).save_pretrained(tmp_path)
    safetensors.torch.save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="config.json: expected model_type among vit, got 'beit'"):
        load_vit(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_vit_by_its_id_from_the_hubs_cache(hub):
    commit = "0123456789abcdef0123456789abcdef01234567"
    original = huggingface(hub / "models--example--vit-small" / "snapshots" / commit)
    (hub / "models--example--vit-small" / "refs").mkdir()
    (hub / "models--example--vit-small" / "refs" / "main").write_text(commit)
    model = load_vit("example/vit-small")
    assert torch.equal(model.head.weight, original.classifier.weight) and model.class_names == ["cat", "dog", "owl"]


def test_vit_downloads_three_files_and_no_pickle(tmp_path, monkeypatch):
    huggingface(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    load_vit("example/vit-small")
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert asked == [(("example/vit-small",), {"allow_patterns": files})]
    load_vit(tmp_path)
    assert len(asked) == 1  # a folder needs no network


def test_vit_without_a_network_says_what_to_do(hub):
    with pytest.raises(ConnectionError) as error:
        load_vit("google/vit-base-patch16-224")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("load_vit: cannot download google/vit-base-patch16-224 (")
    assert ("`hf download google/vit-base-patch16-224 config.json model.safetensors preprocessor_config.json "
            "--local-dir vit-base-patch16-224`, and pass that folder") in str(error.value)


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "a/b/c", "~/missing"])
def test_vit_from_a_folder_that_is_missing(source, hub):
    with pytest.raises(FileNotFoundError, match="expected a folder or a model's id"):
        load_vit(source)


def test_vit_without_a_preprocessor_config(tmp_path):
    """Its images have the size that its configuration says."""
    huggingface(tmp_path, image_size=[12, 20])
    image = photos()["china.jpg"]
    want = ViTImageProcessorPil(size={"height": 12, "width": 20})(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(load_vit(tmp_path).preprocess(image), want)


# -- ResNet ------------------------------------------------------------------------------------------------------------


def narrow(num_classes=5, width=4):
    return randomise(TorchvisionResNet(BasicBlock, [2, 2, 2, 2], num_classes, width))


@pytest.mark.parametrize("make", [torchvision.models.resnet18, torchvision.models.resnet50])
@pytest.mark.parametrize("kind", ["model", "pth", "safetensors"])
def test_resnet_is_the_original(tmp_path, make, kind):
    original = make().eval()  # random convolutions keep the variance: only the norms' tensors need other values
    for layer in original.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.5)
    source = original
    if kind == "pth":
        source = tmp_path / "weights.pth"
        torch.save(original.state_dict(), source)
    elif kind == "safetensors":
        source = str(tmp_path / "weights.safetensors")
        safetensors.torch.save_file(original.state_dict(), source)
    model = load_resnet(source, layers=torch.nn)
    assert not model.training
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), original(images), rtol=1e-4, atol=1e-4)
    assert model.class_names == [str(i) for i in range(1000)]
    assert model.preprocess == Preprocess()


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_infers_depth_width_and_classes(depth, tmp_path):
    make = getattr(resnet, f"resnet{depth}")
    original = randomise(make(num_classes=7, width=3, in_channels=2, layers=torch.nn))
    torch.save(original.state_dict(), tmp_path / "narrow.pth")
    model = load_resnet(tmp_path / "narrow.pth")
    assert model.fc.out_features == len(model.class_names) == 7
    assert isinstance(model.bn1, course.nn.BatchNorm2d)
    assert original.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("spoil", [
    {"conv1.weight": None, "fc.weight": None}, {"conv1.weight": (4, 3, 3, 3)}, {"bn1.weight": None, "bn1.bias": (5,)},
    {"fc.bias": None, "layer2.0.conv1.weight": (8, 4, 3)}, {"layer1.0.bn3.weight": (4,), "fc1.weight": (2, 2)},
    {"fc.bias": (), "bn1.running_var": ()},
], ids=lambda spoil: ",".join(spoil))
def test_resnet_lists_every_tensor_that_does_not_fit(spoil, tmp_path):
    tensors = dict(narrow().state_dict())
    expected = []
    for name, shape in spoil.items():
        known = tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
        if known is None:
            expected.append(f"unknown {name} {shape}")
        elif shape is None:
            expected.append(f"missing {name} {tuple(known.shape)}")
        else:
            expected.append(f"misshapen {name}: expected {tuple(known.shape)}, got {shape}")
    torch.save(tensors, tmp_path / "spoilt.pth")
    with pytest.raises(ValueError) as error:
        load_resnet(tmp_path / "spoilt.pth")
    assert sorted(str(error.value).split("\n  ")[1:]) == sorted(expected)


def test_resnet_that_is_another_network(tmp_path):
    with pytest.raises(ValueError, match=r"expected a ResNet with stages of \(2, 2, 2, 2\).* got \(0, 0, 0, 0\)"):
        load_resnet(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="expected a torchvision model, .* got weights.bin"):
        load_resnet("weights.bin")
    with pytest.raises(FileNotFoundError, match="no file .*missing.pth"):
        load_resnet(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="torchvision has no weights named ResNet18_Weights.IMAGENET22K"):
        load_resnet("ResNet18_Weights.IMAGENET22K")


@pytest.mark.parametrize("change, problem", [
    (lambda model: setattr(model.layer4[1].conv2, "dilation", (2, 2)), r"layer4.1.conv2 with dilation \(1, 1\), got"),
    (lambda model: setattr(model.bn1, "eps", 0.1), "bn1 with eps 1e-05, got 0.1"),
    (lambda model: setattr(model, "maxpool", torch.nn.Identity()), "maxpool to be MaxPool2d, got Identity"),
])
def test_resnet_that_computes_something_else(change, problem):
    original = narrow()
    load_resnet(original)
    change(original)
    with pytest.raises(ValueError, match=f"load_resnet: expected {problem}"):
        load_resnet(original)


def test_resnet_of_an_old_checkpoint_counts_no_batches(tmp_path):
    original = narrow()
    tensors = {name: t.half() for name, t in original.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "old.pth")
    model = load_resnet(tmp_path / "old.pth")
    assert model.bn1.num_batches_tracked == 0
    assert torch.equal(model.bn1.running_var, original.bn1.running_var.half().float())


class Malicious:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_unpickled(tmp_path, legacy):
    trap = tmp_path / "executed"
    for content in (narrow().state_dict() | {"extra": Malicious(trap)}, Malicious(trap), narrow()):
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match="evil.pth .* holds more than tensors, and is not unpickled") as error:
            load_resnet(tmp_path / "evil.pth")
        assert "\n" not in str(error.value)
        assert not trap.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # what the refusal was for: this one would have loaded


def test_resnet_file_that_is_not_a_state_dict(tmp_path):
    (tmp_path / "damaged.pth").write_bytes(b"\x80\x02nothing")
    with pytest.raises(ValueError, match="damaged.pth is damaged"):
        load_resnet(tmp_path / "damaged.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x80\x02nothing")
    with pytest.raises(ValueError, match="damaged.safetensors is not a whole safetensors file"):
        load_resnet(tmp_path / "damaged.safetensors")
    for content, got in [
        ([torch.zeros(1)], "list"), ({}, r"\[\]"), ({"net": narrow().state_dict(), "epoch": 3}, r"\['net', 'epoch'\]"),
        ({"model": narrow().state_dict(), "state_dict": narrow().state_dict()}, r"\['model', 'state_dict'\]"),
        ({"model": {"epoch": 3}}, r"\['model'\]"), ({1: torch.zeros(1)}, r"\[1\]"),
    ]:
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=f"other.pth: expected a state_dict, .*, got {got}$"):
            load_resnet(tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_class_names_and_preprocessing_beside_a_file(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save(narrow().state_dict(), file)
    assert load_resnet(file).class_names == list("01234")
    about = {"class_names": list("abcde"), "preprocessor_config": {"size": {"height": 32, "width": 40}}}
    (tmp_path / "weights.json").write_text(json.dumps(about))
    model = load_resnet(file)
    assert model.class_names == list("abcde")
    assert model.preprocess(Image.new("RGB", (7, 5))).shape == (3, 32, 40)
    (tmp_path / "weights.json").write_text(json.dumps({"class_names": list("abc")}))
    with pytest.raises(ValueError, match="load_resnet: .*weights.*: expected 5 class names, got 3"):
        load_resnet(file)


def test_resnet_by_the_name_of_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    original = torchvision.models.resnet18()
    torch.save(original.state_dict(), file)
    for source in ("ResNet18_Weights.IMAGENET1K_V1", ResNet18_Weights.DEFAULT, file):
        model = load_resnet(source)
        assert torch.equal(model.fc.weight, original.fc.weight)
        assert len(model.class_names) == 1000 and model.class_names[207] == "golden retriever"
        assert model.preprocess == Preprocess()


def test_resnet_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(ConnectionError) as error:
        load_resnet("ResNet18_Weights.IMAGENET1K_V1")
    assert str(error.value) == (
        "load_resnet: cannot download ResNet18_Weights.IMAGENET1K_V1 (<urlopen error Name or service not known>): "
        "get https://download.pytorch.org/models/resnet18-f37072fd.pth on a machine with a network, "
        f"and pass that file or put it into {tmp_path}/hub/checkpoints"
    )


# -- Wrappers and shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.backbone."])
def test_a_wrappers_prefix(tmp_path, prefix):
    original = narrow()
    torch.save({prefix + name: t for name, t in original.state_dict().items()}, tmp_path / "wrapped.pth")
    assert torch.equal(load_resnet(tmp_path / "wrapped.pth").fc.weight, original.fc.weight)
    original = huggingface(tmp_path)
    edit(tmp_path, lambda tensors: [tensors.update({prefix + name: tensors.pop(name)}) for name in list(tensors)])
    assert torch.equal(load_vit(tmp_path).head.weight, original.classifier.weight)


def test_names_that_a_prefix_does_not_explain(tmp_path):
    tensors = {f"module.{name}": t for name, t in narrow().state_dict().items()}
    tensors |= {"criterion.weight": torch.zeros(3), "fc.bias": torch.zeros(5)}
    torch.save(tensors, tmp_path / "wrapped.pth")
    with pytest.raises(ValueError) as error:
        load_resnet(tmp_path / "wrapped.pth")
    assert str(error.value).split("\n  ")[1:] == ["unknown module.fc.bias (5,)", "unknown criterion.weight (3,)"]


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_among_other_things(tmp_path, wrapper):
    original = narrow()
    tensors = {f"module.{name}": t for name, t in original.state_dict().items()}
    torch.save({"epoch": 3, wrapper: tensors, "optimizer": {"lr": 0.1}}, tmp_path / "training.pth")
    assert torch.equal(load_resnet(tmp_path / "training.pth").fc.weight, original.fc.weight)


def sharded(folder, cls=transformers.ViTForImageClassification):
    model = randomise(cls(transformers.ViTConfig(**SMALL)))
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(file.name for file in Path(folder).glob("model-*"))
    assert len(shards) > 2 and not (Path(folder) / "model.safetensors").exists()
    return model, shards


def test_vit_in_several_files(tmp_path):
    original, shards = sharded(tmp_path)
    images = torch.randn(2, 3, 16, 16)
    model = load_vit(tmp_path, layers=torch.nn)
    torch.testing.assert_close(model(images), original(images).logits, rtol=1e-4, atol=1e-5)
    (tmp_path / shards[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"no {shards[1]} in .*, which model.safetensors.index.json names"):
        load_vit(tmp_path)
    (tmp_path / shards[1]).write_bytes((tmp_path / shards[0]).read_bytes())
    with pytest.raises(ValueError, match=f"{shards[1]} is not the file that model.safetensors.index.json expects"):
        load_vit(tmp_path)


@pytest.mark.parametrize("index, got", [
    ({}, "None"), ([], r"\[\]"), ({"weight_map": []}, r"\[\]"), ({"weight_map": {"a": 3}}, "{'a': 3}"),
    ({"weight_map": {"a": "../a.safetensors"}}, "{'a': '../a.safetensors'}"), ({"weight_map": {"a": "b.bin"}}, "{.*}"),
], ids=str)
def test_an_index_that_is_none(tmp_path, index, got):
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match=f"model.safetensors.index.json: expected .*, got {got}$"):
        load_vit(tmp_path)


def test_what_is_downloaded_of_a_sharded_vit(tmp_path, monkeypatch):
    """The index is asked for where there is no single file, and then the files that it names, of the same version."""
    _, shards = sharded(tmp_path / "published")
    (tmp_path / "published" / "pytorch_model.bin").write_bytes(b"pickle")
    cache, asked = tmp_path / "0123456789abcdef", []
    cache.mkdir()

    def download(repo, allow_patterns, revision=None):
        asked.append((allow_patterns, revision))
        for name in allow_patterns:
            if (tmp_path / "published" / name).exists():
                (cache / name).write_bytes((tmp_path / "published" / name).read_bytes())
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_vit("example/vit-sharded").class_names == ["cat", "dog", "owl"]
    assert asked == [
        (["config.json", "model.safetensors", "preprocessor_config.json"], None),
        (["model.safetensors.index.json"], cache.name), (shards, cache.name),
    ]
    (tmp_path / "published" / "model.safetensors.index.json").unlink()
    (cache / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors and no model.safetensors.index.json in "):
        load_vit("example/vit-sharded")


# -- Values and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value, problem", [
    ("layer1.0.conv1.weight", float("nan"), r"not finite layer1.0.conv1.weight: 1 of 144 values in float32"),
    ("fc.bias", float("-inf"), r"not finite fc.bias: 1 of 5 values"), ("fc.bias", 1e39, "not finite fc.bias: 1 of 5"),
    ("bn1.running_var", -1e-9, "negative bn1.running_var: 1 of 4 variances"),
])
def test_resnet_of_wrong_numbers(tmp_path, name, value, problem):
    tensors = {name: t.double() if t.is_floating_point() else t for name, t in narrow().state_dict().items()}
    tensors[name].view(-1)[0] = value
    torch.save(tensors, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=f"1 tensor does not fit the model\n  {problem}"):
        load_resnet(tmp_path / "wrong.pth")


def test_vit_of_wrong_numbers(tmp_path):
    huggingface(tmp_path)
    edit(tmp_path, lambda tensors: tensors["classifier.weight"].fill_(float("inf")))
    with pytest.raises(ValueError, match="not finite classifier.weight: 72 of 72 values"):
        load_vit(tmp_path)


def test_a_model_without_values():
    with torch.device("meta"):
        original = torchvision.models.resnet18()
    with pytest.raises(ValueError, match="without values conv1.weight: on the meta device"):
        load_resnet(original)


@pytest.mark.parametrize("changes, problem", [
    ({"hidden_size": 2**20, "num_attention_heads": 16, "intermediate_size": 2**22, "num_hidden_layers": 48},
     "expected a model of the [0-9]+ numbers that the tensors hold, got one of [0-9]+ .hidden_size 1048576"),
    ({"num_hidden_layers": 10**7}, "expected num_hidden_layers of the 56 tensors in .*, got 10000000"),
    ({"hidden_size": 10**12}, "expected hidden_size an integer from 1 to 16777216, got 1000000000000"),
])
def test_a_configuration_of_another_size_is_refused_before_anything_is_allocated(tmp_path, changes, problem):
    """The first would take 3 PB."""
    huggingface(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^load_vit: .*config.json: {problem}") as error:
        load_vit(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key, value", [
    ("hidden_size", "64"), ("hidden_size", True), ("hidden_size", 64.5), ("hidden_size", None), ("patch_size", 0),
    ("patch_size", [4, 4, 4]), ("image_size", "16"), ("image_size", {"height": 16}), ("num_attention_heads", 0),
    ("num_hidden_layers", -1), ("intermediate_size", []), ("num_channels", 0), ("hidden_act", ["gelu"]),
    ("layer_norm_eps", "1e-12"), ("layer_norm_eps", -1.0), ("layer_norm_eps", float("nan")), ("qkv_bias", "no"),
    ("id2label", ["cat", "dog", "owl"]), ("id2label", {"0": "cat", "1": "dog", "x": "owl"}), ("id2label", {"0": 7}),
    ("id2label", {"1": "cat", "2": "dog", "3": "owl"}), ("model_type", 5), ("model_type", ["vit"]),
])
def test_keys_of_config_json(tmp_path, key, value):
    huggingface(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {key: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^load_vit: {path}: expected {key} .*, got ") as error:
        load_vit(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content, problem", [
    (b"[]", r": expected an object of names and values, got \[\]"), (b"", " is not JSON"), (b"3", ": expected an obj"),
    (b"[" * 100_000, " is not JSON"), (b'{"a": "\xe4"}', " is not JSON .*utf-8"),
], ids=["list", "empty", "number", "deep", "latin-1"])
def test_json_of_something_else(tmp_path, file, content, problem):
    huggingface(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / file}{problem}") as error:
        load_vit(tmp_path)
    assert "\n" not in str(error.value)


def test_a_value_of_preprocessor_config_json(tmp_path):
    huggingface(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"resample": 99}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"^load_vit: {path}: expected resample an integer from 0 to ., got 99$"):
        load_vit(tmp_path)


@pytest.mark.parametrize("labels, names", [
    ({"num_labels": 3}, ["0", "1", "2"]), ({"num_labels": 3, "id2label": None}, ["0", "1", "2"]),
    ({"num_labels": 7, "id2label": {"0": "a", "1": "b", "2": "c"}}, ["a", "b", "c"]),  # as transformers
])
def test_classes_by_number(tmp_path, labels, names):
    huggingface(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["id2label"], config["label2id"]
    path.write_text(json.dumps(config | labels), encoding="utf-8")
    assert load_vit(tmp_path).class_names == names


@pytest.mark.parametrize("about, problem", [
    ({"class_names": "abcde"}, ": expected class_names a list of strings, got 'abcde'"),
    ({"class_names": [1, 2, 3, 4, 5]}, r": expected class_names a list of strings, got \[1, 2, 3, 4, 5\]"),
    ({"preprocessor_config": []}, r": expected preprocessor_config an object of names and values, got \[\]"),
    ({"preprocessor_config": {"image_std": 0}}, ": preprocessor_config: expected image_std a finite number .*, got 0"),
    ([], r": expected an object of names and values, got \[\]"),
])
def test_keys_beside_a_file(tmp_path, about, problem):
    torch.save(narrow().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "weights.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path}/weights.json{problem}"):
        load_resnet(tmp_path / "weights.pth")


@pytest.mark.parametrize("metadata, problem", [
    ({"class_names": "abcde"}, "class_names in .*weights.safetensors is not JSON"),
    ({"class_names": "{}"}, "class_names in .*weights.safetensors: expected a list of strings, got {}"),
    ({"preprocessor_config": '{"size": 0}'}, "weights.safetensors: preprocessor_config: expected size .*, got 0"),
])
def test_keys_in_a_files_metadata(tmp_path, metadata, problem):
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(narrow().state_dict(), file, {"format": "pt", **metadata})
    with pytest.raises(ValueError, match=problem):
        load_resnet(file)


def test_names_in_any_script_whatever_the_locale(tmp_path):
    """Files are UTF-8, also where Python would take them for ASCII."""
    names = ["Kätzchen", "собака", "猫", "d", "e"]
    torch.save(narrow().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "weights.json").write_text(json.dumps({"class_names": names}, ensure_ascii=False), encoding="utf-8")
    code = "import sys; from course.load_weights import load_resnet; print(ascii(load_resnet(sys.argv[1]).class_names))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "weights.pth"], env=environment, check=True,
                           capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert found.stdout.strip() == ascii(names)


# -- Other ResNets, and models that only look like one -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
@pytest.mark.parametrize("kind", ["model", "pth"])
def test_resnext_and_wide_resnet(tmp_path, name, kind):
    original = randomise_norms(getattr(torchvision.models, name)(num_classes=7).eval())
    source = original
    if kind == "pth":
        source = tmp_path / "weights.pth"
        torch.save(original.state_dict(), source)
    model = load_resnet(source, layers=torch.nn)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), original(images), rtol=1e-4, atol=1e-4)
    again = original_resnet(source)
    assert torch.equal(again(images), original(images))


def randomise_norms(model):
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.5)
    return model


@pytest.mark.parametrize("name", KNOWN)
def test_every_resnet_of_torchvision_is_recognised(name):
    with torch.device("meta"):
        tensors = getattr(torchvision.models, name)(num_classes=7).state_dict()
    found = {key: t.shape for key, t in resnet_for(tensors, torch.nn).state_dict().items()}
    assert found == {key: t.shape for key, t in tensors.items()}


@pytest.mark.parametrize("width, groups, width_per_group", [
    (4, 2, 64), (12, 1, 128), (8, 4, 16), (16, 4, 8), (12, 1, 40),
])
def test_groups_and_widths_are_inferred(width, groups, width_per_group):
    with torch.device("meta"):
        tensors = TorchvisionResNet(Bottleneck, [3, 4, 6, 3], 7, width, groups, width_per_group).state_dict()
    found = {key: t.shape for key, t in resnet_for(tensors, torch.nn).state_dict().items()}
    assert found == {key: t.shape for key, t in tensors.items()}


def test_weights_of_another_architecture_are_not_downloaded(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ValueError, match="expected weights of resnet18, .*, got ViT_B_16_Weights.IMAGENET1K_V1"):
        load_resnet("ViT_B_16_Weights.IMAGENET1K_V1")


class Doubled(torchvision.models.ResNet):
    def forward(self, images):
        return super().forward(images) * 2


class Broken(torchvision.models.ResNet):
    def forward(self, images):
        raise RuntimeError("no such kernel\nat all")


def replace(name, layer):
    def change(model):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    return change


@pytest.mark.parametrize("change, problem", [
    (replace("layer1.0.relu", torch.nn.LeakyReLU()), "expected layer1.0.relu to be ReLU, got LeakyReLU"),
    (replace("relu", torch.nn.ReLU6()), "expected relu to be ReLU, got ReLU6"),
    (replace("avgpool", torch.nn.AdaptiveMaxPool2d(1)), "expected avgpool to be AdaptiveAvgPool2d, got AdaptiveMax"),
    (replace("avgpool", torch.nn.AdaptiveAvgPool2d((1, 2))), r"expected avgpool with output_size 1, got \(1, 2\)"),
    (lambda model: setattr(model.maxpool, "ceil_mode", True), "expected maxpool with ceil_mode False, got True"),
    (replace("layer2.0.conv1", torch.nn.Conv2d(4, 8, 3, (2, 1), 1, bias=False)),
     r"expected layer2.0.conv1 with stride \(2, 2\), got \(2, 1\)"),
    (replace("layer2.0.conv1", torch.nn.Conv2d(4, 8, 3, 2, 1, bias=False, padding_mode="circular")),
     "expected layer2.0.conv1 with padding_mode zeros, got circular"),
    (lambda model: setattr(model.layer1[0].bn1, "eps", 1e-3), "expected layer1.0.bn1 with eps 1e-05, got 0.001"),
    (lambda model: setattr(model.layer1[1], "downsample", torch.nn.AvgPool2d(1)),
     "expected layer1.1.downsample to be Identity, got AvgPool2d"),
    (lambda model: setattr(model, "__class__", Doubled), "another: with its own weights its logits for one image"),
    (lambda model: setattr(model, "__class__", Broken), "another: no such kernel$"),
    (lambda model: model.register_forward_hook(lambda *args: args[2].softmax(1)), "another: with its own weights"),
    (lambda model: model.register_forward_hook(lambda *args: {"logits": args[2]}),
     r"another: expected logits \(1, 5\), got dict"),
])
def test_resnet_that_computes_something_else_is_refused_and_left_as_it_was(change, problem):
    original = narrow()
    change(original)
    before, random = copy.deepcopy(original.state_dict()), torch.get_rng_state()
    original.train()
    original.layer2.eval()
    with pytest.raises(ValueError, match=f"^load_resnet: .*{problem}"):
        load_resnet(original, layers=torch.nn)
    assert torch.equal(random, torch.get_rng_state())
    assert original.training and not original.layer2.training and original.layer3.training
    assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items())


def test_a_difference_that_the_models_own_weights_hide():
    """The last norm of each block is 0, as zero_init_residual makes it: what is before it makes no difference yet."""
    original = narrow()
    for stage in (original.layer1, original.layer2, original.layer3, original.layer4):
        for block in stage:
            torch.nn.init.zeros_(block.bn2.weight)
    original.layer3[1].bn1.forward = lambda x: torch.nn.functional.instance_norm(x)
    with pytest.raises(ValueError, match="another: with random weights its logits for one image are up to"):
        load_resnet(original, layers=torch.nn)


def test_models_that_compute_the_same(tmp_path):
    """In a wrapper, in half precision, with pairs where ours has one number, with the frozen norms of detectors."""
    original = narrow()
    frozen = copy.deepcopy(original)
    for name, layer in list(frozen.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(layer.num_features)
            norm.load_state_dict(layer.state_dict())
            replace(name, norm)(frozen)
    pairs = copy.deepcopy(original)
    pairs.maxpool, pairs.avgpool = torch.nn.MaxPool2d((3, 3), (2, 2), (1, 1)), torch.nn.AdaptiveAvgPool2d((1, 1))
    pairs.layer1[0].bn1.momentum = 0.01  # for training alone
    for source in (torch.nn.DataParallel(original), torch.compile(original), frozen, pairs, original.train()):
        # DataParallel moves its model to the GPU
        assert torch.equal(load_resnet(source, layers=torch.nn).fc.weight.cpu(), original.fc.weight.cpu())
    original.cpu()
    assert torch.equal(load_resnet(copy.deepcopy(original).half()).fc.weight, original.fc.weight.half().float())


# -- The shipped checkpoints -------------------------------------------------------------------------------------------


def original_vit():
    return transformers.ViTForImageClassification.from_pretrained(DIGITS_VIT).eval()


def original_resnet18():
    model = TorchvisionResNet(BasicBlock, [2, 2, 2, 2], num_classes=10, width=12)
    model.load_state_dict(safetensors.torch.load_file(DIGITS_RESNET18))
    return model.eval()


def test_shipped_checkpoints_are_small():
    shipped = [file for file in CHECKPOINTS.rglob("*") if file.suffix in (".json", ".safetensors")]
    assert len(shipped) == 4 and sum(file.stat().st_size for file in shipped) <= 3e6


@pytest.mark.parametrize("load, make", [(load_vit, original_vit), (load_resnet, original_resnet18)])
def test_shipped_checkpoints_read_the_held_out_digits(load, make):
    images, labels = digits("test")
    want = make()(images)
    want = getattr(want, "logits", want)
    model = load(layers=torch.nn)
    assert (want.argmax(1) == labels).float().mean() >= 0.97
    torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-4)
    assert model.class_names == list("0123456789")


@pytest.mark.parametrize("load", [load_vit, load_resnet])
def test_shipped_checkpoints_take_the_scans_as_digits_does(load):
    scans, _ = digit_scans("test")
    images, _ = digits("test")
    preprocess = load(layers=torch.nn).preprocess
    torch.testing.assert_close(torch.stack([preprocess(scan) for scan in scans]), images, rtol=0, atol=1e-6)
    processor = transformers.AutoImageProcessor.from_pretrained(DIGITS_VIT)  # on tensors: rounds once more
    torch.testing.assert_close(processor(scans, return_tensors="pt").pixel_values, images, rtol=0, atol=2.01 / 255)


@pytest.mark.parametrize("load", [load_vit, load_resnet])
def test_shipped_checkpoints_through_the_kernels(load, device):
    images = digits("test")[0][:4].to(device)
    got, want = load().to(device)(images), load(layers=torch.nn).to(device)(images)
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)
