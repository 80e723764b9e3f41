"""`sanitize`, with a script in compute-sanitizer's place."""
import os
import sys

from course import lab
from course.lab.measuring import sanitizer as module, stored


def test_the_sanitizer_s_lines_are_kept(monkeypatch, tmp_path):
    """A script in compute-sanitizer's place runs the program, as the real one does, and prints lines of its own."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "========= $1 $2"\nwhile [ "$1" != "$PYTHON" ]; do shift; done\n"$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setattr(stored, "INTERPRET", False)
    monkeypatch.delenv("COURSE_STORE", raising=False)
    where = {"gpu": "X", "driver": "1", "versions": {}, "commit": "c", "date": "2026-01-02"}
    monkeypatch.setattr(module, "circumstances", lambda: where)
    program = "import os\nprint('not this')\nprint('=========', os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'])"
    shown = repr(lab.sanitize("s", program))
    assert shown.startswith("```text\n========= --tool memcheck\n========= 1\n```")
    assert "Measured on this X" in shown


def test_a_long_report_is_cut():
    result = {"gpu": "X", "driver": "1", "versions": {}, "commit": "c", "date": "2026-01-02",
              "report": [f"========= {i}" for i in range(99)]}
    shown = repr(module.draw_report(result, "Measured on this"))
    assert "========= 11\n… 85 more lines\n========= 97\n========= 98\n" in shown and "= 12\n" not in shown


def test_without_the_sanitizer_or_a_report(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    monkeypatch.setattr(stored, "INTERPRET", False)
    monkeypatch.setattr(module, "find_sanitizer", lambda: None)
    assert "No compute-sanitizer here" in repr(lab.sanitize("s", ""))
