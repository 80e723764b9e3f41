"""Every exercise: the stub is unsolved, or fails as it should; the solution passes, likely mistakes are explained."""
import dataclasses
import difflib
import importlib
import inspect
import pkgutil

import pytest
import torch

import course.exercises
from course import lab
from course.lab.checking.check import arguments
from course.lab.checking.exercise import find
from course.runtime import INTERPRET

CHAPTERS = [module.name for module in pkgutil.iter_modules(course.exercises.__path__)]
EXERCISES = [e for chapter in CHAPTERS for e in importlib.import_module(f"course.exercises.{chapter}").EXERCISES]
WRONG = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.wrong]

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)


@pytest.fixture
def with_gradients_as_in_a_notebook():
    with torch.enable_grad():
        yield


@each_exercise
def test_stub_is_unsolved(exercise):
    report = lab.check(exercise, exercise.build(exercise.stub))
    if exercise.symptom:
        assert report.status == "failed" and exercise.symptom in repr(report), report
    else:
        assert report.status == "unsolved", report


@each_exercise
def test_solution_passes(exercise, with_gradients_as_in_a_notebook):
    report = lab.check(exercise, exercise.build(exercise.answer))
    assert report.passed, report


@pytest.mark.parametrize("exercise, mistake", WRONG, ids=[f"{e.name}: {mistake}" for e, mistake in WRONG])
def test_mistake_is_found_and_explained(exercise, mistake):
    function, says = exercise.build(exercise.wrong_source(mistake)), exercise.wrong[mistake].says
    for name, inputs in exercise.cases.items():
        # the heavy input, which a GPU reads unguarded, is for kernels that pass all cases
        report = lab.check(dataclasses.replace(exercise, cases={name: inputs}, heavy=None), function)
        if not report.passed:
            break  # the first failure is the one that is explained: it saves the cases behind it
    if says not in repr(report):
        report = lab.check(exercise, function)
    assert report.status == ("almost" if says.startswith("right, but") else "failed")
    assert says in repr(report), report


@pytest.mark.skipif(not INTERPRET, reason="of the interpreter")
def test_axpy_in_float16_throughout():
    """A compiled kernel computes this in float32, for there `alpha` is a float32 number; interpreted it is wrong."""
    axpy = find("vector_add.axpy")
    report = lab.check(axpy, axpy.build(axpy.answer.replace(".to(tl.float32)", "")))
    assert report.status == "failed" and "terms that nearly cancel: " in repr(report)


@each_exercise
def test_solution_and_stub_differ_in_what_the_learner_writes(exercise):
    stub, answer = exercise.stub.splitlines(), exercise.answer.splitlines()
    changes = [c for c in difflib.SequenceMatcher(a=stub, b=answer, autojunk=False).get_opcodes() if c[0] != "equal"]
    assert changes
    for _, start, end, written_from, written_to in changes:
        gap, written = stub[start:end], answer[written_from:written_to]
        assert gap and written and (exercise.symptom or all("..." in line for line in gap)), (gap, written)
    assert bool(exercise.symptom) == ("..." not in exercise.stub)
    assert "#>" not in exercise.stub + exercise.answer and "#<" not in exercise.stub + exercise.answer


@each_exercise
def test_enough_cases(exercise):
    inputs = [[a for a in arguments(make) if torch.is_tensor(a)] for make in exercise.cases.values()]
    assert len(inputs) >= 5
    assert any(tensors[0].numel() == 1 for tensors in inputs)  # the data; what follows may be weights
    assert any(a.numel() >= 100_000 for tensors in inputs for a in tensors)
    assert any(size > 1 and size % 2 for tensors in inputs for a in tensors for size in a.shape)
    assert any(not a.is_contiguous() for tensors in inputs for a in tensors)


@each_exercise
def test_help_and_mistakes_are_there(exercise):
    assert len(exercise.hints) == 3 and all(exercise.hints) and exercise.explanation
    assert len(exercise.wrong) >= 3
    assert exercise.task.startswith("### Exercise ")
    parameters = list(inspect.signature(exercise.solution[-1]).parameters)
    assert parameters == [*inspect.signature(exercise.reference).parameters, "out"]


def test_names_are_unique_and_found():
    assert len({e.name for e in EXERCISES}) == len(EXERCISES)
    assert all(find(e.name) is e for e in EXERCISES)
    with pytest.raises(LookupError, match="no exercise 'vector_add.x': expected one of vector_add.fill_in"):
        find("vector_add.x")


@pytest.mark.gpu
@each_exercise
def test_heavy_inputs_run(exercise):
    report = lab.check(exercise, exercise.build(exercise.answer))
    assert report.passed and report.speed == bool(exercise.heavy)
