"""Which file of the course imports which, and which of these imports go the wrong way.

CONTRIBUTING.md has the table of floors, from the top. A path of it stands for a file, or for all files in a folder; of
several that fit a file the longest is its room.
"""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

HEADING = "## What may import what"

Floors = list[list[str]]
"""From the top, the paths of each floor."""


def floors(text: str) -> Floors:
    """The first column of the table below HEADING: its rows, and within a row what the arrows part."""
    section = text.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    found = [re.findall(r"`([^`]+)`", floor) for row in rows for floor in row.split("→")]
    return [paths for paths in found if paths]


def imports(root: Path, folders: tuple[str, ...]) -> dict[str, set[str]]:
    """Of each Python file in `folders` of `root` the files there that it imports, wherever in it the statement stands.

    A stub (.pyi) counts as its module: it says what the module imports when it is first asked for. What stands under
    `if __name__ == "__main__"` does not count: where that runs, the file is no module but a program.
    """
    files = [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    modules = {module_name(file.relative_to(root)): file.relative_to(root).as_posix() for file in files}
    found = {}
    for name, path in modules.items():
        sources = [file for file in (root / path, (root / path).with_suffix(".pyi")) if file.exists()]
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        asked = {target for file in sources for target in targets(ast.parse(file.read_text()), package)}
        # in `from package import name`, the name may be a module or something in the package itself
        imported = {modules.get(target) or modules.get(target.rpartition(".")[0]) for target in asked}
        found[path] = imported - {None, path}
    return found


def module_name(path: Path) -> str:
    """course.kernels of course/kernels/__init__.py, course.nn of course/nn.py."""
    return ".".join(path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts)


def targets(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted names that a file in `package` imports; relative ones made absolute."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            yield from (".".join([*parents, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"):
            yield from targets(node, package)


def problems(graph: dict[str, set[str]], house: Floors) -> list[str]:
    """The imports of `graph` that go up or to the side, files without a floor, floors without a file, and a circle."""
    room_of = {path: room(path, house) for path in graph}
    found = [f"{path} is on no floor" for path, where in sorted(room_of.items()) if where is None]
    listed = [path for paths in house for path in paths if path.split("/")[0] in {p.split("/")[0] for p in graph}]
    inhabited = {where[1] for where in room_of.values() if where}
    found += [f"{path} is a floor without a file" for path in listed if path not in inhabited]
    for path, imported in sorted(graph.items()):
        for other in sorted(imported):
            here, there = room_of[path], room_of[other]
            if here and there and here != there and here[0] >= there[0]:
                found.append(f"{path} imports {other}, which is {'above' if here[0] > there[0] else 'beside'} it")
    if path := circle(graph):
        found.append("a circle: " + " → ".join(path))
    return found


def room(path: str, house: Floors) -> tuple[int, str] | None:
    """(floor, counted from the top; the path in the table) of a file."""
    fitting = [
        (len(listed), number, listed) for number, paths in enumerate(house) for listed in paths
        if path == listed or listed.endswith("/") and path.startswith(listed)
    ]
    return max(fitting)[1:] if fitting else None


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Files of which each imports the next one, and the last the first; None if there are none."""
    done = set()

    def search(path, way):
        if path in way:
            return [*way[way.index(path) :], path]
        if path in done:
            return None
        done.add(path)
        return next(filter(None, (search(other, [*way, path]) for other in sorted(graph[path]))), None)

    return next(filter(None, (search(path, []) for path in sorted(graph))), None)
