"""`check`: a learner's kernel against the reference."""
import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from course.exercises import Exercise, find
from course.lab.diagnose import Evidence, across, meaning
from course.lab.interpret import observed
from course.lab.report import CaseResult, Report, picture
from course.lab.sandbox import Guarded, Watch, within
from course.lab.speed import speed
from course.runtime import DEVICE, INTERPRET
from course.verify import full_precision

RELATIVE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""How far a result may be off: some units in the last place, of the element and of the mean."""


@full_precision()
def check(exercise: str | Exercise, function: Callable, *, seconds: float = 60.0) -> Report:
    """Runs `function` on the exercise's cases and reports, in words and pictures, whether it is right.

    Every case is interpreted first, its tensors amid guarded memory and its output full of NaN, so that a wild store,
    an endless loop (`seconds` a case) or an error in the kernel harms nothing; on a GPU it then runs compiled, and once
    all cases pass it is timed. PyTorch's and the course's float32 products run without TF32 meanwhile: the results are
    compared with float64. Never raises, except when it is interrupted.
    """
    try:
        exercise = find(exercise)
    except LookupError as error:
        return Report(str(exercise), "failed", f"{error}")
    if not callable(function):
        return Report(exercise.name, "failed", f"expected a function, got {type(function).__name__}")
    if isinstance(function, JITFunction | InterpretedFunction):
        return Report(exercise.name, "failed", "this is the kernel: hand over the Python function that launches it")
    gap = unsolved(function)
    if gap:
        return Report(exercise.name, "unsolved", f"not solved yet: `{gap}`")
    results = []
    for name in exercise.cases:
        try:
            explain = all(result.passed for result in results)  # the first failure is enough to think about
            results.append(run_case(exercise, name, function, seconds, explain))
        except Exception as error:  # a GPU that an earlier mistake has broken, for one
            results.append(crash(name, error))
        if results[-1].fatal:
            break
    failures = [result for result in results if not result.passed]
    if failures:
        failures[0].means += across(results)
        fail = "fails" if len(failures) == 1 else "fail"
        return Report(exercise.name, "failed", f"{len(failures)} of {len(exercise.cases)} cases {fail}", results)
    report = Report(exercise.name, "passed", f"all {len(results)} cases pass", results)
    if not INTERPRET and exercise.heavy:
        try:
            report.speed = speed(exercise, function)
        except Exception as error:
            report.status, report.headline = "failed", "the small cases pass, the large input does not"
            report.cases.append(crash("large input", error))
    return report


def unsolved(function: Callable) -> str | None:
    """The first line, in a function, the kernels that it launches or what those call, where `...` waits for code."""
    for f in [*jit_functions(function), function]:
        try:
            source = textwrap.dedent(inspect.getsource(f))
            tree = ast.parse(source)
        except (OSError, TypeError, SyntaxError):
            continue  # no source to read: it will be run
        subscripts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.Subscript) for part in ast.walk(n.slice)}
        gaps = [node.lineno for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and node.value is ... and id(node) not in subscripts]  # fmt: skip
        if gaps:
            return source.splitlines()[min(gaps) - 1].partition("#")[0].strip()
    return None


def jit_functions(function: Callable) -> Iterator[Callable]:
    """The Python functions under triton.jit that `function` names and, before each, those that it names itself."""
    code = getattr(function, "__code__", None)
    for found in [function.__globals__.get(name) for name in code.co_names] if code else []:
        if isinstance(found, JITFunction | InterpretedFunction) and found.fn is not function:
            yield from jit_functions(found.fn)
            yield found.fn


def arguments(exercise: Exercise, inputs: Callable) -> tuple:
    """A case's inputs on the CPU: random, but the same every time, so that a report can be compared with the last."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    return inputs(randn)


def exact_result(exercise: Exercise, args: tuple) -> torch.Tensor:
    """What the reference makes of the same numbers in float64."""
    return exercise.reference(*(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args))


def run_case(exercise: Exercise, name: str, function: Callable, seconds: float, explain: bool) -> CaseResult:
    args = arguments(exercise, exercise.cases[name])
    like, exact = exercise.reference(*args), exact_result(exercise, args)
    names = list(inspect.signature(exercise.reference).parameters)

    def prepare(device):
        inputs = [Guarded(n, a, device, filled=True) if torch.is_tensor(a) else a for n, a in zip(names, args)]
        out = Guarded("out", like, device, filled=False)
        return inputs, out, [i.tensor if isinstance(i, Guarded) else i for i in inputs]

    inputs, out, tensors = prepare("cpu")
    watch = Watch([g for g in [*inputs, out] if isinstance(g, Guarded)])
    try:
        with observed(watch):
            within(seconds, lambda: function(*tensors, out.tensor))
    except TimeoutError:
        return CaseResult(name, f"still running after {seconds:g} seconds", fatal=True,
                          means=["A loop never ends: does what it tests change in each turn?"])  # fmt: skip
    except Exception as error:
        if INTERPRET or "overflow detected" in str(error):  # a GPU would compute a wild address
            return crash(name, error)
    if not INTERPRET and not watch.astray:
        inputs, out, tensors = prepare(DEVICE)

        def compiled():
            function(*tensors, out.tensor)
            torch.cuda.synchronize()

        try:
            within(seconds, compiled)
        except TimeoutError:
            return CaseResult(name, f"the GPU is still busy after {seconds:g} seconds", fatal=True, means=[
                "A loop in the kernel never ends. The GPU cannot be told to stop: "
                "restart the notebook's kernel."])  # fmt: skip
        except Exception as error:
            return crash(name, error)
    return compare(name, exact, inputs, out, watch.astray, explain)


def compare(name, exact, inputs, out, astray, explain) -> CaseResult:
    got, unwritten = out.tensor.cpu(), out.unwritten
    wanted = exact.to(got.dtype)
    size = exact.double().abs()
    mean = size[size.isfinite()].mean().nan_to_num()
    bound = RELATIVE.get(got.dtype, 0.0) * (size + mean)  # an integer is right or wrong
    right = ((got.double() - exact).abs() <= bound) | (got == wanted) | (got.isnan() & wanted.isnan())
    wrong = ~right | unwritten
    evidence = Evidence(
        name=name, got=got, wanted=wanted, wrong=wrong, unwritten=unwritten, trespassed=out.trespassed(), astray=astray,
        inputs={g.name: g.tensor.cpu() for g in inputs if isinstance(g, Guarded)},
        changed=[g.name for g in inputs if isinstance(g, Guarded) and g.changed()],
    )  # fmt: skip
    facts = [f"{what}." for what in astray.values()]
    if evidence.changed:
        facts.append(f"The input {' and '.join(evidence.changed)} was written to.")
    if wrong.any():
        first = tuple(wrong.nonzero()[0].tolist())
        index = ", ".join(str(i) for i in first)
        came = "nothing was written" if unwritten[first] else f"got {got[first].item():.6g}"
        number = int(wrong.sum())
        facts.append(f"{number} of {wrong.numel()} elements {'is' if number == 1 else 'are'} wrong. "
                     f"The first: out[{index}], expected {wanted[first].item():.6g}, {came}.")  # fmt: skip
    if not facts and evidence.trespassed:
        facts.append(f"Memory around out was written, {evidence.trespassed[0]} elements from its start.")
    if not facts:
        return CaseResult(name)
    result = CaseResult(name, " ".join(facts), astray=bool(astray or evidence.trespassed))
    if explain:
        result.picture, result.means = picture(evidence), meaning(evidence)
    return result


def crash(name: str, error: Exception) -> CaseResult:
    text = str(error).strip() or type(error).__name__
    what = f"{type(error).__name__}: {text[-600:]}"
    means = [tip for sign, tip in CRASHES.items() if sign in what]
    return CaseResult(name, what, means=means[:1])


CRASHES = {
    "arange's range must be a power of 2": "A block's size must be a power of two: round it up with "
    "triton.next_power_of_2 and mask the rest.",
    "overflow detected": "A product or sum passed what 32 bits hold: convert the program's number with .to(tl.int64) "
    "before it is multiplied.",
    "illegal memory access": "A compiled kernel reached memory that is not its own, and the GPU gave up: restart the "
    "notebook's kernel. Offsets beyond 2**31 need .to(tl.int64); a mask belongs on every load and store.",
    "missing 1 required positional": "The launch hands over fewer arguments than the kernel takes.",
    "make_shape_compatible": "Two blocks of different shapes meet in one operation: [:, None] and [None, :] turn rows "
    "and columns into a tile.",
    "is not defined": "A kernel sees its own arguments and variables, and constants that are tl.constexpr.",
    "'ellipsis'": "There is still a ... where code belongs.",
}
"""What errors that learners meet usually mean, by a part of their text."""
