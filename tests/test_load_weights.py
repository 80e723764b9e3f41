import json
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
import torchvision
import transformers
from PIL import Image
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models.resnet import BasicBlock
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import course.nn
from course import resnet
from course.data import digit_scans, digits, photos
from course.load_weights import (
    CHECKPOINTS, DIGITS_RESNET18, DIGITS_VIT, Preprocess, copy_strictly, load_resnet, load_vit,
)  # fmt: skip
from course.originals import TorchvisionResNet

SMALL = dict(
    image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
    id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
)  # fmt: skip


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
], ids=lambda config: ",".join(config))  # fmt: skip
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
    ])  # fmt: skip


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
                  names, optional=["1.num_batches_tracked"])  # fmt: skip
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
    with pytest.raises(FileNotFoundError, match="no model.safetensors in .* is a pickle and never read"):
        load_vit(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_vit(tmp_path)
    transformers.BeitConfig(hidden_size=24, num_attention_heads=3).save_pretrained(tmp_path)
    safetensors.torch.save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected model_type 'vit' in .*config.json, got 'beit'"):
        load_vit(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_vit_by_its_id_from_the_hubs_cache(hub):
    commit = "0123456789abcdef0123456789abcdef01234567"
    original = huggingface(hub / "models--somebody--vit-small" / "snapshots" / commit)
    (hub / "models--somebody--vit-small" / "refs").mkdir()
    (hub / "models--somebody--vit-small" / "refs" / "main").write_text(commit)
    model = load_vit("somebody/vit-small")
    assert torch.equal(model.head.weight, original.classifier.weight) and model.class_names == ["cat", "dog", "owl"]


def test_vit_downloads_three_files_and_no_pickle(tmp_path, monkeypatch):
    huggingface(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    load_vit("somebody/vit-small")
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert asked == [(("somebody/vit-small",), {"allow_patterns": files})]
    load_vit(tmp_path)
    assert len(asked) == 1  # a folder needs no network


def test_vit_without_a_network_says_what_to_do(hub):
    with pytest.raises(ConnectionError) as error:
        load_vit("google/vit-base-patch16-224")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("load_vit: cannot download google/vit-base-patch16-224 (")
    assert ("`hf download google/vit-base-patch16-224 config.json model.safetensors preprocessor_config.json "
            "--local-dir vit-base-patch16-224`, and pass that folder") in str(error.value)  # fmt: skip


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "a/b/c", "~/missing"])
def test_vit_from_a_folder_that_is_missing(source, hub):
    with pytest.raises(FileNotFoundError, match="expected a folder or a model's id"):
        load_vit(source)


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
], ids=lambda spoil: ",".join(spoil))  # fmt: skip
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
    with pytest.raises(ValueError, match=r"(?s)176 tensors do not fit.*misshapen layer1.0.conv2.weight: expected"):
        load_resnet(torchvision.models.resnext50_32x4d())  # grouped
    with pytest.raises(ValueError, match="expected a torchvision model, .* got weights.bin"):
        load_resnet("weights.bin")
    with pytest.raises(FileNotFoundError, match="no file .*missing.pth"):
        load_resnet(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="torchvision has no weights named ResNet18_Weights.IMAGENET22K"):
        load_resnet("ResNet18_Weights.IMAGENET22K")


@pytest.mark.parametrize("change, problem", [
    (lambda model: setattr(model.layer4[1].conv2, "dilation", (2, 2)), r"layer4.1.conv2 with dilation \(1, 1\), got"),
    (lambda model: setattr(model.bn1, "eps", 0.1), "bn1 with eps 1e-05, got 0.1"),
    (lambda model: setattr(model, "maxpool", torch.nn.Identity()), "maxpool with stride 2, got None"),
])  # fmt: skip
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
    torch.save({"model": narrow().state_dict(), "epoch": 3}, tmp_path / "training.pth")
    with pytest.raises(ValueError, match="expected a state_dict in .*training.pth, .* got model, epoch"):
        load_resnet(tmp_path / "training.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a state_dict in .*list.pth, .* got list"):
        load_resnet(tmp_path / "list.pth")


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
    with pytest.raises(ValueError, match="ResNet: expected 5 class names, got 3"):
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


# -- Preprocessing -----------------------------------------------------------------------------------------------------


def pictures():
    yield from photos().values()
    noise = torch.randint(256, (3, 300, 259), dtype=torch.uint8)
    for size in ((300, 259), (259, 300), (33, 8), (8, 8)):
        yield Image.fromarray(noise.permute(1, 2, 0).numpy()).resize(size)


@pytest.mark.parametrize("options", [
    {"size": {"height": 224, "width": 224}}, {"size": {"height": 20, "width": 33}, "resample": 3},
    {"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": {"height": 25, "width": 24}},
    {"do_resize": False, "do_normalize": False}, {"size": {"height": 9, "width": 9}, "do_rescale": False},
    {"size": {"height": 9, "width": 9}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 0},
], ids=str)  # fmt: skip
def test_preprocessing_is_huggingfaces(tmp_path, options):
    original = ViTImageProcessorPil(**options)
    original.save_pretrained(tmp_path)
    preprocess = Preprocess.from_huggingface(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    for image in pictures():
        got, want = preprocess(image), original(image, return_tensors="pt").pixel_values[0]
        assert got.dtype == torch.float32 and got.is_contiguous()
        torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)


def test_preprocessing_that_is_not_written_down(tmp_path):
    huggingface(tmp_path, image_size=[12, 20])
    image = next(pictures())
    want = ViTImageProcessorPil(size={"height": 12, "width": 20})(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(load_vit(tmp_path).preprocess(image), want)
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    assert Preprocess.from_huggingface(old) == Preprocess.from_huggingface({})
    with pytest.raises(ValueError, match="expected a size as height and width .* got {'longest_edge': 8}"):
        Preprocess.from_huggingface({"size": {"longest_edge": 8}})


@pytest.mark.parametrize("weights", [ResNet18_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2], ids=str)
def test_preprocessing_is_torchvisions(weights):
    original = weights.transforms()
    preprocess = Preprocess.from_torchvision(original)
    for image in pictures():
        torch.testing.assert_close(preprocess(image), original(image), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_preprocessing_takes_any_mode(mode):
    image = next(pictures())
    assert torch.equal(Preprocess()(image.convert(mode)), Preprocess()(image.convert(mode).convert("RGB")))


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
