"""Files that are written whole or not at all."""
import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` at the end, in one step, and is removed after an error.

    Its name is one that no other thread, process or container that writes to the same folder has.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    with whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
