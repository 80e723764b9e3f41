"""`show_source`: code of the package as it stands, so that no notebook holds a copy."""
import inspect
import pkgutil
from pathlib import Path

from course.lab.pictures.markdown import Markdown
from course.results import ROOT


def show_source(*things) -> Markdown:
    """The source of kernels, functions, classes or modules.

    A string names one in course.kernels, as a module's path and an attribute: "elementwise.add.add_op".
    """
    parts = []
    for thing in things:
        thing = resolve(thing) if isinstance(thing, str) else thing
        while hasattr(thing, "fn"):  # a kernel: triton.jit keeps the Python function there
            thing = thing.fn
        thing = inspect.unwrap(thing)  # a function behind a cache
        file = Path(inspect.getsourcefile(thing)).resolve()
        where = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name
        link = f"[{where}](../{where})" if file.is_relative_to(ROOT) else f"`{where}`"
        parts.append(f"**`{thing.__name__}`** in {link}\n\n```python\n{inspect.getsource(thing).rstrip()}\n```")
    return Markdown("\n\n".join(parts))


def resolve(name: str):
    module, _, attribute = name.rpartition(".")
    return pkgutil.resolve_name(f"course.kernels.{module}:{attribute}")
