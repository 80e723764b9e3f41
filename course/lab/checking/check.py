"""`check`: a learner's kernel against the reference."""
import ast
import builtins
import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from triton.runtime.autotuner import Autotuner
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from course.lab.checking.crash import compiled_only, crash, too_long
from course.lab.checking.current import superseded
from course.lab.checking.diagnose import Evidence, across, meaning
from course.lab.checking.exercise import Exercise, Inputs, find, python_function
from course.lab.checking.guarded import Guarded
from course.lab.checking.report import CaseResult, Report, error_map
from course.lab.checking.time_limit import with_time_limit
from course.lab.checking.usage import PyTorchWork, Usage, Used, beyond
from course.lab.checking.watch import Watch
from course.lab.checking.watch import name as name_of
from course.lab.interpret.observe import observed
from course.lab.measuring.speed import speed
from course.precision import full_precision
from course.runtime import DEVICE, INTERPRET

RELATIVE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""How far a result may be off: some units in the last place, of the element and of the mean."""

MOST_PROGRAMS = 2048
"""Programs of a launch up to which all are interpreted: of more, a quarter of this number, spread over the grid. One
program takes about a millisecond, and one for every element is slow but right."""

SMALL = 256
"""Elements that PyTorch may compute on whatever the task says: a few constants."""

COMPILING = 6
"""How many times the interpreter's time limit a GPU has: each case may compile its kernels anew."""


@full_precision()
def check(exercise: str | Exercise, function: Callable, *, seconds: float = 10.0) -> Report:
    """Runs `function` on the exercise's cases and reports, in words and pictures, whether it is right.

    Every case is interpreted first, its tensors between guard elements and its output full of NaN, so that a store
    outside of the tensors, an endless loop (`seconds` a case) or an error in the kernel does no harm; on a GPU it then
    runs compiled, and once all cases pass it is timed. PyTorch's and the course's float32 products run without TF32
    meanwhile: the results are compared with float64. An answer with the right results that does what the task rules
    out, such as reading twice what it should read once, is told so. Never raises, except when it is interrupted.
    """
    try:
        exercise = find(exercise)
    except LookupError as error:
        return Report(str(exercise), "failed", f"{error}")
    problem = unfit(exercise, function)
    if problem:
        return Report(exercise.name, "failed", problem)
    gap = unsolved(function)
    if gap:
        return Report(exercise.name, "unsolved", f"not solved yet: `{gap}`")
    results = []
    for name in exercise.cases:
        try:
            explain = all(result.passed for result in results)  # the first failure alone is explained
            results.append(run_case(exercise, name, function, seconds, explain))
        except Exception as error:  # such as that of a GPU after an illegal memory access
            results.append(crash(name, error))
        if results[-1].fatal:
            break
    failures = [result for result in results if not result.passed]
    if failures:
        first = failures[0]
        first.means = stale_choice(exercise, first, function, seconds) or across(results) or first.means
        fail = "fails" if len(failures) == 1 else "fail"
        return Report(exercise.name, "failed", f"{len(failures)} of {len(exercise.cases)} cases {fail}", results)
    if INTERPRET and not any(result.whole for result in results):
        return Report(exercise.name, "almost", "right, but of too many programs: no case but the smallest ran in full",
                      results, partly(results))
    ruled_out, more = verdict(exercise, results)
    if ruled_out:
        return Report(exercise.name, "almost", ruled_out, results)
    report = Report(exercise.name, "passed", f"all {len(results)} cases pass", results, partly(results))
    if more:
        report.notes.append(f"{more[0].upper()}{more[1:]}.")
    if not INTERPRET and exercise.heavy:
        try:
            report.notes += speed(exercise, function)
            report.speed = True
        except Exception as error:
            report.status, report.headline = "failed", "the small cases pass, the large input does not"
            report.cases.append(crash("large input", error))
    return report


def unfit(exercise: Exercise, function: Callable) -> str | None:
    """Why `function` cannot be checked at all."""
    if not callable(function):
        return f"expected a function, got {type(function).__name__}"
    if isinstance(function, JITFunction | InterpretedFunction | Autotuner):
        return "this is the kernel: hand over the Python function that launches it"
    names = [*inspect.signature(exercise.reference).parameters, "out"]
    try:
        signature = inspect.signature(function)
        signature.bind(*names)
    except TypeError:
        return (f"`{getattr(function, '__name__', 'the function')}{signature}` is called with ({', '.join(names)}): "
                "leave its arguments as they stand in the exercise")
    except ValueError:
        pass  # a built-in function has no signature
    if hasattr(builtins, "get_ipython"):  # in a notebook
        return superseded(builtins.get_ipython(), [*jit_functions(function), function])
    return None


def unsolved(function: Callable) -> str | None:
    """The first line with a `...` to be replaced, in a function, the kernels that it launches or what those call."""
    for f in [*jit_functions(function), function]:
        try:
            source = textwrap.dedent(inspect.getsource(f))
            tree = ast.parse(source)
        except (OSError, TypeError, SyntaxError):
            continue  # without its source, the function is run
        subscripts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.Subscript) for part in ast.walk(n.slice)}
        gaps = [node.lineno for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and node.value is ... and id(node) not in subscripts]
        if gaps:
            return source.splitlines()[min(gaps) - 1].partition("#")[0].strip()
    return None


def jit_functions(function: Callable) -> Iterator[Callable]:
    """The Python functions under triton.jit that `function` names and, before each, those that it names itself."""
    for found in functions_of(function):
        if isinstance(found, JITFunction | InterpretedFunction | Autotuner):
            fn = python_function(found)
            if fn is not function:
                yield from jit_functions(fn)
                yield fn


def functions_of(function: Callable) -> list:
    """What the names in a function's code stand for, among its globals."""
    code = getattr(function, "__code__", None)
    return [function.__globals__.get(name) for name in code.co_names] if code else []


def arguments(inputs: Inputs) -> tuple:
    """A case's inputs on the CPU: random, but the same every time, so that a report can be compared with the last."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    return inputs(randn)


def exact_result(exercise: Exercise, args: tuple) -> torch.Tensor:
    """The reference's result for the same numbers in float64."""
    return exercise.reference(*(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args))


class Run:
    """A function on one case: on copies of its inputs, with guard elements around them, and an output full of NaN."""

    def __init__(self, exercise: Exercise, args: tuple, like: torch.Tensor, device, function: Callable):
        names = list(inspect.signature(exercise.reference).parameters)
        operands = [Guarded(n, a, device, filled=True) if torch.is_tensor(a) else a for n, a in zip(names, args)]
        self.inputs = [o for o in operands if isinstance(o, Guarded)]
        self.out = Guarded("out", like, device, filled=False)
        self.function = function
        self.args = [o.tensor if isinstance(o, Guarded) else o for o in operands]

    def __call__(self) -> None:
        self.function(*self.args, self.out.tensor)

    def observe(self, seconds: float) -> tuple[Watch, Used]:
        """Runs it in the interpreter; TimeoutError as with_time_limit's, with the launches so far as `launches`."""
        watch, usage = Watch([*self.inputs, self.out]), Usage(self.inputs, self.out)

        def see(access):
            watch(access)
            usage(access)

        with observed(see, most_programs=MOST_PROGRAMS) as usage.launches:
            size = max(g.tensor.numel() for g in [*self.inputs, self.out])
            pytorch = PyTorchWork(usage.launches, max(size // 2, SMALL))

            def call():
                with pytorch:
                    self()

            try:
                with_time_limit(seconds, call)
            except TimeoutError as error:
                error.launches = usage.launches
                raise
        return watch, Used(usage, pytorch)


def run_case(exercise: Exercise, name: str, function: Callable, seconds: float, explain: bool) -> CaseResult:
    args = arguments(exercise.cases[name])
    like, exact = exercise.reference(*args), exact_result(exercise, args)
    run = Run(exercise, args, like, "cpu", function)
    faults, used = {}, None
    try:
        watch, used = run.observe(seconds)
        faults = watch.faults
    except TimeoutError as error:
        return too_long(name, seconds, error.launches, error)
    except Exception as error:
        if INTERPRET or not compiled_only(error):
            return crash(name, error)
    judged = used.kernels.judged if used else None
    if not INTERPRET and not faults:
        run = Run(exercise, args, like, DEVICE, function)
        judged = None  # all of it ran

        def compiled():
            run()
            torch.cuda.synchronize()

        try:
            with_time_limit(COMPILING * seconds, compiled)
        except TimeoutError:
            return CaseResult(name, f"the GPU is still busy after {COMPILING * seconds:g} seconds", fatal=True, means=[
                "A loop in the kernel never ends. The GPU cannot be told to stop: "
                "restart the notebook's kernel."])
        except Exception as error:
            return crash(name, error)
    result = compare(name, exact, run, faults, used, judged, explain)
    result.used = used
    return result


def compare(
    name: str, exact: torch.Tensor, run: Run, faults: dict[str, str], used: Used | None, judged: torch.Tensor | None,
    explain: bool,
) -> CaseResult:
    got, unwritten = run.out.tensor.cpu(), run.out.unwritten
    wanted = exact.to(got.dtype)
    size = exact.double().abs()
    mean = size[size.isfinite()].mean().nan_to_num()
    bound = RELATIVE.get(got.dtype, 0.0) * (size + mean)  # an integer is right or wrong
    right = ((got.double() - exact).abs() <= bound) | (got == wanted) | (got.isnan() & wanted.isnan())
    wrong = ~right | unwritten
    if judged is not None:
        wrong, unwritten = wrong & judged, unwritten & judged
    evidence = Evidence(
        name=name, got=got, wanted=wanted, wrong=wrong, unwritten=unwritten, guard_writes=run.out.guard_writes(),
        faults=faults, inputs={g.name: g.tensor.cpu() for g in run.inputs},
        changed=[g.name for g in run.inputs if g.changed()], usage=used and used.kernels,
    )
    facts = [f"{what}." for what in faults.values()]
    if evidence.changed:
        facts.append(f"The input {' and '.join(evidence.changed)} was written to.")
    if wrong.any():
        first = tuple(wrong.nonzero()[0].tolist())
        index = ", ".join(str(i) for i in first)
        found = "nothing was written" if unwritten[first] else f"got {got[first].item():.6g}"
        number = int(wrong.sum())
        facts.append(f"{number} of {wrong.numel()} elements {'is' if number == 1 else 'are'} wrong. "
                     f"The first: out[{index}], expected {wanted[first].item():.6g}, {found}"
                     f"{'' if unwritten[first] or faults else written_in(used, first)}.")
    if not facts and evidence.guard_writes:
        facts.append(f"Memory around out was written, {evidence.guard_writes[0]} elements from its start.")
    if not facts:
        return CaseResult(name)
    result = CaseResult(name, " ".join(facts), memory_fault=bool(faults or evidence.guard_writes),
                        incomplete=bool(unwritten.any()))
    if explain:
        result.errors, result.means = error_map(evidence), meaning(evidence)
    return result


def written_in(used: Used | None, index: tuple[int, ...]) -> str:
    """Which program wrote an element of the output, and the line of it that did."""
    by = used and used.kernels.written_by(index)
    return f", from program {name_of(by.program, by.grid)} in {by.place}" if by and by.place else ""


def partly(results: list[CaseResult]) -> list[str]:
    """The cases of which, for their many programs, the interpreter ran some."""
    return [
        f"{result.name}: {launch.chosen:,} of {launch.programs:,} programs were interpreted. What they wrote is right."
        for result in results if result.used for launch in result.used.kernels.launches
        if launch.chosen < launch.programs
    ]


def verdict(exercise: Exercise, results: list[CaseResult]) -> tuple[str | None, str | None]:
    """`beyond`, of the largest case that ran in full, and of that in which PyTorch copied most."""
    whole = [result for result in results if result.used and result.used.kernels.complete]
    if not whole or not exercise.solution:
        return None, None
    largest = max(whole, key=lambda result: result.used.pytorch.size)
    copying = max(whole, key=lambda result: result.used.pytorch.copied)  # a contiguous tensor is not copied
    more = None
    for case in [largest, copying] if copying.used.pytorch.copied else [largest]:
        args = arguments(exercise.cases[case.name])
        run = Run(exercise, args, exercise.reference(*args), "cpu", exercise.solution[-1])
        _, enough = run.observe(seconds=60.0)
        ruled_out, word = beyond(case.used, enough, exercise.frugal)
        if ruled_out:
            return ruled_out, None
        more = more or word
    return None, more


def stale_choice(exercise: Exercise, failure: CaseResult, function: Callable, seconds: float) -> list[str]:
    """Whether a case fails for what triton.autotune chose in another one."""
    tuners = [f for f in functions_of(function) if isinstance(f, Autotuner)]
    if not tuners or failure.memory_fault or failure.fatal:
        return []
    with contextlib.ExitStack() as stack:
        for tuner in tuners:
            stack.enter_context(mock.patch.object(tuner, "cache", {}))
        if not run_case(exercise, failure.name, function, seconds, explain=False).passed:
            return []
    return ["Run by itself this case is right: triton.autotune chose the configuration for an earlier one, and keeps "
            "it for all calls that agree in `key`. The key lacks an argument on which the choice depends."]
