"""What `pip install` makes of the repository: the wheel, the source distribution, and what they need."""
import ast
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import yaml
from PIL import Image
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import course
from course import data, kernels
from course.__main__ import parser
from course.kernels.elementwise import gelu
from course.kernels.parts.activation import ACTIVATIONS, Activation
from course.load_weights import load_resnet, load_vit
from course.nn import replace_layers
from course.resnet import ResNet, resnet18
from course.vit import ViT

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]

BUILD = "import setuptools.build_meta as backend, sys; backend.build_sdist(sys.argv[1])"
BUILD_WHEEL = BUILD.replace("sdist", "wheel")


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)


def succeed(*command, **options) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def name_of(requirement: str) -> str:
    """The distribution's name, in the one spelling that compares."""
    return canonicalize_name(Requirement(requirement).name)


def repository_files() -> set[str]:
    """What belongs to the repository: in a clone, what git knows or would add; elsewhere, what the sdist brought."""
    if (ROOT / ".git").exists():
        listed = succeed("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
        return {name for name in listed if (ROOT / name).is_file()}
    ignored = [pattern.strip("/") for pattern in (ROOT / ".gitignore").read_text().split()]
    made = {"PKG-INFO", "setup.cfg"}
    return {name for name in files_of(ROOT) - made if not any(
        Path(part).match(pattern) for part in Path(name).parts for pattern in ignored
    )}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the repository's files, the unpacked sdist, the wheel that is built from it); in seconds, without a network."""
    [required] = map(Requirement, PYPROJECT["build-system"]["requires"])
    if importlib.metadata.version("setuptools") not in required.specifier:
        pytest.skip(f"needs {required}")
    folder = tmp_path_factory.mktemp("built")
    files = repository_files()
    for name in files:
        target = folder / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    succeed(sys.executable, "-c", BUILD, folder, cwd=folder / "tree")
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "sdist", filter="data")
    [sdist] = (folder / "sdist").iterdir()
    before = files_of(sdist)
    succeed(sys.executable, "-c", BUILD_WHEEL, folder, cwd=sdist)
    for made in files_of(sdist) - before:
        (sdist / made).unlink()
    [wheel] = folder.glob("*.whl")
    return files, sdist, wheel


@pytest.fixture(scope="module")
def metadata(built):
    with zipfile.ZipFile(built[2]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(wheel.read(name).decode())


def test_wheel_holds_the_package_and_nothing_else(built):
    files, _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [entry_points] = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    about = f"triton_course-{course.__version__}.dist-info"
    assert {name for name in names if not name.startswith(about)} == {
        name for name in files if name.startswith("course/") and not re.match(r"course/checkpoints/\w+\.py", name)
    }
    assert {name.removeprefix(about) for name in names if name.startswith(about)} == {
        "/METADATA", "/RECORD", "/WHEEL", "/entry_points.txt", "/top_level.txt",
        "/licenses/LICENSE", "/licenses/LICENSE-text",
    }
    assert "course = course.__main__:main" in entry_points
    assert {"course/py.typed", "course/tuned/nvidia-h200.json", "course/checkpoints/vit-digits/model.safetensors",
            "course/checkpoints/resnet18-digits.safetensors"} < names


def test_sdist_holds_the_repository(built):
    files, sdist, _ = built
    added = {"PKG-INFO", "setup.cfg"} | {name for name in files_of(sdist) if name.startswith("triton_course.egg-info")}
    assert files_of(sdist) - added == files


def test_metadata(metadata):
    assert metadata["Name"] == "triton-course"
    assert metadata["Version"] == course.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    required = {f'{r}; extra == "{extra}"' for extra, requirements in EXTRAS.items() for r in requirements}
    assert set(metadata.get_all("Requires-Dist")) == required | set(PROJECT["dependencies"])
    assert metadata.get_all("Provides-Extra") == list(EXTRAS) == ["models", "notebooks", "test"]


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A folder that holds the wheel, installed."""
    folder = tmp_path_factory.mktemp("installed")
    succeed(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile",
            "--target", folder, built[2])
    return folder


class TestDependencies:
    """The installed wheel in a process that sees its dependencies and some extras, and no other package."""

    @pytest.mark.parametrize("extras, modules", [
        ((), "course course.kernels course.nn course.vit course.resnet course.fast.optimize course.commands.doctor"),
        (("models",), "course.load_weights course.data course.verify course.commands.verify course.commands.demo"),
        (("models", "notebooks"), "*"),
    ])
    def test_imports(self, installed, tmp_path, extras, modules):
        """"*": every module of the wheel."""
        program = f"""
import importlib, pkgutil, course
names = {modules!r}.split()
if names == ["*"]:
    names = [module.name for module in pkgutil.walk_packages(course.__path__, "course.")]
for name in names:
    if name != "course.__main__":
        importlib.import_module(name)
print(course.__file__, *names, sep="\\n")
"""
        done = self.python(installed, tmp_path, extras, "-c", program)
        assert done.returncode == 0, done.stderr
        file, *names = done.stdout.splitlines()
        assert Path(file) == installed / "course" / "__init__.py"
        if modules == "*":
            assert {"course.nn", "course.kernels.attention.hopper", "course.exercises.softmax"} < set(names)

    def test_other_packages_are_not_seen(self, installed, tmp_path):
        done = self.python(installed, tmp_path, (), "-c", "import pytest")
        assert "No module named 'pytest'" in done.stderr

    @pytest.mark.parametrize("command", ["classify vit photo.png", "evaluate vit --images photos", "verify vit"])
    def test_a_missing_extra_is_named(self, installed, tmp_path, command):
        done = self.python(installed, tmp_path, (), "-m", "course", *command.split())
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        [command, package] = re.fullmatch(
            r"course: (\w+) needs ([\w-]+): python -m pip install 'triton-course\[models\]'\n", done.stderr
        ).groups()
        assert done.args[4] == command and package.lower() in map(name_of, EXTRAS["models"])

    def python(self, installed, tmp_path, extras, *arguments):
        """Python without its site-packages (-S), but with links to what `extras` and the dependencies bring."""
        link_packages(tmp_path, *extras)
        path = os.pathsep.join(map(str, (installed, tmp_path)))
        return run(sys.executable, "-S", *arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})


def test_script(installed):
    version = succeed(installed / "bin" / "course", "--version", env={**os.environ, "PYTHONPATH": str(installed)})
    assert version == f"triton-course {course.__version__}\n"


@pytest.mark.parametrize("file, name", [
    ("/usr/bin/course", "course"), ("/home/me/triton-course/course/__main__.py", "python -m course"),
])
def test_the_command_is_called_as_it_was(monkeypatch, file, name):
    monkeypatch.setattr(sys, "argv", [file])
    assert parser().format_usage().startswith(f"usage: {name} [-h] [--version] command")


@pytest.mark.full
def test_in_an_empty_environment(built, tmp_path):
    """A virtual environment with the dependencies alone; then with the extra that was found missing."""
    succeed(sys.executable, "-m", "venv", tmp_path / "venv")
    python, script = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "course"
    [site] = (tmp_path / "venv" / "lib").glob("*/site-packages")
    link_packages(site)
    succeed(python, "-m", "pip", "install", "--no-index", "--find-links", built[2].parent, "triton-course")
    succeed(python, "-c", "import course, course.kernels, course.nn, course.vit, course.resnet", cwd=tmp_path)
    doctor = run(script, "doctor", cwd=tmp_path)
    assert "add of 1000 numbers ran" in doctor.stdout and "is right" in doctor.stdout and not doctor.stderr
    assert "python -m pip install 'triton-course[models,notebooks" in doctor.stdout and doctor.returncode == 1

    image = Image.effect_noise((8, 8), 50)
    image.save(tmp_path / "photo.png")
    classify = run(script, "classify", "vit", "photo.png", cwd=tmp_path)
    assert classify.returncode == 2 and classify.stderr.count("\n") == 1
    [advice] = re.findall("python -m pip install '(.*)'", classify.stderr)
    assert advice == "triton-course[models]"
    link_packages(site, "models")
    # pip finds the course installed and asks no index for it, nor for packages that are there
    succeed(python, "-m", "pip", "install", "--no-index", advice)
    assert succeed(script, "classify", "vit", "photo.png", cwd=tmp_path).splitlines()[0] == "photo.png"


class TestRequirements:
    """What pyproject.toml declares, and what the code imports."""

    def test_all_that_is_imported_is_declared(self):
        """Also within functions. The tests' extra is the tests' and the benchmarks' own."""
        declared = {name_of(r) for r in [*PROJECT["dependencies"], *EXTRAS["models"], *EXTRAS["notebooks"]]}
        distributions = importlib.metadata.packages_distributions()
        for file in (ROOT / "course").rglob("*.py"):
            for module in imports(file) - sys.stdlib_module_names - {"course", "benchmarks"}:
                got = set(map(name_of, distributions.get(module, [module])))
                assert got & declared, f"{file.relative_to(ROOT)} imports {module}"

    def test_all_that_is_declared_is_imported(self):
        used = set().union(*(imports(file) for file in (ROOT / "course").rglob("*.py")))
        known = {"scikit-learn": "sklearn", "pillow": "PIL", "huggingface-hub": "huggingface_hub"}
        for requirement in [*PROJECT["dependencies"], *EXTRAS["models"]]:
            name = name_of(requirement)
            assert known.get(name, name) in used, f"{requirement} is declared and never imported"

    def test_each_version_stands_once(self):
        """requirements.txt installs the extras and repeats nothing."""
        lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.partition("#")[0]]
        assert lines == [f"-e .[{','.join(EXTRAS)}]"]
        names = [name_of(r) for requirements in (PROJECT["dependencies"], *EXTRAS.values()) for r in requirements]
        assert len(names) == len(set(names))


def imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def closure(requirements) -> set[str]:
    """The names of what is installed for `requirements`, and for these in turn."""
    found, waiting, seen = set(), list(map(Requirement, requirements)), set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            needed = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name_of(requirement.name))
        waiting += [r for r in map(Requirement, needed) if not r.marker or any(
            r.marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]
        )]
    return found


def link_packages(folder: Path, *extras: str) -> None:
    """Links to what this environment has of the dependencies, of `extras`, and of all that these need."""
    if lacking := [r for extra in extras for r in EXTRAS[extra] if not closure([r])]:
        pytest.skip(f"needs {', '.join(lacking)}")
    for name in closure([*PROJECT["dependencies"], *(r for extra in extras for r in EXTRAS[extra])]):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))


class TestTypes:
    """What py.typed promises to a checker of types."""

    FUNCTIONS = [
        course.optimize, replace_layers, load_vit, load_resnet, resnet18, ResNet.__init__, ViT.__init__,
        data.digits, data.photos, data.open_image, *(getattr(kernels, name) for name in kernels.__all__),
    ]

    @pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
    def test_public_functions_are_annotated(self, function):
        signature = inspect.signature(function)
        assert [name for name, parameter in signature.parameters.items()
                if parameter.annotation is parameter.empty and name != "self"] == []
        assert signature.return_annotation is not signature.empty or function.__name__ == "__init__"

    def test_names_of_activations(self):
        assert [None, *get_args(Activation)] == list(ACTIVATIONS)
        for function in (kernels.linear, kernels.conv2d, kernels.norm_linear):
            assert get_type_hints(function)["activation"] == Activation | None
        assert set(get_args(get_type_hints(kernels.gelu)["approximate"])) == set(gelu.OPS)

    @pytest.mark.parametrize("load", [load_vit, load_resnet])
    def test_what_a_checkpoint_brings_is_declared(self, load):
        model, declared = load(), get_type_hints(get_type_hints(load)["return"])
        assert {"class_names", "preprocess"} <= set(declared)
        assert isinstance(model.class_names, get_origin(declared["class_names"]))


class TestAbout:
    """What describes the project says the same in each place."""

    CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    def test_version(self):
        changelog = (ROOT / "CHANGELOG.md").read_text()
        newest = re.search(r"^## \[(.*?)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[1]
        assert newest == self.CITATION["version"] == course.__version__

    def test_citation(self):
        assert {"cff-version", "message", "title", "authors"} <= set(self.CITATION)
        assert self.CITATION["authors"] == PROJECT["authors"]
        assert self.CITATION["license"] == PROJECT["license"]
        assert self.CITATION["keywords"] == PROJECT["keywords"]

    def test_address(self):
        """The repository's address stands in pyproject.toml; where it is shown it is that one, and nowhere yet if it
        is not known."""
        address = PROJECT.get("urls", {}).get("Repository")
        assert self.CITATION.get("repository-code") == address
        for page in [*ROOT.glob("*.md"), *ROOT.glob("posts/*.md")]:
            for cloned in re.findall(r"git clone (\S+)", page.read_text()):
                assert cloned == address, f"{page.name}: git clone {cloned}"

    def test_python_versions(self):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
        tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
        language = "Programming Language :: Python :: 3."
        assert tested == [c.removeprefix(language[:-2]) for c in PROJECT["classifiers"] if c.startswith(language)]
        assert PROJECT["requires-python"] == f">={tested[0]}"
        container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
        assert re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:1-(3\.\d+)-\w+", container["image"])[1] in tested

    def test_container_installs_what_make_does(self):
        container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
        program, target = container["postCreateCommand"].split()
        assert program == "make"
        assert "-r requirements.txt" in succeed("make", "--dry-run", "--always-make", target, cwd=ROOT)
        interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
        assert Path(interpreter).parts[1] == Path(target).parts[0]

    @pytest.mark.parametrize("name", ["bug", "wrong_number", "slower_than_pytorch", "text"])
    def test_issue_templates(self, name):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
        assert form["name"] and form["description"] and form["body"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
        text = str(form)
        for path in re.findall(r"`(\w+/[\w./]+)`", text):
            assert (ROOT / path).exists(), path
        assert "--version" not in text or "--version" in parser().format_help()
