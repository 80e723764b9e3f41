"""Which engine computes a problem, and in which configuration: measured once, then remembered.

A family of kernels describes what was asked for in one frozen tuple, its *problem*, and has *engines*, each one way to
compute such a problem, named after what it needs. An engine is a module with

    can_run(problem) -> bool                        whether it computes this problem on this GPU
    configs(problem) -> list[Config]                configurations worth a measurement, with predicted costs
    launch(problem, config, operands) -> None       the launch; `operands` are the family's tensors

and `Engines`, which the operation holds, is the only place where a kernel is chosen. Choices are looked up first in the
repository's `course/tuned/<gpu>.json`, then in `~/.cache/triton-course`; for what is found in neither the FEW cheapest
are measured, with a line on stderr, and the faster one is written to the latter. `course.tune` measures many, in a
`Session`. What this machine stored counts only where it is one of the configurations that the engines offer for the
problem; the repository's may be another one, found by hand. A file or a folder that cannot be used costs a line on
stderr, and no call.

Where kernels are only collected to be compiled ahead (course/compiling.py), those of all configurations are that would
be measured.
"""
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, Protocol

import filelock
import torch
import triton

from course import runtime
from course.compiling import compile_ahead, is_collecting
from course.files import write_whole
from course.graphs import ALONE
from course.replay.calls import forget
from course.replay.recording import forgo, holds_while
from course.timing import queued_milliseconds

TUNED = Path(__file__).parent / "tuned"
"""Choices measured by the maintainers, one file a GPU."""


def cache_folder() -> Path | None:
    """COURSE_CACHE, or `~/.cache/triton-course` where that is empty; None for a user that has no home."""
    try:
        return Path(os.environ.get("COURSE_CACHE") or "~/.cache/triton-course").expanduser()
    except RuntimeError:
        return None


CACHE = cache_folder()
"""Choices measured on this machine."""

VERSION = 2
"""Of the files' format: others are not read."""

FEW = 2
"""Configurations of a problem that are measured at its first call."""

MANY = 12
"""Configurations of a problem that are measured in a `Session`, at most."""

REMEMBERED = 4096
"""Problems whose choice a process remembers: enough for every shape of many models."""

READING = threading.Lock()
"""Held by the thread that reads the files."""

WARPS = (1, 2, 4, 8, 16, 32)
"""Of a program, as Triton takes them."""

PATIENCE_S = 2
"""Seconds to wait for another process that writes to the same file."""


@dataclasses.dataclass(frozen=True, eq=False)
class Config:
    """One way to launch an engine's kernel."""

    engine: str
    blocks: dict[str, int | bool]
    """The kernel's constexpr arguments, such as BLOCK_M, and what `launch` makes of others."""
    num_warps: int = 4
    num_stages: int = 1
    cost: float = 0.0
    """Its predicted time, in any unit that the engines of a family share: the cheapest is tried first."""

    @property
    def options(self) -> dict[str, int | bool]:
        """What the kernel is launched with."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}

    def __str__(self) -> str:
        return f"{self.engine} " + " ".join(f"{name}={value}" for name, value in self.options.items())


class Problem(Protocol):
    """What was asked for, as a hashable tuple: sizes, strides, dtype, precision, what is fused."""

    def choice(self) -> dict[str, int | str]:
        """What the choice depends on, by name. Problems of about one size share one, and so are measured once."""

    @property
    def worth_measuring(self) -> bool:
        """False for one so small that measuring would take longer than it can save."""


class Engine(Protocol):
    """See above; `__name__` is the module's."""

    __name__: str

    def can_run(self, problem) -> bool: ...
    def configs(self, problem) -> list[Config]: ...
    def launch(self, problem, config: Config, operands) -> None: ...


class Session:
    """Thorough measurements, in which MANY configurations are measured also where this machine has stored a choice.

    `advance` is called after each configuration.
    """

    def __init__(self, advance: Callable[[], object] = lambda: None):
        self.advance = advance
        self.planned: dict[str, int] = {}
        """how many configurations of a problem, by its name, are to be measured, as far as they were collected"""
        self.measured: set[str] = set()
        """the names of the problems that were measured"""

    def __enter__(self) -> "Session":
        ALONE.acquire()
        for engines in list(Engines.everywhere):
            engines.chosen.clear()
        forget()  # calls that are kept launch what was chosen before
        self.token = SESSION.set(self)
        return self

    def __exit__(self, *error) -> None:
        SESSION.reset(self.token)
        forget()  # calls that other threads have kept meanwhile
        ALONE.release()


SESSION: ContextVar[Session | None] = ContextVar("session", default=None)
"""The one that this thread is in."""


class Engines:
    """The engines of one operation, in order of preference.

    The first that can run a problem computes it. With `compete`, all that can run offer their configurations, and the
    fastest one computes it.
    """

    everywhere: "weakref.WeakSet[Engines]" = weakref.WeakSet()

    def __init__(self, op: str, *engines: Engine, compete: bool = False):
        Engines.everywhere.add(self)
        self.op, self.compete = op, compete
        self.by_name = {engine.__name__.rpartition(".")[2]: engine for engine in engines}
        self.chosen: dict[tuple[int, Problem], tuple[Engine, Config]] = {}
        """by GPU and problem"""

    def compute(self, problem: Problem, operands) -> None:
        """Computes `problem`, in its fastest configuration on the current GPU."""
        key = torch.cuda.current_device() if runtime.SEVERAL else 0, problem
        found = self.chosen.get(key)
        if found is None:
            if is_collecting():
                return self.collect(problem, operands)
            config, for_good = self.choose(problem, operands)
            found = self.by_name[config.engine], config
            if for_good:
                if len(self.chosen) >= REMEMBERED:
                    self.chosen.clear()
                self.chosen[key] = found
            else:
                holds_while(is_untuned)
        engine, config = found
        engine.launch(problem, config, operands)

    def collect(self, problem: Problem, operands) -> None:
        """Launches all that may have to be compiled for `problem`."""
        options, _ = self.options(problem)
        session = SESSION.get()
        if session is not None and len(options) > 1:
            session.planned[choice_name(self.op, self.choice(problem))] = len(options)
        launch_all(options, lambda config: self.launch(problem, config, operands))

    def configs(self, problem: Problem) -> list[Config]:
        """What is worth a measurement for `problem`, the most promising first."""
        most = FEW if SESSION.get() is None else MANY
        return self.offered(problem)[: most if problem.worth_measuring else 1]

    def offered(self, problem: Problem) -> list[Config]:
        """All that the engines offer for `problem`, the most promising first."""
        offered = [config for engine in self.able(problem) for config in engine.configs(problem)]
        return sorted(offered, key=lambda config: config.cost)

    def able(self, problem: Problem) -> list[Engine]:
        """The engines that may compute `problem`: all that can run it, or without `compete` the first of them."""
        able = [engine for engine in self.by_name.values() if engine.can_run(problem)]
        return able if self.compete else able[:1]

    def choose(self, problem: Problem, operands) -> tuple[Config, bool]:
        """The configuration for `problem`, and whether it is measured or the only one, and so holds for good."""
        options, for_good = self.options(problem)
        if len(options) > 1:
            with ALONE:
                options, for_good = self.options(problem)  # another thread may have measured it meanwhile
                if len(options) > 1:
                    return self.measured(problem, self.choice(problem), len(options), operands), True
        return options[0], for_good

    def options(self, problem: Problem) -> tuple[list[Config], bool]:
        """What `problem` may be computed in, several configurations where that is to be measured; and whether a single
        one holds for good.

        The first one offered is the engine's own guess. It is taken unmeasured in the interpreter, during CUDA graph
        capture, and under COURSE_TUNE=0.
        """
        candidates = self.configs(problem)
        if runtime.INTERPRET or len(candidates) == 1:
            return candidates[:1], True
        stored = self.stored(problem, self.choice(problem))
        if stored is not None:
            return [stored], True
        if is_untuned() or torch.cuda.is_current_stream_capturing():
            return candidates[:1], False
        return candidates, True

    def choice(self, problem: Problem) -> dict[str, int | str]:
        """What the choice depends on: the problem's fields, and which engines there were to choose from."""
        able = self.able(problem)
        engines = " ".join(name for name, engine in self.by_name.items() if engine in able)
        return {**problem.choice(), "engines": engines}

    def stored(self, problem: Problem, choice: dict[str, int | str]) -> Config | None:
        """The first configuration stored for `choice` that may be used for `problem`; in a session, only where it was
        measured in that session or is the repository's."""
        name, session = choice_name(self.op, choice), SESSION.get()
        with READING:  # of two that read, the later would replace what was measured since the earlier
            known = known_choices(runtime.gpu_name()).get(name, ())
        if session is not None and name not in session.measured:
            known = [one for one in known if one.reviewed]
        offered = self.offered(problem) if known else ()
        return next((one.config for one in known if one.may_be_used(offered)), None)

    def measured(self, problem: Problem, choice: dict[str, int | str], most: int, operands) -> Config:
        """The fastest of the `most` promising, from now on stored."""
        name, gpu, session = choice_name(self.op, choice), runtime.gpu_name(), SESSION.get()
        known = known_choices(gpu).setdefault(name, [])
        if known and session is None:
            say(f"ignored {', '.join(str(one.config) for one in known)}: not offered for {name}")
        config = measure(name, self.offered(problem), lambda config: self.launch(problem, config, operands), most)
        # in a session it takes the place of what was measured before
        known.insert(len(known) if session is None else 0, Stored(config))
        if session is not None:
            session.measured.add(name)
        if CACHE is None:
            say("choices are not stored: found no home, expected COURSE_CACHE to name a folder")
        else:
            try:
                remember(CACHE / f"{gpu}.json", self.op, choice, config, first=session is not None)
            except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
                say(f"choices are not stored in {CACHE}: {error}")
        return config

    def launch(self, problem: Problem, config: Config, operands) -> None:
        self.by_name[config.engine].launch(problem, config, operands)


def is_untuned() -> bool:
    """Whether nothing is to be measured, as COURSE_TUNE=0 says."""
    return os.environ.get("COURSE_TUNE") == "0"


class Stored(NamedTuple):
    """A configuration from a file."""

    config: Config
    reviewed: bool = False
    """whether the file is the repository's"""

    def may_be_used(self, offered: Sequence[Config]) -> bool:
        """Whether it is one of `offered`; of one that is reviewed, whether it has the form of one of them."""
        mine = self.config.options
        of_its_engine = (config.options for config in offered if config.engine == self.config.engine)
        alike = [options for options in of_its_engine if kinds(options) == kinds(mine)]
        return mine in alike or self.reviewed and bool(alike) and self.config.num_warps in WARPS


def kinds(options: dict) -> dict[str, type]:
    return {name: type(value) for name, value in options.items()}


def choice_name(op: str, choice: dict[str, int | str]) -> str:
    """The problem in words, such as "matmul M=2048 N=768 ..."."""
    return f"{op} " + " ".join(f"{name}={value}" for name, value in choice.items())


def launch_all(configs: Iterable[Config], launch: Callable[[Config], object]) -> None:
    """Launches each, so that their kernels are collected."""
    for config in configs:
        with contextlib.suppress(triton.runtime.errors.OutOfResources):  # of one that is compiled and does not fit
            launch(config)


def measure(
    name: str, configs: Sequence[Config], launch: Callable[[Config], object], most: int | None = None
) -> Config:
    """The fastest of the first `most` of `configs`, by default of all, compiled side by side, each launched many times;
    others take the place of those that do not fit the GPU.

    Raises triton's OutOfResources where none of `configs` fits.
    """
    forgo("a configuration is measured in it")
    most = len(configs) if most is None else most
    compile_ahead(lambda: launch_all(configs[:most], launch))
    session, measured = SESSION.get(), {}
    for config in configs:
        if session is None:
            print(f"\rtuning {name}: {len(measured) + 1}/{most}", end="", file=sys.stderr, flush=True)
        try:
            measured[config] = queued_milliseconds(functools.partial(launch, config))
        except triton.runtime.errors.OutOfResources as error:  # of the GPU's shared memory or registers
            misfit = error
            continue
        if session is not None:
            session.advance()
        if len(measured) == most:
            break
    if not measured:
        raise misfit
    best = min(measured, key=measured.get)
    if session is None:
        print(f"\rtuning {name}: {measured[best]:.4f} ms with {best}", file=sys.stderr, flush=True)
    return best


@functools.cache
def say(line: str) -> None:
    """Prints `line` on stderr, once in a process."""
    print(f"course: {line}", file=sys.stderr, flush=True)


def remember(file: Path, op: str, choice: dict[str, int | str], config: Config, first: bool = False) -> None:
    """Adds one choice to `file`, behind those that are stored for the same problem and are others, or before them.

    A file that is no such file is kept under another name, `file` with .old1 or the next number behind it. Any number
    of threads and processes may do so at once. Raises OSError where the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file.with_name(f"{file.name}.lock"), timeout=PATIENCE_S):
        try:
            entries = read_entries(file)
        except ValueError:  # known_choices has said so
            numbered = (file.with_name(f"{file.name}.old{number}") for number in itertools.count(1))
            file.replace(next(kept for kept in numbered if not kept.exists()))
            entries = []
        entry = {"op": op, "problem": choice, "engine": config.engine, "launch": config.options}
        if first or entry not in entries:
            others = [other for other in entries if other != entry]
            entries = [entry, *others] if first else [*others, entry]
            entries.sort(key=lambda entry: choice_name(entry["op"], entry["problem"]))
            write_whole(file, as_text(entries))


def as_text(entries: Iterable[dict]) -> str:
    """The file's text: JSON, one choice a line."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    return f'{{"version": {VERSION}, "choices": [\n{lines}\n]}}\n'


def read_entries(file: Path) -> list[dict]:
    """The choices in `file`; none if it does not exist.

    Raises ValueError if it is not one of this VERSION, or has a line that is no choice; OSError if it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        content = json.loads(text)
        version, entries = content["version"], content["choices"]
    except (ValueError, KeyError, TypeError, RecursionError):  # not JSON, or JSON of another shape
        version = "none"
    if version != VERSION:
        raise ValueError(f"expected choices of version {VERSION}, got {version}")
    if not isinstance(entries, list):
        raise ValueError(f"expected a list of choices, got {json.dumps(entries)[:100]}")
    for entry in entries:
        if not isinstance(entry, dict) or kinds(entry) != ENTRY:
            fields = ", ".join(f"{name}: {kind.__name__}" for name, kind in ENTRY.items())
            raise ValueError(f"expected choices of {fields}, got {json.dumps(entry)[:100]}")
    return entries


ENTRY = {"op": str, "problem": dict, "engine": str, "launch": dict}
"""The fields of a choice in a file."""


@functools.cache
def known_choices(gpu: str) -> dict[str, list[Stored]]:
    """The stored choices by the problem's name: the repository's before this machine's."""
    known = {}
    for folder in filter(None, (TUNED, CACHE)):
        file = folder / f"{gpu}.json"
        try:
            entries = read_entries(file)
        except (ValueError, OSError) as error:
            say(f"ignored {file}: {error}")
            continue
        for entry in entries:
            blocks = dict(entry["launch"])
            warps, stages = (blocks.pop(name, None) for name in ("num_warps", "num_stages"))
            stored = Stored(Config(entry["engine"], blocks, warps, stages), reviewed=folder == TUNED)
            known.setdefault(choice_name(entry["op"], entry["problem"]), []).append(stored)
    return known
