"""What a model is called on the command line."""
import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from course.__main__ import MODELS, main
from course.commands.models import LOADERS, description, find, load
from course.commands.old_spellings import renewed
from course.formats.resnet import KNOWN, resnet_for
from course.load_weights import DIGITS_RESNET18, DIGITS_VIT
from course.vit import ViT, ViTConfig


@pytest.mark.parametrize("name, family, source", [
    ("vit", "vit", str(DIGITS_VIT)), ("resnet18", "resnet", str(DIGITS_RESNET18)),
    ("resnet50", "resnet", "ResNet50_Weights.IMAGENET1K_V2"),
    ("torchvision:resnet18", "resnet", "ResNet18_Weights.IMAGENET1K_V1"),
    ("torchvision:ResNet50_Weights.IMAGENET1K_V1", "resnet", "ResNet50_Weights.IMAGENET1K_V1"),
    ("hf:google/vit-base-patch16-224", "vit", "google/vit-base-patch16-224"),
    (str(DIGITS_VIT), "vit", str(DIGITS_VIT)), (str(DIGITS_VIT / "model.safetensors"), "vit", str(DIGITS_VIT)),
    (str(DIGITS_RESNET18), "resnet", str(DIGITS_RESNET18)),
])
def test_names(name, family, source):
    assert find(name) == (family, source)


def test_a_file_called_as_a_model(tmp_path, monkeypatch):
    (tmp_path / "vit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("vit").source == str(DIGITS_VIT) and find("./vit").source == "vit"


@pytest.mark.parametrize("name, words", [
    ("resnet19", "did you mean resnet18?"),
    ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
    ("ResNet18_Weights.IMAGENET1K_V1", "torchvision:ResNet18_Weights.IMAGENET1K_V1"),
    ("timm:vit_base_patch16_224", "replace_layers"),
    ("torchvision:vit_b_16", "not loaded by name yet"),
    ("missing.pth", "no file or folder missing.pth"),
    ("./missing", "no file or folder ./missing"),
    ("alexnet", "torchvision:NAME or hf:ID"),
])
@pytest.mark.parametrize("command", ["classify {} photo.png", "verify {}", "info {}"])
def test_names_of_nothing(command, name, words, capsys):
    """One line, before anything is loaded or looked for."""
    assert main(command.format(name).split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and name in err and words in err


def test_names_are_documented():
    assert set(KNOWN) <= set(re.findall(r"\w+", MODELS))
    assert {"vit", "timm", "torchvision", "hf", "FILE"} <= set(re.findall(r"\w+", MODELS))


@pytest.mark.parametrize("name, kind", [
    ("resnet34", "ResNet-34"), ("resnet152", "ResNet-152"), ("resnext50_32x4d", "ResNeXt-50 32x4d"),
    ("wide_resnet50_2", "Wide ResNet-50-2"),
])
def test_description(name, kind):
    with torch.device("meta"):
        tensors = torchvision.models.get_model(name, weights=None).state_dict()
    model = resnet_for(tensors, torch.nn)
    model.class_names = [""] * 1000
    count = sum(p.numel() for p in torchvision.models.get_model(name, weights=None).parameters())
    assert description(model) == f"{kind}, {count:,} parameters, 1,000 classes"


def test_what_was_loaded_is_said(tmp_path, capsys):
    """Any ResNet's file is taken, whatever it is called."""
    with torch.device("meta"):
        model = resnet_for(torchvision.models.resnet34(num_classes=7).state_dict(), torch.nn)
    file = tmp_path / "resnet18.safetensors"
    save_file({name: torch.ones_like(tensor, device="cpu") for name, tensor in model.state_dict().items()}, file)
    load(str(file))
    assert capsys.readouterr().err.startswith(f"{file}: ResNet-34, 21,288,263 parameters, 7 classes")


def test_a_vit_without_a_head(monkeypatch, digit_files, capsys):
    model = ViT(ViTConfig(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                          intermediate_size=8, num_labels=0)).eval()
    model.class_names, model.preprocess = [], None
    monkeypatch.setitem(LOADERS, "vit", lambda *_, **__: model)
    for command in (["classify", "vit", str(digit_files[0])], ["verify", "vit"]):
        assert main(command) == 2
        assert "vit has no head" in capsys.readouterr().err


def test_no_gpu_and_no_interpreter(monkeypatch, digit_files, capsys):
    monkeypatch.setattr("course.runtime.DEVICE", torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["classify", "vit", str(digit_files[0])]) == 2
    assert capsys.readouterr().err.startswith("course: TRITON_INTERPRET=0 is set, and PyTorch sees no GPU")


class TestOldSpellings:
    @pytest.mark.parametrize("old, new", [
        ("classify {0} {1} --model vit", "classify vit {0} {1}"),
        ("classify {0}", "classify vit {0}"),
        ("classify --model=resnet18 {0} --dtype float16", "classify resnet18 {0} --dtype float16"),
        ("classify {0} --weights google/vit", "classify hf:google/vit {0}"),
        ("verify resnet18 --weights ResNet18_Weights.X --images d", "verify torchvision:ResNet18_Weights.X --images d"),
        ("verify --batch 3 resnet18 --weights w.pth", "verify w.pth --batch 3"),
        ("info vit --weights {folder}", "info {folder}"),
    ])
    def test_are_read(self, old, new, digit_files, capsys):
        fill = {"folder": str(DIGITS_VIT)}
        new = new.format(*digit_files, **fill)
        assert renewed(old.format(*digit_files, **fill).split(), "course") == new.split()
        assert capsys.readouterr().err == f"course: deprecated: a model is one word before the images: course {new}\n"

    @pytest.mark.parametrize("line", ["", "doctor", "classify vit a.png", "classify --topk 3 vit a.png", "verify vit",
                                      "info w.pth", "bench models --check"])
    def test_new_ones_stay(self, line, capsys):
        assert renewed(line.split(), "course") == line.split() and capsys.readouterr().err == ""

    def test_works(self, digit_files, capsys):
        assert main(["classify", str(digit_files[0]), "--model", "resnet18"]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines()[0] == str(digit_files[0]) and "deprecated" in err.splitlines()[0]
