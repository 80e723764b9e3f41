"""`check`: right and wrong functions, and the words of the report."""
import contextlib
import dataclasses
import functools
import io
import math  # noqa: F401  for the learners' cells below
import re
import sys
import threading
import time

import numpy as np  # noqa: F401
import pytest
import torch
import triton
import triton.language as tl
from IPython.core.interactiveshell import InteractiveShell

from course import lab
from course.exercises.vector_add import my_add_kernel
from course.lab.checking import check as check_module
from course.lab.checking.exercise import find
from course.lab.measuring import speed
from course.runtime import INTERPRET
from tests.lab.kernels import double_kernel

ADD = find("vector_add.fill_in")


@triton.jit
def unsolved_double(x):
    y = ...
    return y


@triton.jit
def calls_an_unsolved_one(x_ptr, out_ptr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, unsolved_double(tl.load(x_ptr + offs)))


def my_add(x, y, out):
    my_add_kernel[(triton.cdiv(out.numel(), 1024),)](x, y, out, out.numel(), x.stride(0), y.stride(0), BLOCK=1024)


def test_right():
    report = lab.check("vector_add.fill_in", my_add)
    assert report.passed and len(report.cases) >= 5
    assert repr(report).startswith("PASSED  vector_add.fill_in: all 7 cases pass")
    assert "vector_add.fill_in" in report._repr_html_()


@pytest.mark.parametrize("function", [
    lambda x, y, out: torch.add(x, y, out=out), lambda x, y, out: out.copy_(x + y),
    lambda x, y, out: my_add(x + y, 0 * y, out),
])
def test_pytorch_s_own_result_is_right_but_no_kernel_s(function):
    report = lab.check(ADD, function)
    assert report.status == "almost" and "right, but computed by PyTorch (" in repr(report)
    assert report._repr_html_()


@triton.jit
def an_element_a_program(x_ptr, y_ptr, out_ptr, stride_x, stride_y):
    i = tl.program_id(0)
    tl.store(out_ptr + i, tl.load(x_ptr + i * stride_x) + tl.load(y_ptr + i * stride_y))


def test_one_program_an_element_is_right():
    """100,003 programs would take a minute in the interpreter: a part of them runs, and a GPU runs all."""
    start = time.monotonic()
    report = lab.check(ADD, lambda x, y, out: an_element_a_program[out.shape](x, y, out, x.stride(0), y.stride(0)))
    assert report.passed, report
    assert "512 of 100,003 programs were interpreted" in repr(report) and time.monotonic() - start < 60


def test_a_million_programs_are_reported_soon():
    """A GPU runs them all; `heavy`, of 2**26 elements, would keep it busy for minutes."""
    start = time.monotonic()
    report = lab.check(dataclasses.replace(ADD, heavy=None), lambda x, y, out: an_element_a_program[
        (out.numel(), 1000)](x, y, out, x.stride(0), y.stride(0)))
    assert report.status == "almost" or not INTERPRET and report.passed, report
    assert not INTERPRET or "512 of 100,003,000 programs were interpreted" in repr(report), report
    assert time.monotonic() - start < 60


@triton.jit
def large_and_wrong(x_ptr, y_ptr, out_ptr, n, stride_x, stride_y):
    i = tl.program_id(0)
    y = tl.load(y_ptr + i * stride_y)
    tl.store(out_ptr + i, tl.load(x_ptr + i * stride_x) + tl.where(n > 100_000, 2 * y, y))


def test_of_many_programs_those_that_ran_are_judged():
    two = dataclasses.replace(ADD, cases={n: c for n, c in ADD.cases.items() if n == "1,000 elements" or "large" in n})
    report = lab.check(two, lambda x, y, out: large_and_wrong[out.shape](
        x, y, out, out.numel(), x.stride(0), y.stride(0)))
    assert "1 of 2 cases fails" in repr(report)
    wrong = int(re.search(r"(\d+) of 100003 elements are wrong", repr(report))[1])
    assert wrong == 512 if INTERPRET else wrong > 90_000  # a GPU runs all; a few elements of y are almost 0


@triton.jit
def methods_kernel(x_ptr, y_ptr, out_ptr, n, stride_x, stride_y, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs * stride_x, mask=offs < n, other=0.0)
    y = tl.load(y_ptr + offs * stride_y, mask=offs < n, other=0.0)
    tl.store(out_ptr + offs, (max(x, y).exp() * min(x, y).exp()).log() + 0 * (x.max() + y.sum()), mask=offs < n)


def test_methods_and_python_s_max_are_triton_s():
    def launch(x, y, out):
        methods_kernel[[triton.cdiv(out.numel(), 1024)]](x, y, out, out.numel(), x.stride(0), y.stride(0), BLOCK=1024)

    report = lab.check(ADD, launch)
    assert report.passed, report
    assert report.headline == "all 7 cases pass"


def test_float32_is_float32():
    torch.backends.cudnn.allow_tf32 = True
    seen = []
    lab.check(ADD, lambda x, y, out: seen.append(torch.backends.cudnn.allow_tf32))
    assert seen and not any(seen) and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("function, words", [
    (lambda x, y, out: None, ["Nothing was written"]),
    (lambda x, y, out: out.copy_(x), ["This is the input x itself"]),
    (lambda x, y, out: out.copy_(x - y), ["look at the formula", "expected", "got"]),
    (lambda x, y, out: out.copy_((x + y).roll(1)), ["1 too late"]),
    (lambda x, y, out: (torch.add(x, y, out=out), x.zero_()), ["The input x was written to"]),
    (lambda x, y, out: out[:-1].copy_((x + y)[:-1]), ["1 of 1000 elements is wrong", "Only the last element"]),
    (lambda x, y, out: out.copy_((x + y) * 1.0001), ["Nearly right"]),
    (lambda x, y, out: out.copy_(torch.where(x > 0, x + y, float("nan"))), ["NaN where a number belongs"]),
    (lambda x, y, out: 1 / 0, ["ZeroDivisionError"]),
    (lambda x, y: None, ["(x, y)` is called with (x, y, out): leave its arguments as they stand"]),
    (lambda x, y, out: sys.exit(), ["FAILED"]),
])
def test_wrong(function, words):
    report = lab.check(ADD, function)
    assert report.status == "failed"
    said = "\n".join(f"{c.problem} {c.means}" for c in report.cases) + repr(report)
    for word in words:
        assert word in said
    assert report._repr_html_()


def test_an_infinity_leaves_the_others_their_tolerance():
    def infinite(randn):
        return torch.tensor([float("inf"), 1.0, float("nan")]), torch.ones(3)

    exercise = dataclasses.replace(ADD, cases={"3 elements": infinite}, solution=())
    assert lab.check(exercise, lambda x, y, out: out.copy_((x + y) * (1 + 2e-6))).passed
    assert not lab.check(exercise, lambda x, y, out: out.copy_((x + y) * (1 + 1e-4))).passed


def test_integers_are_right_or_wrong(monkeypatch):
    def which(x, y):
        return torch.where(x > y, 1000, 7)

    def nearly(x, y, out):
        out.copy_(which(x, y))[0] += 1

    exercise = dataclasses.replace(ADD, reference=which, solution=())
    assert lab.check(exercise, lambda x, y, out: out.copy_(which(x, y))).passed
    report = lab.check(exercise, nearly)
    assert "1 of 1000 elements is wrong. The first: out[0], expected 1000, got 1001" in repr(report)
    monkeypatch.setattr(speed, "time_in_turn", lambda calls, cold: pytest.fail("timed"))
    large = dataclasses.replace(exercise, heavy=lambda randn: (torch.arange(-9.0, 9), torch.zeros(18)))
    with pytest.raises(AssertionError, match="Tensor-likes are not"):
        speed.speed(large, lambda x, y, out: out.copy_(which(y, x)))


def test_hang():
    @triton.jit
    def forever(out_ptr, n):
        i = n
        while i > 0:
            tl.store(out_ptr, 0.0)

    before, start = threading.active_count(), time.monotonic()
    report = lab.check(ADD, lambda x, y, out: forever[(1,)](out, out.numel()), seconds=1)
    assert "still running after 1 seconds, in line" in repr(report) and "loop never ends" in repr(report)
    assert "0 of 1 programs of forever had run" in repr(report)
    assert time.monotonic() - start < 15 and threading.active_count() == before


def test_how_far_many_slow_programs_came():
    def launch(x, y, out):
        an_element_a_program[(32, 64)](x, y, out, 0, 0)

    report = lab.check(ADD, launch, seconds=0.5)
    assert re.search(r"[1-9]\d+ of 2,048 programs of an_element_a_program had run", repr(report)), report
    assert "Each program comes to its end, but there are many" in repr(report)


def test_an_endless_loop_in_the_launcher():
    def launch(x, y, out):
        while True:
            pass

    assert "A loop outside of the kernel never ends" in repr(lab.check(ADD, launch, seconds=0.5))


@pytest.mark.parametrize("function, words", [
    (None, "expected a function, got NoneType"), (double_kernel, "this is the kernel"),
])
def test_not_a_function(function, words):
    report = lab.check(ADD, function)
    assert report.status == "failed" and words in repr(report)


def written(body, grid="(1,)", exercise=ADD):
    """The report on a kernel with `body`, as a learner writes one in a cell."""
    source = f"""
@triton.jit
def kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    {body}
    tl.store(out_ptr + offs, x, mask=offs < n)


def my_add(x, y, out):
    kernel[{grid}](x, y, out, out.numel(), BLOCK=4096)
"""
    return repr(lab.check(exercise, exercise.build(source)))


@pytest.mark.parametrize("body, error, means", [
    ("x = y_ptr[offs]", "TypeError", "tl.load(x_ptr + offs) reads"),
    ("x = x[3]", "TypeError", "brackets take only"),
    ("x = x if x > 0 else -x", "a block of 4,096 elements is neither true nor false", "tl.where(condition, a, b)"),
    ("x = x and x", "neither true nor false", "`&`, `|` and `~` combine masks"),
    ("x = undefined(x)", "NameError: name 'undefined' is not defined", "A kernel sees its own arguments"),
    ("x = np.exp(x)", "TypeError", "NumPy's functions"),
    ("x = torch.exp(x)", "TypeError", "PyTorch's functions"),
    ("x = math.exp(x)", "Error", "Triton's functions for blocks"),
    ("x = x.to(tl.int32, bitcast=True) & 0xFFFF0000", "out of range for type int32", "0xFFFF0000 is -65536"),
    ("x = x + tl.arange(0, n)", "tl.constexpr", "has to be known when the kernel is compiled"),
    ("x = tl.load(offs)", "Unsupported ptr type", "is a pointer plus offsets"),
    ("x = tl.load(y_ptr + offs / 2)", "invalid operands of type pointer", "`//` divides without a fraction"),
    ("tl.store(out_ptr, x)", "Value argument cannot be block type", "the address needs the offsets"),
    ("x[0] = 1.0", "item assignment", "tl.where(offs == i, value, block)"),
    ("x = tl.exp(offs)", "Expected dtype", ".to(tl.float32)"),
])
def test_errors_have_their_line_and_what_they_mean(body, error, means):
    report = written(body, exercise=dataclasses.replace(ADD, solution=[np_torch_and_math]))
    assert error in report and means in report, report
    assert f"line 6 of kernel, `{body}`" in report


def np_torch_and_math():
    """Its globals are those of the learners' cells in these tests."""


np_torch_and_math.__name__ = "my_add"


@pytest.mark.parametrize("grid, words", [
    ("4", "the grid is the number 4: expected a tuple of up to three, such as (4,)"),
    ("(out.numel() / 4096,)", "expected whole numbers, as triton.cdiv"),
    ("None", "the grid is None"), ("(1, 1, 1, 1)", "expected a tuple of one, two or three numbers"),
])
def test_a_grid_that_is_none(grid, words):
    report = written("x = x", grid)
    assert words in report and "line 11 of my_add, `kernel[" in report, report


def test_a_wrong_number_has_the_line_that_wrote_it():
    report = written("x = -x")
    assert "from program 0 in line 7 of kernel, `tl.store(out_ptr + offs, x, mask=offs < n)`" in report


def test_no_such_exercise():
    assert "expected one of vector_add.fill_in" in repr(lab.check("vector_add.fillin", my_add))
    assert "no chapter 'vectoradd'" in repr(lab.check("vectoradd.fill_in", my_add))


CELLS = ["""
import triton, triton.language as tl
from course import lab

@triton.jit
def kernel(x_ptr, y_ptr, out_ptr, n, sx, sy, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs * sx, mask=offs < n) + tl.load(y_ptr + offs * sy, mask=offs < n)
    tl.store(out_ptr + offs, x, mask=offs < n)

def my_add(x, y, out):
    n = out.numel()
    kernel[(triton.cdiv(n, 1024),)](x, y, out, n, x.stride(0), y.stride(0), BLOCK=1024)
""", "report = lab.check('vector_add.fill_in', my_add)"]


@pytest.mark.parametrize("edits, why", [
    ([("    n = out.numel()", "    n = (out.numel(")], "`my_add` is the one from before: the cell that was run last"),
    ([("    offs = tl", "    offs == = tl")], "`kernel` is the one from before"),
    ([("from course import lab", "1 / 0"), ("BLOCK=1024", "BLOCK=2048")], "it raised an error"),
])
def test_a_cell_that_failed_leaves_the_old_function(edits, why):
    """As in a notebook: the second time, the cell does not get as far as the function."""
    shell = InteractiveShell()
    for cell in CELLS:
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["report"].passed
    edited = functools.reduce(lambda cell, edit: cell.replace(*edit), edits, CELLS[0])
    with contextlib.redirect_stdout(io.StringIO()):
        assert not shell.run_cell(edited, store_history=True).success
    shell.run_cell(CELLS[1], store_history=True).raise_error()
    assert why in repr(shell.user_ns["report"])
    for cell in CELLS:
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["report"].passed


def test_unsolved_in_the_function_itself():
    def stub(x, y, out):
        grid = ...
        return grid, out[..., 0]

    report = lab.check(ADD, stub)
    assert (report.status, report.headline) == ("unsolved", "not solved yet: `grid = ...`")


def test_unsolved_in_what_a_kernel_calls():
    def launch(x, y, out):
        calls_an_unsolved_one[(1,)](x, out, BLOCK=16)

    report = lab.check(ADD, launch)
    assert (report.status, report.headline) == ("unsolved", "not solved yet: `y = ...`")


@pytest.mark.parametrize("function, words", [
    (lambda a, b, out: torch.mm(a[:, :30], b[:30], out=out), "a part of each sum is missing or counted twice"),
    (lambda a, b, out: torch.mm(a, b.flip(0), out=out), "nothing to do with the right ones"),
    (lambda a, b, out: torch.mm(a, b, out=out).view(-1)[:610].neg_(), "Some elements are right"),
], ids=["part of the sums", "other elements", "some rows"])
def test_wrong_sums(function, words):
    product = dataclasses.replace(ADD, reference=lambda a, b: a @ b, cases={
        "40 × 50 by 50 × 30": lambda randn: (randn(40, 50), randn(50, 30)),
    })
    assert words in repr(lab.check(product, function))


def test_the_gpu_s_part(monkeypatch):
    """On a GPU a case runs twice, interpreted under watch and then compiled, and is timed after that."""
    runs = []
    monkeypatch.setattr(check_module, "INTERPRET", False)
    monkeypatch.setattr(check_module, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(check_module, "speed", lambda exercise, function: ["as fast as a copy"])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def function(x, y, out):
        runs.append(out.numel())
        if len(runs) % 2 == 0:
            torch.add(x, y, out=out)

    exercise = dataclasses.replace(ADD, solution=())
    report = lab.check(exercise, function)
    assert report.passed and len(runs) == 2 * len(ADD.cases) and "as fast as a copy" in repr(report)
    runs.clear()
    monkeypatch.setattr(check_module, "speed", lambda exercise, function: 1 / 0)
    assert lab.check(exercise, function).headline == "the small cases pass, the large input does not"


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(check_module, "INTERPRET", False)
    monkeypatch.setattr(check_module, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@triton.jit
def raises(x_ptr, out_ptr):
    tl.store(out_ptr, undefined(tl.load(x_ptr)))  # noqa: F821


@triton.jit
def assembler(x_ptr, out_ptr):
    tl.store(out_ptr, tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tl.load(x_ptr)], tl.float32, True, 1))


@pytest.mark.parametrize("launch, compiled", [
    (lambda x, out: raises[(1,)](x, out), False), (lambda x, out: raises[None](x, out), False),
    (lambda x, out: assembler[(1,)](x, out), True), (lambda x, out: 1 / 0, True),
], ids=["kernel", "grid", "assembler", "launcher"])
def test_an_error_of_a_launch_is_reported_before_it_is_compiled(as_on_a_gpu, monkeypatch, launch, compiled):
    """What the interpreter cannot do, and what its tensors on the CPU lack, a GPU has the last word on."""
    def function(x, y, out):
        launch(x, out)

    def with_time_limit(seconds, call):
        return call() if seconds == 10.0 else pytest.fail("compiled")

    monkeypatch.setattr(check_module, "with_time_limit", with_time_limit)
    one = dataclasses.replace(ADD, solution=(), heavy=None, cases={"1,000 elements": ADD.cases["1,000 elements"]})
    if compiled:
        with pytest.raises(pytest.fail.Exception, match="compiled"):
            lab.check(one, function)
    else:
        assert "In line" in repr(lab.check(one, function))
