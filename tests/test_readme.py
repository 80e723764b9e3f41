"""README's code, as a reader runs it: each block of Python in a process of its own, each command of the course."""
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from course import data
from course.__main__ import main, parser
from course.runtime import INTERPRET

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
LINES = [line.partition(" #")[0].strip() for language, code in BLOCKS if language == "bash"
         for line in code.replace("\\\n", " ").splitlines() if line.strip()]

STAND_INS = {
    'load_vit("google/vit-base-patch16-224")': "load_vit()",
    'weights="IMAGENET1K_V1"': "weights=None",
}
"""In README: what stands in its place here, where nothing is downloaded."""


def test_every_block_is_one_that_is_tested():
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert all(re.search(re.escape(text), "".join(PYTHON)) for text in STAND_INS)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: " ".join(re.findall(r"\w+", code)[:4]))
def test_python(code, tmp_path):
    data.photos()["china.jpg"].save(tmp_path / "photo.jpg")
    for text, stand_in in STAND_INS.items():
        code = code.replace(text, stand_in)
    if INTERPRET:
        code = code.replace(".cuda()", "")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: " ".join(re.findall(r"\w+", code)[:4]))
def test_course_is_imported_before_others_that_import_triton(code):
    """Some versions of them do, and then it is too late for the interpreter."""
    imported = [module for names in re.findall(r"^(?:import|from) (.*?)(?: import .*)?$", code, re.MULTILINE)
                for module in re.findall(r"\w[\w.]*", names)]
    first = min((i for i, module in enumerate(imported) if module.split(".")[0] == "course"), default=len(imported))
    assert not {"torchvision", "transformers", "timm", "triton"} & set(imported[:first])


@pytest.mark.parametrize("line", LINES)
def test_bash(line, capsys):
    for command in line.split("&&"):
        match shlex.split(command):
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            case ["git", "clone", address] | ["python", "-m", "pip", "install", address] if "://" in address:
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                assert project["urls"]["Repository"] in address
            case ["python", "-m", "pip", "install", "-r", file]:
                assert (ROOT / file).is_file()
            case ["python", "-m", "pip", "install", ("-e" | "."), *_] | ["cd", _]:
                pass
            case ["python", "-m", "course", *arguments] | ["course", *arguments]:
                options = parser().parse_args(arguments)  # SystemExit where there is no such command or option
                if not needs_more(vars(options)):
                    assert main(arguments) == 0 and capsys.readouterr().out
            case words:
                pytest.fail(f"{words[0]} is nothing that this test knows")


def needs_more(options: dict) -> bool:
    """Whether a command downloads something, reads the reader's own files, measures for long, or needs a GPU."""
    command = options["command"]
    return bool(options.get("images") or command == "tune" or command == "bench" and not INTERPRET)
