"""README, the other pages beside it and the posts: where their links lead, and where their figures come from."""
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import figures
from benchmarks.__main__ import main
from course.lab.pictures.picture import Picture
from posts.draw import FOLDER, drawings, shown, words
from tests.links import anchors, broken_links, links, numbered_chapters

ROOT = Path(__file__).parents[1]
POSTS = sorted((ROOT / "posts").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *POSTS]
SOURCES = [file for folder in ("course", "benchmarks", "posts", "tests") for file in (ROOT / folder).rglob("*.py")]
HARDWARE = json.loads((ROOT / "benchmarks" / "results" / "nvidia-h200" / "hardware.json").read_text())

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
each_post = pytest.mark.parametrize("path", POSTS, ids=lambda path: path.stem)


@each_page
def test_links_lead_somewhere(path):
    text = path.read_text()
    problems = broken_links(text, path.parent, anchors(text, in_notebook=False))
    assert not problems, problems


@each_page
def test_chapters_have_names_and_no_numbers(path):
    assert not numbered_chapters(path.read_text())


def test_chapters_have_no_numbers_in_the_code_either():
    found = {str(file.relative_to(ROOT)): numbered_chapters(file.read_text()) for file in SOURCES}
    assert not {file: numbers for file, numbers in found.items() if numbers}


@each_page
def test_figures_are_the_measured_ones(path):
    problems = figures.problems(path.read_text())
    assert not problems, "\n".join(problems)


@each_post
def test_figures_say_where_they_come_from(path):
    assert not figures.unsourced(path.read_text())


@each_post
def test_one_title(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_pictures_are_those_that_are_drawn():
    shown = {Path(target).name for path in POSTS for target in links(path.read_text()) if "figures/" in target}
    assert shown == {file.name for file in FOLDER.iterdir()} == set(drawings())


@pytest.mark.parametrize("name", drawings())
def test_pictures_say_what_the_posts_say_of_them(name):
    """Where a picture shows measurements, the words change with them: `python -m posts.draw` writes both."""
    picture = drawings()[name]()
    assert isinstance(picture, Picture) and len(str(picture)) > 40
    alternatives = [alt for path in POSTS for alt in shown(name).findall(path.read_text())]
    assert alternatives and set(alternatives) == {words(picture)}


class TestFigures:
    def test_right(self):
        copied = f"{HARDWARE['copy_gbps']:,}<!-- = hardware.copy_gbps --> GB/s"
        assert figures.problems(f"It copies {copied}.") == figures.unsourced(copied) == []

    def test_to_the_digits_that_are_written(self):
        for figure in ("3.14", "3.142", "3", "3.1416"):
            assert figures.problems(f"{figure}<!-- = 3.14159 -->") == []
        for figure in ("3.15", "3.141", "4", "3.1415"):
            assert figures.problems(f"{figure}<!-- = 3.14159 -->") != []

    @pytest.mark.parametrize("text, words", [
        ("4,000<!-- = hardware.copy_gbps -->", "4,000 is now 4,"),
        ("1<!-- = hardware.nothing -->", "AttributeError"),
        ("1<!-- = open('README.md') -->", "NameError"),
        ('1<!-- = kernel("add", "1", "fp64", "course").gbps -->', "LookupError: kernels: 0 rows are stored for add, 1"),
        ('1<!-- = notebook("vector_add", 3, "PyTorch").gbps -->', "LookupError: vector_add: 0 rows"),
    ])
    def test_wrong(self, text, words):
        assert words in figures.problems(text)[0]

    def test_rows(self, monkeypatch):
        cell = {"model": "vit-b16", "dtype": "bf16", "batch": 1, "provider": "timm", "mode": "graph"}
        rows = [{**cell, "median_ms": 2.5}, {**cell, "mode": "eager", "median_ms": 3.5}]
        monkeypatch.setattr(figures, "read", lambda what, gpu: type("Table", (), {"rows": rows}))
        assert figures.value('2 * model("vit-b16", "bf16", 1, "timm", "graph").median_ms') == 5
        assert figures.value('notebook("vector_add", 2**28, "PyTorch").gbps') > 1000

    def test_ratios(self, monkeypatch):
        races = {
            ("conv2d", "1×3", "fp16"): 2.0, ("conv2d", "1×9", "fp16"): 8.0, ("conv2d", "16×3", "fp16"): 5.0,
            ("add", "1", "fp16"): 7.0,
        }
        races = {cell: SimpleNamespace(ratio=ratio) for cell, ratio in races.items()}
        table = SimpleNamespace(rows=[], races=lambda: races)
        monkeypatch.setattr(figures, "read", lambda what, gpu: table)
        assert figures.value('geometric_mean(ratios("kernel", "conv2d", "1×"))') == pytest.approx(4)
        assert figures.value('min(ratios("kernel", "conv2d"))') == 2

    def test_unsourced(self):
        text = "4 GB/s, 0.25 ms and 3\nmicroseconds, `5 ms`, 7<!-- source: a paper --> ns, 8<!-- = 8 --> TFLOP/s"
        assert figures.unsourced(text) == ["4 GB/s", "0.25 ms", "3 microseconds"]

    def test_refreshed(self):
        text = "`1<!-- = 2 -->` 1.00<!-- = 2 / 3 --> 1,000<!-- = 1234567 --> 5<!-- source: a paper -->"
        assert figures.refreshed(text) == (
            "`1<!-- = 2 -->` 0.67<!-- = 2 / 3 --> 1,234,567<!-- = 1234567 --> 5<!-- source: a paper -->"
        )

    def test_command(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(importlib.import_module("benchmarks.__main__"), "POSTS", tmp_path)
        (tmp_path / "a.md").write_text("1<!-- = 2 -->")
        (tmp_path / "b.md").write_text("nothing")
        assert main(["posts"]) == 0
        assert (tmp_path / "a.md").read_text() == "2<!-- = 2 -->"
        assert capsys.readouterr().out == "a.md\n"


@pytest.mark.parametrize("text, found", [
    (f"as in chapter {4}.", [f"chapter {4}"]),
    (f"Chapter\n{2}'s tiles", [f"Chapter {2}"]),
    (f"chapters {2} and {6}", [f"chapters {2}"]),
    (f"chapters [{1}](vector_add.ipynb)", [f"chapters [{1}"]),
    (f"[{4} · Matrix product](matmul.ipynb)", [f"[{4} · Matrix product](matmul.ipynb"]),
    (f"[{4:02}_matmul.ipynb](x)", [f"{4:02}_matmul"]),
    ("the chapter on [matrix products](matmul.ipynb), 3 of 10_000 chapters; programming-guide/chapter-1", []),
])
def test_numbers_of_chapters_are_found(text, found):
    assert numbered_chapters(text) == found


def test_the_lint_itself_finds_what_it_looks_for(tmp_path):
    (tmp_path / "b.md").write_text("# `Code`: a *title*\n\n```\n# no heading\n```\n")
    text = (
        "# A. Heading\n[a](#a-heading) [b](#A-heading) [c](b.md) [d](c.md) [e](b.md#code-a-title) [f](b.md#no-heading) "
        '`[g](h)` [h](https://example.org) <img src="x.png">'
    )
    problems = broken_links(text, tmp_path, anchors(text, in_notebook=False))
    assert problems == ["#A-heading", "c.md", "b.md#no-heading", "x.png"]
