"""What can be told of a notebook without running it."""
import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from benchmarks import figures
from course import lab
from tests.links import anchors, broken_links, links, notebook_text, numbered_chapters
from tests.test_exercises import EXERCISES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
CHAPTERS = [line for line in (FOLDER / "chapters.txt").read_text().splitlines() if not line.startswith("#")]
NOTEBOOKS = [FOLDER / f"{chapter}.ipynb" for chapter in CHAPTERS]
WITH_EXERCISES = {e.name.partition(".")[0] for e in EXERCISES}
COMPLETE = [path for path in NOTEBOOKS if path.stem in WITH_EXERCISES]

BUILD_A_KERNEL = {"vector_add", "softmax", "layer_norm", "matmul", "conv2d", "attention", "building_blocks"}
"""The chapters that go from an operation in PyTorch to the finished kernel, step by step."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_chapter = pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
each_kernel_chapter = pytest.mark.parametrize(
    "path", [path for path in COMPLETE if path.stem in BUILD_A_KERNEL], ids=lambda path: path.stem
)

ENDING = ["Exercises", "Summary", "Quiz", "What comes next", "References"]
HEADINGS = [
    "The operation in PyTorch", "The kernel, in steps", "The finished kernel", "Exercises", "The measured figure",
    "Summary", "Quiz", "What comes next", "References",
]

FIGURES = {  # sentences with measured figures in them, and where those come from
    "start_here": ["An H200 has {multiprocessors} multiprocessors"],
    "vector_add": [
        "an H200 has {multiprocessors} of them. This kernel leaves {multiprocessors_less_one} idle",
        "the GPU could do {operations_per_byte:.0f} for each single one",
    ],
    "matmul": [
        "An H200 has time for {operations_per_byte:.0f} operations for each byte",
        "An H200 has {multiprocessors} multiprocessors: at one program each",
        "on {multiprocessors} multiprocessors, 84 have nothing to do",
    ],
    "conv2d": [
        "288 operations a byte, where the hardware's balance is {operations_per_byte:.0f}",
        "eight tiles of 64 × 64, for {multiprocessors} multiprocessors",
    ],
    "attention": ["The GPU has time for {operations_per_byte:.0f} operations a byte"],
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_chapters_are_all_in_the_list():
    assert sorted(CHAPTERS) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    assert WITH_EXERCISES <= set(CHAPTERS)


def table(text: str) -> list[str]:
    """The notebooks that the rows of a text's tables link to, by name."""
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| ["))
    return [Path(target).stem for target in links(rows) if target.endswith(".ipynb")]


def test_tables_have_the_chapters_in_their_order():
    assert table((ROOT / "README.md").read_text()) == CHAPTERS
    assert table(prose(read(FOLDER / "start_here.ipynb"))) == [c for c in CHAPTERS if c != "start_here"]


def test_make_learn_opens_the_first_chapter():
    assert f"default_url=/lab/tree/notebooks/{CHAPTERS[0]}.ipynb " in (ROOT / "Makefile").read_text()


@each_notebook
def test_chapters_have_names_and_no_numbers(path):
    notebook = read(path)
    sources = "\n\n".join(cell.source for cell in notebook.cells)
    assert not numbered_chapters(sources) and not numbered_chapters(notebook_text(notebook))


@each_notebook
def test_executed_in_order(path):
    counts = [cell.execution_count for cell in code_cells(read(path))]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_stored_without_errors(path):
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source


@each_notebook
def test_kernel_is_anybody_s(path):
    assert read(path).metadata.kernelspec.name == "python3"


@each_notebook
def test_links_lead_somewhere(path):
    text = notebook_text(read(path))
    problems = broken_links(text, path.parent, anchors(text, in_notebook=True))
    assert not problems, problems


def shape_of(function: ast.FunctionDef) -> str:
    """The code of a function without its name, docstring and the names of its variables."""
    names = {}

    class Anonymous(ast.NodeTransformer):
        def visit_Name(self, node):
            return ast.Name(names.setdefault(node.id, f"v{len(names)}") if node.id != "tl" else "tl", ast.Load())

        def visit_arg(self, node):
            return ast.arg(names.setdefault(node.arg, f"v{len(names)}"))

    body = function.body[ast.get_docstring(function) is not None :]
    return ast.dump(Anonymous().visit(ast.Module([function.args, *body], [])))


def kernels(source: str) -> dict[str, str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {shape_of(f): f.name for f in functions if any("triton.jit" in ast.unparse(d) for d in f.decorator_list)}


def copied_kernels(notebook):
    ours = {}
    for file in (ROOT / "course" / "kernels").rglob("*.py"):
        ours |= kernels(file.read_text())
    found = [kernels(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)) for cell in code_cells(notebook)]
    return [f"{name} is {ours[shape]}" for cell in found for shape, name in cell.items() if shape in ours]


@each_notebook
def test_no_kernel_is_copied_from_the_package(path):
    assert not copied_kernels(read(path))


@each_chapter
def test_anatomy(path):
    notebook = read(path)
    assert re.match(r"# [A-Z]", notebook.cells[0].source)
    opening = [cell for cell in code_cells(notebook) if any("image/png" in o.get("data", {}) for o in cell.outputs)][0]
    assert notebook.cells.index(opening) < 4, "a picture comes first"
    text = prose(notebook)
    for words in ("**You will be able to**", "**You need**", "**It takes**"):
        assert words in text.split("\n## ")[0], words
    assert [h for h in level_two(text) if h in ENDING] == ENDING
    assert any("# NBVAL_CHECK_OUTPUT" in cell.source for cell in code_cells(notebook))


def level_two(text):
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


@each_kernel_chapter
def test_anatomy_of_a_kernel_s_chapter(path):
    notebook = read(path)
    text = prose(notebook)
    assert [h for h in level_two(text) if h in HEADINGS] == HEADINGS
    assert len(re.findall(r"^### Step \d", text, re.MULTILINE)) >= 3
    source = "\n".join(cell.source for cell in code_cells(notebook))
    for call in ("lab.draw_access(", "lab.show_source(", "lab.bench("):
        assert call in source, call


@each_kernel_chapter
def test_each_step_is_a_kernel_with_a_measurement(path):
    text = "\n".join(("" if cell.cell_type == "code" else "\n") + cell.source for cell in read(path).cells)
    steps = re.split(r"^### Step \d.*$", text.split("\n## The finished kernel")[0], flags=re.MULTILINE)[1:]
    for step in steps:
        step = step.split("\n## ")[0]
        assert "lab.bench(" in step or "lab.draw_access(" in step, step[:200]


@each_chapter
def test_quiz_explains_every_wrong_answer(path):
    quiz = prose(read(path)).split("\n## Quiz")[1].split("\n## ")[0]
    questions = re.split(r"^(?=\*\*\d\. )", quiz, flags=re.MULTILINE)[1:]
    assert len(questions) >= 3
    for question in questions:
        asked, answer = question.split("<details>")
        letters = re.findall(r"\b([a-e])\) ", asked)
        assert len(letters) >= 3 and "</details>" in answer
        for letter in letters:
            assert f"{letter}) " in answer, f"{letter}) of {asked}"


@each_chapter
def test_exercises_are_those_of_the_package(path):
    notebook = read(path)
    cells = [cell.source for cell in notebook.cells]
    exercises = [e for e in EXERCISES if e.name.startswith(f"{path.stem}.")]
    assert len(exercises) >= 3
    for exercise in exercises:
        at = cells.index(exercise.task)
        assert cells[at + 1] == exercise.stub
        assert cells[at + 2] == f'lab.check("{exercise.name}", {exercise.solution[-1].__name__})'
        assert cells[at + 3] == f'# lab.hint("{exercise.name}")\n# lab.solution("{exercise.name}")'


@pytest.mark.parametrize("name", FIGURES)
def test_figures_in_prose_are_the_measured_ones(name):
    text = " ".join(prose(read(FOLDER / f"{name}.ipynb")).replace("*", "").split())
    h200 = lab.hardware("nvidia-h200")
    h200["multiprocessors_less_one"] = h200["multiprocessors"] - 1
    h200["operations_per_byte"] = 1e3 * h200["matmul_bf16_tflops"] / h200["copy_gbps"]
    for sentence in FIGURES[name]:
        assert sentence.format(**h200) in text


@each_notebook
def test_figures_that_name_their_source_are_the_stored_ones(path):
    """As in the posts; `tests/test_text.py` tests the lint itself."""
    problems = figures.problems(prose(read(path)))
    assert not problems, "\n".join(problems)


def test_the_lint_itself_finds_what_it_looks_for():
    source = ast.parse((ROOT / "course" / "kernels" / "elementwise" / "pointwise.py").read_text())
    (kernel,) = [node for node in source.body if getattr(node, "name", "") == "flat_kernel"]
    copy = ast.unparse(kernel)
    for ours, mine in (("flat_kernel", "mine"), ("x_ptr", "p"), ("offs", "o"), ("inside", "m")):
        copy = re.sub(rf"\b{ours}\b", mine, copy)
    notebook = new_notebook(cells=[
        new_markdown_cell("# A heading\n[a](#A-heading) [b](#Another) [c](../README.mdx) `[d](e)` [f](https://example.org)"),
        new_code_cell(copy),
    ])
    assert copied_kernels(notebook) == ["mine is flat_kernel"]
    text = notebook_text(notebook)
    problems = broken_links(text, FOLDER, anchors(text, in_notebook=True))
    assert problems == ["#Another", "../README.mdx"]
