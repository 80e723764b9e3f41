"""Whether a function is what its notebook says now: after a cell that failed, the one from before is still there."""
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable


def superseded(shell, functions: Iterable[Callable]) -> str | None:
    """A cell that was run after the one that made one of `functions`, and should have made it anew; in words.

    `shell` is IPython's, which keeps the text of all cells in the order in which they were run.
    """
    cells = shell.user_ns.get("In", [])
    for function in functions:
        defines = re.compile(rf"^\s*def {re.escape(function.__name__)}\(", re.MULTILINE)
        number = max((n for n, cell in enumerate(cells) if defines.search(cell)), default=None)
        try:
            source = textwrap.dedent(inspect.getsource(function)).strip()
        except (OSError, TypeError):
            continue
        if number is None or source in cells[number] or not any(source in cell for cell in cells):
            continue
        try:
            compile(cells[number], "cell", "exec")
        except SyntaxError as error:
            why = f"it has a SyntaxError in line {error.lineno}, {error.msg}"
        else:
            why = "it raised an error"
        return (f"this `{function.__name__}` is the one from before: the cell that was run last to define it did not "
                f"come to its end ({why})")
    return None
