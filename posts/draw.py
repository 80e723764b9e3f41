"""python -m posts.draw [NAME …]: draws the pictures of the posts, all or those named, into posts/figures.

Each module posts/draw_….py has a dict FIGURES from a file's name to a function that draws it, with the colours and the
helpers of course.lab.
"""
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from course.lab.display import Picture

HERE = Path(__file__).parent
FOLDER = HERE / "figures"


def drawings() -> dict[str, Callable[[], Picture]]:
    """All pictures, by the names of their files."""
    modules = [importlib.import_module(f"posts.{file.stem}") for file in sorted(HERE.glob("draw_*.py"))]
    return {name: draw for module in modules for name, draw in module.FIGURES.items()}


def main(names: list[str]) -> None:
    for name, draw in drawings().items():
        if not names or name in names:
            draw().savefig(FOLDER / name, dpi=160)
            print(f"posts/figures/{name}: {draw()}")


if __name__ == "__main__":
    main(sys.argv[1:])
