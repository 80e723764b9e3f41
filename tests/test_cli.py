import re

import pytest
import torch
from safetensors.torch import load_file

from course import data
from course.__main__ import main
from course.runtime import INTERPRET


@pytest.fixture
def digit_files(tmp_path):
    scans, labels = data.digit_scans("test")
    for i in range(3):
        scans[i].save(tmp_path / f"{labels[i]}-{i}.png")
    return tmp_path


def test_doctor(capsys):
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert code == ("→" in out)  # something to repair, a missing package for instance
    assert "is right" in out and ("interpreter" if INTERPRET else "on the GPU") in out


def test_doctor_on_a_machine_where_nothing_runs(monkeypatch, capsys):
    monkeypatch.setattr("course.doctor.runtime.DEVICE", torch.device("cuda:99"))
    assert main(["doctor"]) == 1
    assert "a first kernel failed" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_classify_reads_digits(model, digit_files, capsys):
    files = sorted(map(str, digit_files.iterdir()))
    assert main(["classify", *files, "--model", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::6] == files
    first = [re.fullmatch(r" +([\d.]+)% +(\d)", line).groups() for line in lines[1::6]]
    assert [guess for _, guess in first] == [file.rpartition("/")[2][0] for file in files]
    assert sum(float(line.split("%")[0]) for line in lines[1:6]) <= 100.01


def test_classify_missing_image(capsys):
    assert main(["classify", "no-such-file.png"]) == 2
    assert "no-such-file.png" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_verify_on_a_folder(model, digit_files, tmp_path, capsys):
    dump = tmp_path / "layers.safetensors"
    assert main(["verify", model, "--images", str(digit_files), "--batch", "2", "--dump", str(dump)]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 images given the original's class (100.00%)" in out and "✗" not in out
    tensors = load_file(dump)
    assert {name.split("/")[0] for name in tensors} == {"original", "course"}
    assert all(t.isfinite().all() for t in tensors.values())


def test_verify_fails_on_a_wrong_model(monkeypatch, digit_files, capsys):
    from course import commands

    load, load_original, shipped = commands.LOADERS["resnet18"]

    def load_wrong(source):
        model = load(source)
        with torch.no_grad():
            model.layer3[0].conv1.weight *= 1.01
        return model

    monkeypatch.setitem(commands.LOADERS, "resnet18", (load_wrong, load_original, shipped))
    assert main(["verify", "resnet18", "--images", str(digit_files)]) == 1
    assert "✗ layer3.0.conv1" in capsys.readouterr().out


@pytest.mark.parametrize("model, parameters, gflop", [("vit", "86,567,656", 35.1), ("resnet18", "11,689,512", 3.63)])
def test_info(model, parameters, gflop, capsys):
    """Parameters as transformers and torchvision document them; two operations a multiply-add."""
    assert main(["info", model]) == 0
    total = capsys.readouterr().out.splitlines()[-1].split()
    assert total[0] == "total" and total[-2] == parameters and float(total[-1]) == pytest.approx(gflop, rel=0.01)
