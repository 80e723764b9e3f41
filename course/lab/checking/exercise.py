"""What an exercise is: one source for its task, stub, hints and solution.

A solution is ordinary code that is linted and runs. In it, the lines that the learner writes stand between
markers, behind what the learner sees in their place:

    #> offs = ...  # the elements that this program owns
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    #<

`Exercise.stub` and `Exercise.answer` are the two readings of it. The exercises themselves are in `course.exercises`.
"""
import dataclasses
import importlib
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping

import torch

CONTENT = "course.exercises"
"""The package that holds the exercises: a module a chapter, with its exercises in EXERCISES.

It imports this module, and this module does not import it: a chapter is looked up by its name when one of its
exercises is asked for, as a file would be.
"""

Inputs = Callable[[Callable[..., torch.Tensor]], tuple]
"""Makes a case's arguments out of `randn(*shape, dtype=torch.float32)`."""


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A plausible mistake: the edits that put it into the answer, and words that the report must hold."""

    edits: Mapping[str, str]
    says: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exercise:
    """What to write, and how to tell whether it is right.

    The last function of `solution` is the one that is checked. It takes the arguments of `reference` and then `out`,
    which it fills. `cases` are small enough for the interpreter, and the first is the one to explain mistakes with;
    `heavy` is large enough to time on a GPU; without it nothing is timed.

    `operations` is for kernels that are limited by arithmetic and not by memory: matrix products, convolutions,
    attention. It takes the same arguments as `reference` and counts their operations, a multiplication and an addition
    as two, such as `lambda a, b: 2 * a.shape[0] * a.shape[1] * b.shape[1]`. The heavy inputs are then judged in
    TFLOP/s, beside what a large matrix product in the dtype of the first tensor reaches; without it, in GB/s, beside a
    copy.

    `frugal` names what a right answer may not use more of than the solution does, because the task says so: "reads"
    (bytes), "programs", "launches", "copies" (bytes that PyTorch copies), "views" (PyTorch's, such as x.T) and
    "atomics". Where the solution launches a kernel, that PyTorch must not do its work holds for every answer.

    `symptom` is for a kernel to repair: what the learner starts from then has no gap and runs, but is wrong, and the
    report on it holds these words.
    """

    name: str
    task: str
    reference: Callable[..., torch.Tensor]
    cases: Mapping[str, Inputs]
    solution: tuple
    hints: tuple[str, str, str]
    explanation: str
    wrong: Mapping[str, Wrong]
    operations: Callable[..., int] | None = None
    heavy: Inputs | None = None
    frugal: tuple[str, ...] = ()
    symptom: str = ""

    @property
    def source(self) -> str:
        """The solution with its markers."""
        return "\n\n".join(inspect.getsource(python_function(f)) for f in self.solution)

    @property
    def stub(self) -> str:
        """What the learner starts from."""
        return "\n".join(stub_lines(self.source.splitlines()))

    @property
    def answer(self) -> str:
        """The solution as it is shown."""
        lines = self.source.splitlines()
        return "\n".join(line for line in lines if not line.strip().startswith(("#>", "#<")))

    def wrong_source(self, mistake: str) -> str:
        """The answer with one of the mistakes in it."""
        source = self.answer
        for old, new in self.wrong[mistake].edits.items():
            if old not in source:
                raise ValueError(f"{self.name}, {mistake}: the answer has no {old!r}")
            source = source.replace(old, new)
        return source

    def build(self, source: str) -> Callable:
        """Runs `source`, which is the stub, the answer or a wrong answer, and returns the function to check."""
        checked = self.solution[-1]
        filename = f"<{self.name} {hash(source):x}>"  # Triton reads a kernel's source back from its file
        linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
        namespace = {**checked.__globals__, "__name__": f"{CONTENT}.{self.name}"}
        exec(compile(source, filename, "exec"), namespace)
        return namespace[checked.__name__]


def python_function(f: Callable) -> Callable:
    """The Python function under triton.jit, and under triton.autotune."""
    while hasattr(f, "fn"):
        f = f.fn
    return f


def stub_lines(lines):
    hidden = False
    for line in lines:
        text = line.strip()
        if text.startswith("#>"):
            hidden = True
            yield line.replace("#> ", "", 1).replace("#>", "", 1).rstrip()
        elif text.startswith("#<"):
            hidden = False
        elif not hidden:
            yield line


def find(name: str | Exercise) -> Exercise:
    """The exercise called `name`, such as "vector_add.fill_in"; an exercise given instead of a name is returned.

    Raises LookupError, which lists the names that exist.
    """
    if isinstance(name, Exercise):
        return name
    chapter = name.partition(".")[0]
    try:
        exercises = importlib.import_module(f"{CONTENT}.{chapter}").EXERCISES
    except ModuleNotFoundError:
        raise LookupError(f"no chapter {chapter!r} among the exercises") from None
    for exercise in exercises:
        if exercise.name == name:
            return exercise
    raise LookupError(f"no exercise {name!r}: expected one of {', '.join(e.name for e in exercises)}")


def prose(text: str) -> str:
    """A docstring-like literal as markdown: dedented, without the blank lines around it."""
    return textwrap.dedent(text).strip()
