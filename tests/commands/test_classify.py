import json
import re

import pytest
import torch

from course import data
from course.__main__ import main
from course.commands import models


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_digits(model, digit_files, capsys):
    assert main(["classify", model, *map(str, digit_files)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[::6] == list(map(str, digit_files))
    first = [re.fullmatch(r" +([\d.]+)% +(\d)", line).groups() for line in lines[1::6]]
    assert [guess for _, guess in first] == [file.name[0] for file in digit_files]
    assert sum(float(line.split("%")[0]) for line in lines[1:6]) <= 100.01
    assert err.startswith(f"{model}: ") and "10 classes, from " in err


def test_a_folder_as_json(digit_files, capsys):
    assert main(["classify", "vit", str(digit_files[0].parent), "--json", "--topk", "12", "--batch", "2"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == list(map(str, digit_files))
    for answer in answers:
        probabilities = [c["probability"] for c in answer["classes"]]
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert len(answer["classes"]) == 10  # all that there are
        assert all(c["class"] == str(c["index"]) for c in answer["classes"])


def test_topk_and_batches_change_nothing_else(digit_files, capsys):
    out = []
    for options in (["--topk", "2", "--batch", "1"], ["--batch", "64"]):
        assert main(["classify", "resnet18", *map(str, digit_files), *options]) == 0
        out.append(capsys.readouterr().out.splitlines())
    few, five = ([re.sub(r"\.\d+%", "", line) for line in lines] for lines in out)
    assert few == [line for i, line in enumerate(five) if i % 6 < 3]


def test_one_bad_file_costs_that_file(digit_files, broken, capsys):
    files = [digit_files[0], broken, "missing.png", digit_files[1]]
    assert main(["classify", "vit", *map(str, files), "--topk", "1"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [str(digit_files[0]), str(digit_files[1])]
    skipped = err.splitlines()[1:]
    assert len(skipped) == 2 and str(broken) in skipped[0] and "missing.png" in skipped[1]


def test_an_image_that_cannot_be_preprocessed(monkeypatch, digit_files, capsys):
    """It is found out later than one that cannot be decoded."""
    load = models.LOADERS["vit"]

    def load_strict(source, layers):
        model = load(source, layers=layers)
        preprocess, images = model.preprocess, iter(range(9))

        def strict(image):
            if next(images) == 1:
                raise ValueError("preprocess: expected another image")
            return preprocess(image)

        model.preprocess = strict
        return model

    monkeypatch.setitem(models.LOADERS, "vit", load_strict)
    assert main(["classify", "vit", *map(str, digit_files), "--topk", "1"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [str(digit_files[0]), str(digit_files[2])]
    assert err.splitlines()[1] == f"skipped {digit_files[1]}: preprocess: expected another image"


def test_logits_that_are_not_finite(monkeypatch, digit_files, capsys):
    load = models.LOADERS["vit"]

    def load_large(source, layers):
        model = load(source, layers=layers)
        with torch.no_grad():
            model.head.bias[3] = 1e30  # too large for float16
        return model

    monkeypatch.setitem(models.LOADERS, "vit", load_large)
    assert main(["classify", "vit", str(digit_files[0]), "--dtype", "float16"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.search(r"skipped .*expected finite logits .*got 1 of 10 NaN or infinite", err)


def test_images_of_several_sizes(monkeypatch, tmp_path, digit_files, capsys):
    """A ResNet takes images as they come: those of one size are a batch."""
    load = models.LOADERS["resnet"]

    def load_any(source, layers):
        model = load(source, layers=layers)
        model.preprocess = type(model.preprocess)(size=None, crop=None)
        return model

    monkeypatch.setitem(models.LOADERS, "resnet", load_any)
    image = data.photos()["flower.jpg"]
    for i, size in enumerate(((40, 40), (40, 48), (40, 48), (40, 40))):
        image.resize(size).save(tmp_path / f"{i}.png")
    assert main(["classify", "resnet18", str(tmp_path), "--topk", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[::2] == [str(tmp_path / f"{i}.png") for i in range(4)]


@pytest.mark.parametrize("arguments, words", [
    (["vit", "{empty}"], "no image"), (["vit"], "IMAGE"), (["vit", "{file}", "--topk", "0"], "--topk"),
    (["vit", "{file}", "--batch", "-1"], "--batch"), (["vit", "{file}", "--batch", "many"], "got many"),
    (["vit", "{file}", "--dtype", "int8"], "int8"),
])
def test_bad_options_are_one_line(arguments, words, tmp_path, digit_files, capsys):
    arguments = [word.format(empty=tmp_path, file=digit_files[0]) for word in arguments]
    assert main(["classify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"triton-course \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "Exit codes: 0 " in out and all(code in out for code in ("1 if", "2 if", "130", "141"))
