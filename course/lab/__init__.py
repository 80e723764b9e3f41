"""What a notebook calls: exercises that check themselves, the source of the real kernels, pictures and measurements.

Four wings, each of which may import the ones after it: checking, measuring, pictures, interpret. `__init__.pyi` says
which module each function is in; a module is imported when one of its functions is first used, so that checking an
exercise loads neither matplotlib nor a model.
"""
import ast
import importlib
from collections.abc import Callable
from pathlib import Path

MODULE_OF = {
    alias.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
"""The module of each function. Editors and type checkers read the same file."""

__all__ = [*MODULE_OF]


def __getattr__(name: str) -> Callable:
    """Called for a name that this module does not have yet (PEP 562); afterwards it has it."""
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(MODULE_OF[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
