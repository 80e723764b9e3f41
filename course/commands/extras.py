"""Packages that only some commands need: pyproject.toml's extras."""
import importlib.metadata
import re
from collections.abc import Collection, Iterator

SPELLED = {"PIL": "Pillow", "sklearn": "scikit-learn"}
"""What is installed for an import of another name."""


def extras() -> Iterator[tuple[str, str]]:
    """(package, extra) of every package that an extra brings, as the installed course says; nothing if it is not
    installed but run from a folder."""
    try:
        requirements = importlib.metadata.requires("triton-course") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        if found := re.fullmatch(r"([\w.-]+).*; extra == \"(\w+)\"", requirement):
            yield found[1], found[2]


def install(packages: Collection[str]) -> str:
    """The command that installs `packages`, by the extras that bring them."""
    found = dict.fromkeys(extra for package, extra in extras() if package.lower() in map(str.lower, packages))
    what = f"'triton-course[{','.join(found)}]'" if found else "-r requirements.txt"
    return f"python -m pip install {what}"


def missing(command: str, error: ModuleNotFoundError) -> str | None:
    """One line about what `command` needs and how to install it; None if no extra brings what was not found."""
    module = (error.name or "").partition(".")[0]
    package = SPELLED.get(module, module)
    if package.lower() not in (name.lower() for name, _ in extras()):
        return None
    return f"{command} needs {package}: {install([package])}"
