import json
import shutil

import pytest

from course import data
from course.__main__ import main
from course.commands.evaluate import label_indices


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve digits in a folder a class; one of them in a wrong one."""
    folder = tmp_path_factory.mktemp("evaluate")
    scans, labels = data.digit_scans("test")
    for i in range(12):
        name = str(labels[i].item()) if i != 5 else str((labels[i].item() + 1) % 10)
        (folder / name).mkdir(exist_ok=True)
        scans[i].save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_digits(model, folders, capsys):
    assert main(["evaluate", model, "--images", str(folders), "--batch", "5"]) == 0
    first, five = capsys.readouterr().out.splitlines()
    assert first == "top-1    91.67%  11 of 12" and five.startswith("top-5") and five.endswith(" of 12")


def test_as_json(folders, broken, tmp_path, capsys):
    """What cannot be read is named, and not counted; what lies in no class's folder is not looked at."""
    shutil.copytree(folders, tmp_path / "digits")
    shutil.copy(broken, tmp_path / "digits" / "3" / "broken.png")
    shutil.copy(broken, tmp_path / "digits" / "outside.png")
    assert main(["evaluate", "vit", "--images", str(tmp_path / "digits"), "--json"]) == 2
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer.pop("top5") >= answer["top1"]
    assert answer == {"model": "vit", "images": 12, "top1": pytest.approx(11 / 12), "unreadable": 1}
    loaded, outside, skipped = err.splitlines()
    assert outside.startswith("not counted: 1 in no class folder") and "outside.png" in outside
    assert "3/broken.png" in skipped


def test_nothing_to_evaluate(broken, tmp_path, capsys):
    (tmp_path / "a" / "3").mkdir(parents=True)
    for folder, words in ((tmp_path / "a", "no image"), (tmp_path / "missing", "no folder")):
        assert main(["evaluate", "vit", "--images", str(folder)]) == 2
        assert words in capsys.readouterr().err
    broken.rename(tmp_path / "a" / "3" / "broken.png")
    assert main(["evaluate", "vit", "--images", str(tmp_path / "a")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("course: evaluate: none of the images")


def test_images_outside_of_folders(digit_files, capsys):
    assert main(["evaluate", "vit", "--images", str(digit_files[0].parent)]) == 2
    assert "expected class folders" in capsys.readouterr().err


CLASSES = ["tench", "Küche", "crane", "crane", "great white shark", "1"]


@pytest.mark.parametrize("folders, indices", [
    (["Tench", "great_white_shark"], [0, 4]),
    (["0", "2", "003"], [0, 2, 3]),
    (["1"], [5]),  # a name first
    (["Ku\u0308che"], [1]),  # as macOS writes it
    (["n05", "n01", "n02", "n03", "n04", "n06"], [4, 0, 1, 2, 3, 5]),
])
def test_labels(folders, indices):
    assert label_indices(folders, CLASSES) == dict(zip(folders, indices))


@pytest.mark.parametrize("folders, words", [
    (["crane"], "2 and 3"), (["n01", "n02"], "n01"), (["tench", "n02"], "n02"), (["6"], "from 0 to 5"), (["-1"], "-1"),
    ([], "class folders"), (["²"], "²"),
])
def test_no_labels(folders, words):
    with pytest.raises(ValueError, match="^evaluate: ") as caught:
        label_indices(folders, CLASSES, "val")
    assert words in str(caught.value) and "\n" not in str(caught.value)
