"""Results that need a GPU: measured where there is one, and otherwise read from benchmarks/results."""
import json
import os
from collections.abc import Callable
from typing import TypeVar

from course.files import write_whole
from course.lab.pictures.markdown import Markdown
from course.results import RESULTS
from course.runtime import INTERPRET, gpu_name

Shown = TypeVar("Shown")
"""What a result is shown as."""


def show(
    name: str, measure: Callable[[], dict], draw: Callable[[dict, str], Shown], lacking: str = ""
) -> Shown | Markdown:
    """What draw(result, origin) returns: `result` is measure()'s, and `origin` begins a sentence on where it is from.

    Without a GPU, or where `lacking` names something else that is missing, nothing is measured: `result` is the one
    stored under `name` in benchmarks/results; where there is none, a line says so. COURSE_STORE=1 in the environment
    stores a new one.
    """
    lacking = "No GPU here" if INTERPRET else lacking
    if lacking:
        stored = sorted(RESULTS.glob(f"*/notebooks/{name}.json"))
        if not stored:
            return Markdown(f"*{lacking}, and no result is stored for `{name}` yet.*")
        return draw(json.loads(stored[0].read_text(encoding="utf-8")), f"{lacking}: this is the stored result of the")
    result = measure()
    if os.environ.get("COURSE_STORE") == "1":
        write_whole(RESULTS / gpu_name() / "notebooks" / f"{name}.json", json.dumps(result, indent=1) + "\n")
    return draw(result, "Measured on this")
