"""What only a GPU can tell: told here and now, or as it was stored."""
import json
import os
from collections.abc import Callable
from typing import TypeVar

from course.lab.display import Markdown
from course.results import RESULTS, write_whole
from course.runtime import INTERPRET, gpu_name

Shown = TypeVar("Shown")


def show(
    name: str, measure: Callable[[], dict], draw: Callable[[dict, str], Shown], lacking: str = ""
) -> Shown | Markdown:
    """draw(result, origin): the result is what measure() returns here, and origin begins a sentence that says so.

    Without a GPU, or where `lacking` says what else is missing, nothing is measured: the result is the one stored under
    `name` in benchmarks/results, or a line that there is none. COURSE_STORE=1 in the environment stores a new one.
    """
    lacking = "No GPU here" if INTERPRET else lacking
    if lacking:
        stored = sorted(RESULTS.glob(f"*/notebooks/{name}.json"))
        if not stored:
            return Markdown(f"*{lacking}, and no result is stored for `{name}` yet.*")
        return draw(json.loads(stored[0].read_text()), f"{lacking}: this is the stored result of the")
    result = measure()
    if os.environ.get("COURSE_STORE") == "1":
        write_whole(RESULTS / gpu_name() / "notebooks" / f"{name}.json", json.dumps(result, indent=1) + "\n")
    return draw(result, "Measured on this")
