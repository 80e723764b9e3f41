import ast
from pathlib import Path

import pytest

from course import files

COURSE = Path(files.__file__).parent


def test_every_text_is_utf_8():
    """Read and written as such by name: the default is the machine's, and not UTF-8 everywhere."""
    unnamed = []
    for file in COURSE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
                if "encoding" not in {keyword.arg for keyword in node.keywords}:
                    unnamed.append(f"{file}:{node.lineno}")
    assert not unnamed, unnamed


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new folder" / "file"
    files.write_whole(file, "before")
    monkeypatch.setattr("pathlib.Path.replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_whole(file, "after")
    assert file.read_text() == "before" and list(file.parent.iterdir()) == [file]


def test_nothing_partial_is_left_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "file") as partial:
        partial.write_bytes(b"half of it")
        assert partial.parent == tmp_path
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
