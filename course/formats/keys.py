"""The keys of a configuration, each checked by its line in a table before anything is made of its value."""
import math
import numbers
import reprlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

LARGEST = 2**24
"""Of integers, unless a table says otherwise: larger than any model's size, small enough to multiply."""


class Expected(NamedTuple):
    """What a value has to be, in words and as a test."""

    words: str
    fits: Callable[[object], bool]


def is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def integer(least: int, most: int = LARGEST) -> Expected:
    return Expected(f"an integer from {least} to {most}", lambda value: is_integer(value) and least <= value <= most)


def several(each: Expected, count: int) -> Expected:
    return Expected(
        f"a list of {count}, each {each.words}",
        lambda value: isinstance(value, (list, tuple)) and len(value) == count and all(map(each.fits, value)),
    )


def either(*choices: Expected) -> Expected:
    return Expected(
        ", or ".join(choice.words for choice in choices), lambda value: any(choice.fits(value) for choice in choices)
    )


def among(*values: object) -> Expected:
    return Expected(f"among {', '.join(map(str, values))}", lambda value: value in values)


BOOLEAN = Expected("true or false", lambda value: isinstance(value, bool))
NUMBER = Expected("a finite number", is_number)
POSITIVE = Expected("a finite number above 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = Expected("a finite number of at least 0", lambda value: is_number(value) and value >= 0)
TEXTS = Expected(
    "a list of strings",
    lambda value: isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value),
)
OBJECT = Expected("an object of names and values", lambda value: isinstance(value, Mapping))


def checked(where: str, values: Mapping, table: Mapping[str, Expected]) -> dict:
    """Those of `values` that `table` knows. Raises ValueError, one line that begins with `where`, on the first that
    is not as expected."""
    found = {key: values[key] for key in table if key in values}
    for key, value in found.items():
        if not table[key].fits(value):
            raise ValueError(f"{where}: expected {key} {table[key].words}, got {reprlib.repr(value)}")
    return found
