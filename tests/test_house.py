"""The house: what imports what, how many files a folder has, what an import loads, how many files a call goes through.

CONTRIBUTING.md, "What may import what", has the floors.
"""
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from course import lab, runtime
from course.kernels import conv2d, linear
from course.lab.checking.exercise import find
from course.runtime import INTERPRET
from tests import house

ROOT = Path(__file__).parents[1]
FOLDERS = ("course", "benchmarks", "posts")
FLOORS = house.floors((ROOT / "CONTRIBUTING.md").read_text())

MOST_FILES = 20
"""In a folder of the course."""


def test_imports_go_down():
    found = house.problems(house.imports(ROOT, FOLDERS), FLOORS)
    assert not found, "\n".join(found)


def test_folders_are_small():
    sizes = Counter(file.parent for file in (ROOT / "course").rglob("*.py"))
    assert len(sizes) > 10
    assert not {str(folder): n for folder, n in sizes.items() if n > MOST_FILES}


# -- What an import loads ----------------------------------------------------------------------------------------------


def loaded(statement):
    """The modules of the course that a new process has after `statement`."""
    code = f"import sys; {statement}; print(*[m for m in sys.modules if m.partition('.')[0] == 'course'])"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_course_itself_is_cheap():
    assert loaded("import course") <= {"course", "course.runtime", "course.interpreter"}


def test_kernels_load_kernels_and_the_ground_floor():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    last = [line for line in text.partition(house.HEADING)[2].partition("\n## ")[0].splitlines() if line[:1] == "|"][-1]
    (ground, *lower) = house.floors(f"\n{house.HEADING}\n{last}")
    assert "course/tuning.py" in ground and "course/runtime.py" in lower[-1]
    allowed = {house.module_name(Path(path)) for floor in (ground, *lower) for path in floor}
    found = loaded("from course.kernels import add")
    more = {name for name in found - allowed - {"course"} if not f"{name}.".startswith("course.kernels.")}
    assert {"course.kernels.elementwise.add", "course.operators"} <= found and not more, more


# -- Through how many files a call goes --------------------------------------------------------------------------------


def trip(call):
    """(files of the course that a warm call() enters, in their order; how often it enters one it is already in)."""
    call()
    call()
    course = str(ROOT / "course") + "/"
    order, stack, returns = [], [], []

    def profile(frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith(course):
            return
        file = file.removeprefix(course)
        if event == "call":
            if file not in order:
                order.append(file)
            if file in stack and file != stack[-1]:
                returns.append(f"{stack[-1]} calls back into {file}")
            stack.append(file)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return order, returns


@pytest.fixture
def launches_do_nothing(monkeypatch):
    """In the interpreter a kernel's body is Python, too, and would be counted: no launch runs it."""
    if INTERPRET:
        from triton.runtime.interpreter import InterpretedFunction

        monkeypatch.setattr(InterpretedFunction, "run", lambda self, *args, **kwargs: None)


@pytest.mark.parametrize("operation, shapes", [
    (conv2d, [(2, 16, 8, 8), (32, 16, 3, 3)]), (linear, [(8, 16), (32, 16)]),
], ids=["conv2d", "linear"])
@pytest.mark.usefixtures("launches_do_nothing")
def test_an_operation_goes_through_few_files(operation, shapes, device):
    tensors = [torch.randn(shape, device=device) for shape in shapes]
    order, returns = trip(lambda: operation(*tensors))
    assert len(order) <= 8, order
    assert len(returns) <= 1, returns


def test_a_check_goes_through_few_files():
    exercise = find("vector_add.fill_in")
    answer = exercise.build(exercise.answer)
    runtime.has_tensor_cores()  # asked once a GPU, and remembered
    order, _ = trip(lambda: lab.check("vector_add.fill_in", answer))
    timing = {"lab/measuring/speed.py", "timing.py"}  # on a GPU the answer is timed as well
    assert len(set(order) - timing) <= 10, order
    assert not INTERPRET or not timing & set(order)


# -- The tests above themselves ----------------------------------------------------------------------------------------

TABLE = f"""
{house.HEADING}

Words, and `course/nothing.py`.

| floors | |
|---|---|
| `course/top.py` → `course/__init__.py` | up here |
| `course/a/`, `course/b/` → `course/a/low.py` | families |
| `course/ground.py` | imports nothing |

## Another heading

| `course/other.py` | |
"""

FILES = {
    "course/__init__.py": "from course import ground",
    "course/top.py": "import course\nfrom course.a import x",
    "course/a/__init__.py": "",
    "course/a/x.py": "from course import ground\nfrom course.a import low\nimport torch",
    "course/a/y.py": "from course.a.x import f\nfrom .low import g\nfrom .. import ground",
    "course/a/low.py": "import course.ground",
    "course/b/__init__.py": "def late():\n    from course import ground",
    "course/ground.py": "",
}


@pytest.fixture
def tree(tmp_path):
    """Writes a small course, with other contents in some files, and tells its problems."""

    def problems(changed=()):
        for path, text in {**FILES, **dict(changed)}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return house.problems(house.imports(tmp_path, ("course",)), house.floors(TABLE))

    return problems


def test_floors_are_read():
    assert house.floors(TABLE) == [
        ["course/top.py"], ["course/__init__.py"], ["course/a/", "course/b/"], ["course/a/low.py"],
        ["course/ground.py"],
    ]


def test_imports_are_read(tree, tmp_path):
    assert tree() == []
    graph = house.imports(tmp_path, ("course",))
    assert graph["course/a/y.py"] == {"course/a/x.py", "course/a/low.py", "course/ground.py"}
    assert graph["course/top.py"] == {"course/__init__.py", "course/a/x.py"}
    assert graph["course/b/__init__.py"] == {"course/ground.py"}


@pytest.mark.parametrize("statement", [
    "from course.top import x", "from course import top", "import course.top", "from . import top",
    "def f():\n    if f:\n        from course.top import x", "class C:\n    import course.top as t",
    "try:\n    pass\nexcept ImportError:\n    from course.top import x",
])
def test_an_import_that_goes_up(tree, statement):
    expected = ["course/ground.py imports course/top.py, which is above it"]
    assert tree({"course/ground.py": statement})[:1] == expected


def test_a_stub_counts_as_its_module(tree, tmp_path):
    tree()
    (tmp_path / "course" / "ground.pyi").write_text("from course.top import x as x")
    assert "course/ground.py imports course/top.py, which is above it" in tree()


def test_a_program_may_import_what_it_likes(tree):
    assert tree({"course/ground.py": 'if __name__ == "__main__":\n    from course.top import x'}) == []
    assert tree({"course/ground.py": 'if __name__ != "__main__":\n    from course.top import x'}) != []


def test_an_import_of_another_family(tree):
    assert tree({"course/b/__init__.py": "from course.a.x import f"}) == [
        "course/b/__init__.py imports course/a/x.py, which is beside it"
    ]
    assert tree({"course/b/__init__.py": "from course.a.low import f"}) == []  # which has a floor of its own, below


@pytest.mark.parametrize("statement", ["from course.a.y import g", "def f():\n    from course.a import y"])
def test_a_circle(tree, statement):
    assert tree({"course/a/x.py": statement}) == ["a circle: course/a/x.py → course/a/y.py → course/a/x.py"]


def test_every_file_has_a_floor_and_every_floor_a_file(tree, tmp_path):
    assert tree({"course/new.py": ""}) == ["course/new.py is on no floor"]
    (tmp_path / "course" / "new.py").unlink()
    (tmp_path / "course" / "b" / "__init__.py").unlink()
    assert house.problems(house.imports(tmp_path, ("course",)), house.floors(TABLE)) == [
        "course/b/ is a floor without a file"
    ]


def test_trips_are_counted(tmp_path, monkeypatch):
    """Files once each, a call back into a file that has not returned yet every time."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    first = tmp_path / "course" / "first.py"
    second = tmp_path / "course" / "second.py"
    names = {}
    for file, code in ((first, "def start():\n    inner()\n    middle()\n    middle()\ndef inner(): pass"),
                       (second, "def middle():\n    inner()")):
        exec(compile(code, str(file), "exec"), names)
    assert trip(names["start"]) == (["first.py", "second.py"], ["second.py calls back into first.py"] * 2)
