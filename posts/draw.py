"""python -m posts.draw [NAME …]: draws the pictures of the posts, all or those named, into posts/figures.

Each module posts/draw_….py has a dict FIGURES from a file's name to a function that draws it, with the colours and the
helpers of course.lab. What a picture says in words becomes its alternative text in the posts that show it.
"""
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from course.lab.pictures.picture import Picture

HERE = Path(__file__).parent
FOLDER = HERE / "figures"


def drawings() -> dict[str, Callable[[], Picture]]:
    """All pictures, by the names of their files."""
    modules = [importlib.import_module(f"posts.{file.stem}") for file in sorted(HERE.glob("draw_*.py"))]
    return {name: draw for module in modules for name, draw in module.FIGURES.items()}


def shown(name: str) -> re.Pattern:
    """Where markdown shows the picture, with its alternative text as a group."""
    return re.compile(rf"!\[([^\]]*)\](?=\(figures/{re.escape(name)}\))")


def words(picture: Picture) -> str:
    """What the picture says, as it stands in markdown."""
    return " ".join(str(picture).replace("[", "(").replace("]", ")").split())


def main(names: list[str]) -> None:
    for name, draw in drawings().items():
        if names and name not in names:
            continue
        picture = draw()
        picture.savefig(FOLDER / name, dpi=160)
        image = f"![{words(picture)}]".replace("\\", r"\\")
        for post in HERE.glob("*.md"):
            text = post.read_text()
            new = shown(name).sub(image, text)
            if new != text:
                post.write_text(new)
        print(f"posts/figures/{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
