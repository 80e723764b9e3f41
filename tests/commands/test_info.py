import pytest

from course.__main__ import main
from course.load_weights import DIGITS_RESNET18


@pytest.mark.parametrize("model, parameters, gflop", [
    ("vit", "86,567,656", 35.1), ("resnet18", "11,689,512", 3.63), ("resnet50", "25,557,032", 8.18),
    ("resnext50_32x4d", "25,028,904", 8.46),
])
def test_architectures(model, parameters, gflop, capsys):
    """Parameters as transformers and torchvision document them; two operations a multiply-add."""
    assert main(["info", model]) == 0
    out, err = capsys.readouterr()
    total = out.splitlines()[-1].split()
    assert total[0] == "total" and total[-2] == parameters and float(total[-1]) == pytest.approx(gflop, rel=0.01)
    assert err.startswith(f"{model}: ") and err.endswith(", as for ImageNet, without weights\n")


def test_a_file(capsys):
    assert main(["info", str(DIGITS_RESNET18)]) == 0
    out, err = capsys.readouterr()
    assert "10 classes" in err and out.splitlines()[-1].split()[2] == "1×10"
