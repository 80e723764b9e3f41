import shutil

import pytest
import torch
from safetensors.torch import load_file

from course.__main__ import main
from course.commands.models import LOADERS
from course.load_weights import load_resnet


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_a_folder(model, digit_files, tmp_path, capsys):
    dump = tmp_path / "layers.safetensors"
    folder = str(digit_files[0].parent)
    assert main(["verify", model, "--images", folder, "--batch", "2", "--dump", str(dump)]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 images given the original's class (100.00%)" in out and "✗" not in out
    tensors = load_file(dump)
    assert {name.split("/")[0] for name in tensors} == {"original", "course"}
    assert all(t.isfinite().all() for t in tensors.values())


def test_a_wrong_model(monkeypatch, digit_files, capsys):
    def load_wrong(source, layers):
        model = load_resnet(source, layers=layers)
        with torch.no_grad():
            model.layer3[0].conv1.weight *= 1.01
        return model

    monkeypatch.setitem(LOADERS, "resnet", load_wrong)
    assert main(["verify", "resnet18", "--images", str(digit_files[0].parent)]) == 1
    assert "✗ layer3.0.conv1" in capsys.readouterr().out


@pytest.mark.parametrize("unreadable", [1, 2, 3])
def test_unreadable_images(unreadable, digit_files, broken, tmp_path, capsys):
    """Each is named once, though the first images are looked at twice; the others are compared."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, file in enumerate(digit_files):
        shutil.copy(broken if i < unreadable else file, folder / file.name)
    assert main(["verify", "resnet18", "--images", str(folder)]) == 2
    out, err = capsys.readouterr()
    skipped = [line for line in err.splitlines() if line.startswith("skipped")]
    assert [str(folder / file.name) in line for file, line in zip(digit_files, skipped)] == [True] * unreadable
    left = 3 - unreadable
    if left:
        assert f"{left} of {left} images given" in out
    else:
        assert out == "" and err.splitlines()[-1] == "course: verify: none of the images could be read"


@pytest.mark.parametrize("options, words", [
    (["--batch", "0"], "expected a whole number of at least 1, got 0"), (["--images", "{empty}"], "no image"),
    (["--images", "{empty}/missing"], "no folder"), (["--dump", "{empty}"], "got the folder"),
    (["--dump", "{empty}/missing/x.safetensors"], "no folder {empty}/missing"),
])
def test_bad_options_are_one_line(options, words, tmp_path, monkeypatch, capsys):
    """Before anything is loaded."""
    monkeypatch.setitem(LOADERS, "vit", lambda *_, **__: pytest.fail("loaded"))
    assert main(["verify", "vit", *(option.format(empty=tmp_path) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words.format(empty=tmp_path) in err
    assert list(tmp_path.iterdir()) == []
