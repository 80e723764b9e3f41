"""`course.lab` itself: what it names, what using it loads, and that its wings import downwards alone."""
import ast
import inspect
import os
import subprocess
import sys

import pytest

from course import lab
from course.results import ROOT

WINGS = ["checking", "measuring", "pictures", "interpret"]
"""Each may import those after it."""

MODULES = sorted((ROOT / "course" / "lab").rglob("*.py"))

CHECK = """
import sys
from course import lab
from course.lab.checking.exercise import find

solution = find("vector_add.fill_in")
assert lab.check("vector_add.fill_in", solution.build(solution.answer)).passed
print(*sys.modules)
"""


def test_every_function_is_found_and_listed():
    assert dir(lab) == sorted(lab.__all__) and len(set(lab.__all__)) == len(lab.__all__)
    for name in lab.__all__:
        function = getattr(lab, name)
        assert callable(function) and function.__doc__ and function.__name__ == name
        assert getattr(lab, name) is function
    assert [*inspect.signature(lab.check).parameters] == ["exercise", "function", "seconds"]
    with pytest.raises(AttributeError, match="module 'course.lab' has no attribute 'chek'"):
        lab.__getattr__("chek")


def test_a_check_loads_no_model_and_draws_nothing():
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    loaded = set(done.stdout.split())
    assert "course.lab.checking.check" in loaded
    assert not loaded & {
        "course.vit", "course.resnet", "course.nn", "course.load_weights", "course.verify", "course.kernels",
        "matplotlib", "transformers", "torchvision", "timm", "safetensors",
    }


def imported(path):
    """The modules of course that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "course" / "lab")))
def test_imports_go_down(path):
    names = [name.split(".") for name in imported(path) if name.startswith("course.")]
    assert not [name for name in names if name[1] == "exercises"]
    wing = path.parent.name
    below = WINGS[WINGS.index(wing):] if wing in WINGS else []
    assert not [".".join(name) for name in names if name[1] == "lab" and name[2] not in below]


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_it_is_for_and_holds_nothing_else(wing):
    (docstring,) = ast.parse((ROOT / "course" / "lab" / wing / "__init__.py").read_text()).body
    assert isinstance(docstring.value.value, str)
