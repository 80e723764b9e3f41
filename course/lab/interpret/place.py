"""Where in a learner's code something happens: the line, in a notebook's cell or in a file."""
import functools
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import NamedTuple

import numpy
import torch
import triton

from course.results import ROOT

MACHINERY = tuple(os.path.join(folder, "") for folder in (
    *(os.path.dirname(module.__file__) for module in (numpy, torch, triton)), sysconfig.get_path("stdlib"),
    ROOT / "course",
))
"""Folders whose code runs beneath a learner's."""

EXERCISES = os.path.join(ROOT, "course", "exercises", "")
"""The folder whose code stands for a learner's."""


class Place(NamedTuple):
    """A line of a function; its text is known where Python keeps the source."""

    function: str
    file: str
    line: int

    def __str__(self):
        text = linecache.getline(self.file, self.line).strip()
        return f"line {self.line} of {self.function}" + (f", `{text}`" if text else "")


@functools.cache
def theirs(file: str) -> bool:
    """Whether a learner wrote this file."""
    return bool(linecache.getlines(file)) and (file.startswith(EXERCISES) or not file.startswith(MACHINERY))


def innermost(frames: Iterable[tuple[FrameType, int]]) -> Place | None:
    """The first of `frames` that a learner wrote."""
    for frame, line in frames:
        if theirs(frame.f_code.co_filename):
            return Place(frame.f_code.co_name, frame.f_code.co_filename, line)
    return None


def here() -> Place | None:
    """The line of a learner's code that led to this call."""
    return innermost(traceback.walk_stack(sys._getframe(1)))


def of_error(error: BaseException) -> Place | None:
    """The line of a learner's code that led to `error`."""
    return innermost(reversed([*traceback.walk_tb(error.__traceback__)]))
