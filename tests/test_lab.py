import ast
import dataclasses
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import lab
from course.exercises import find
from course.kernels import _pointwise
from course.kernels.add import add_op
from course.lab import stored
from course.lab.interpret import observed
from course.lab.races import Races
from course.lab.sandbox import Guarded, within
from course.runtime import DEVICE
from course.timing import Timing

ROOT = Path(__file__).parents[1]
ADD = find("vector_add.fill_in")


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, 2 * tl.load(x_ptr + offs, mask=offs < n), mask=offs < n)


@triton.jit
def unmasked_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, 2 * tl.load(x_ptr + offs))


@triton.jit
def normalise(e):
    return e / tl.sum(e, axis=0)


@triton.jit
def softmax_kernel(x_ptr, out_ptr, stride, n_cols, BLOCK_N: tl.constexpr):
    cols = tl.arange(0, BLOCK_N)
    offs = tl.program_id(0) * stride + cols
    x = tl.load(x_ptr + offs, mask=cols < n_cols, other=-float("inf"))
    tl.store(out_ptr + offs, normalise(tl.exp(x - x.max(axis=0))), mask=cols < n_cols)


@triton.jit
def outer_kernel(a_ptr, b_ptr, c_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    a = tl.load(a_ptr + rows, mask=rows < M)
    b = tl.load(b_ptr + cols, mask=cols < N)
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(c_ptr + rows[:, None] * N + cols[None, :], a[:, None] * b[None, :], mask=inside)


@triton.jit
def count_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        offs = start + tl.arange(0, BLOCK)
        tl.atomic_add(out_ptr, tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0)))


@triton.jit
def unsolved_double(x):
    y = ...
    return y


@triton.jit
def calls_an_unsolved_one(x_ptr, out_ptr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, unsolved_double(tl.load(x_ptr + offs)))


@triton.jit
def descriptor_kernel(x_desc, out_ptr, n, BLOCK: tl.constexpr):
    x = x_desc.load([tl.program_id(0) * BLOCK])
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, x, mask=offs < n)


@triton.jit
def window_kernel(x_ptr, out_ptr, stride, BLOCK: tl.constexpr):
    pixel = tl.arange(0, BLOCK)[:, None]
    for element in range(9):
        row, column = pixel // 3 - 1 + element // 3, pixel % 3 - 1 + element % 3
        inside = (pixel < 9) & (row >= 0) & (row < 3) & (column >= 0) & (column < 3)
        x = tl.load(x_ptr + row * stride + column, mask=inside, other=0.0)
        tl.store(out_ptr + pixel, x, mask=pixel < 9)


def vector(n):
    return torch.arange(float(n), device=DEVICE)


class TestTrace:
    def test_every_element_and_masked_lane_is_counted(self):
        x, out = vector(10), torch.zeros(10, device=DEVICE)
        record = lab.trace(double_kernel, (3,), x, out, 10, BLOCK=4)
        assert (record.read, record.written, record.moved, record.ideal) == (40, 40, 80, 80)
        assert (record.lanes(), record.lanes("masked"), record.lanes("outside")) == (24, 4, 0)
        assert not out.any(), "the launch worked on copies"
        last = record.touches["out_ptr written"][-1]
        assert last.program == (2, 0, 0) and last.column.tolist() == [8, 9, 10, 11]
        assert last.state.tolist() == ["active", "active", "masked", "masked"]

    def test_lanes_outside_are_told_apart(self):
        record = lab.trace(unmasked_kernel, (3,), vector(10), vector(10), BLOCK=4)
        assert (record.lanes("outside"), record.moved, record.ideal) == (4, 96, 80)
        assert "4 lanes outside" in repr(record)

    def test_a_lost_pointer_does_no_harm(self):
        record = lab.trace(unmasked_kernel, (1,), vector(4), vector(4)[:0], BLOCK=1 << 16)
        assert record.lost + record.lanes("outside") == 2 * (1 << 16) - 4

    def test_functions_called_by_the_kernel_and_masked_columns(self):
        x = torch.randn(3, 5, device=DEVICE)
        record = lab.trace(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8)
        touch = record.touches["x_ptr read"][0]
        # the address of a masked lane is that of the next row's first element; its place is behind the row
        assert touch.row.tolist() == [0] * 8 and touch.column.tolist() == list(range(8))
        assert record.moved == record.ideal == 2 * 4 * 15

    def test_tiles(self):
        a, b, c = vector(3), vector(6), torch.empty(3, 6, device=DEVICE)
        record = lab.trace(outer_kernel, (2, 2), a, b, c, 3, 6, BLOCK_M=2, BLOCK_N=4)
        tile = record.touches["c_ptr written"][3]
        assert tile.program == (1, 1, 0)
        assert (tile.row[:, 0].tolist(), tile.column[0].tolist()) == ([2, 3], [4, 5, 6, 7])
        assert (record.read, record.written) == (4 * (2 * 3 + 2 * 6), 4 * 18)  # each vector is read by two programs
        assert record.ideal == 4 * (3 + 6 + 18)

    @pytest.mark.parametrize("view", [lambda t: t[::2], lambda t: t[2:7], lambda t: t.expand(3, 12)])
    def test_views(self, view):
        x = view(vector(12))
        record = lab.trace(double_kernel, (1,), x, vector(4), 1, BLOCK=4)
        assert record.touches["x_ptr read"][0].state.tolist() == ["active"] + 3 * ["masked"]

    def test_tensors_one_behind_the_other(self):
        """Most lanes of the last block are masked, and their addresses are in the next tensor."""
        x, out = torch.ones(2, 5, device=DEVICE)
        record = lab.trace(double_kernel, (2,), x, out, 5, BLOCK=4)
        assert set(record.touches) == {"x_ptr read", "out_ptr written"}
        assert record.lanes("masked") == 2 * 3 and record.lanes("outside") == 0

    def test_the_margin_of_windows_is_around_the_image(self):
        """Where rows lie apart; in a contiguous image the address of the margin is that of other pixels."""
        image, out = torch.ones(3, 9, device=DEVICE)[:, :3], torch.empty(3, 3, device=DEVICE)
        record = lab.trace(window_kernel, (1,), image, out, image.stride(0), BLOCK=16)
        places = {}
        for touch in record.touches["x_ptr read"]:
            for row, column, state in zip(touch.row.flat, touch.column.flat, touch.state.flat):
                places.setdefault(str(state), set()).add((int(row), int(column)))
        every = {(row, column) for row in range(-1, 4) for column in range(-1, 4)}
        assert places["active"] == {(row, column) for row in range(3) for column in range(3)}
        assert every - places["active"] <= places["masked"] and "outside" not in places

    def test_atomics_read_and_write(self):
        total = torch.zeros(1, device=DEVICE)
        record = lab.trace(count_kernel, (2,), vector(10), total, 10, BLOCK=4)
        assert (record.read, record.written) == (40 + 3 * 4, 3 * 4)
        assert len(record.touches["out_ptr read"]) == 3

    def test_tensor_descriptors(self):
        x = vector(12)
        record = lab.trace(descriptor_kernel, (4,), TensorDescriptor.from_tensor(x, [4]), vector(12), 12, BLOCK=4)
        assert record.read == record.written == 48 and record.lanes("masked") == 2 * 4

    def test_autotuned_kernels_take_their_first_configuration(self):
        tuned = triton.autotune([triton.Config({"BLOCK": 4}), triton.Config({"BLOCK": 8})], key=["n"])(double_kernel)
        assert len(lab.trace(tuned, lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),), vector(10), vector(10), 10)
                   .touches["x_ptr read"]) == 3  # fmt: skip

    def test_the_package_s_own_kernel(self):
        x = vector(10)
        record = lab.trace(_pointwise.flat_kernel, (3,), x, x.clone(), x.clone(), 10, OP=add_op, BLOCK=4)
        assert record.moved == record.ideal == 120

    def test_where_kernels_are_compiled(self):
        """What a GPU machine does: jit functions made to be compiled are interpreted, and compiled afterwards."""
        done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_ALWAYS_COMPILE": "1",
                                   "PYTHONPATH": str(ROOT)})  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert "24 of 64 lanes masked" not in done.stdout and "18 of 48 lanes masked" in done.stdout
        assert "compiled" in done.stdout


COMPILED = """
from tests.test_lab import softmax_kernel, lab
import os, torch, triton
from triton.backends.compiler import GPUTarget
x = torch.randn(3, 5)
print(type(softmax_kernel).__name__, lab.trace(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8))
assert os.environ["TRITON_INTERPRET"] == "0"
source = triton.compiler.ASTSource(softmax_kernel, constexprs={"BLOCK_N": 8}, signature={
    "x_ptr": "*fp32", "out_ptr": "*fp32", "stride": "i32", "n_cols": "i32", "BLOCK_N": "constexpr"})
assert ".entry softmax_kernel" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print("compiled")
"""


@triton.jit
def offset_kernel(out_ptr, row, stride, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    tl.device_assert(row >= 0, "no such row")
    tl.store(out_ptr + cols, row * stride + cols)


class TestInterpreted:
    def test_a_kernel_is_python(self, capsys):
        @triton.jit
        def talkative(x_ptr, BLOCK: tl.constexpr):
            print("program", tl.program_id(0), tl.load(x_ptr + tl.arange(0, BLOCK)))

        with lab.interpreted():
            talkative[(2,)](vector(2), BLOCK=2)
        assert capsys.readouterr().out == "program [0] [0. 1.]\nprogram [1] [0. 1.]\n"

    @pytest.mark.parametrize("row, stride, block", [(70_000, 40_000, 4), (2**31 - 2, 1, 4), (-(2**20), 2**12, 1)])
    def test_an_overflow_is_an_error(self, row, stride, block):
        out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
        with lab.interpreted():
            offset_kernel[(1,)](out, 53_687, 40_000 - 1, BLOCK=4)  # just below 2**31
            assert out.tolist()[0] == 53_687 * 39_999
            with pytest.raises(Exception, match="overflow detected|no such row"):
                offset_kernel[(1,)](out, row, stride, BLOCK=block)

    def test_assertions_hold(self):
        out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
        with lab.interpreted(), pytest.raises(Exception, match="no such row"):
            offset_kernel[(1,)](out, -1, 1, BLOCK=4)

    def test_random_numbers_may_wrap(self):
        @triton.jit
        def noise(out_ptr, BLOCK: tl.constexpr):
            offs = tl.arange(0, BLOCK)
            tl.store(out_ptr + offs, tl.rand(2**31 - 1, offs))

        out = vector(16)
        with lab.interpreted():
            noise[(1,)](out, BLOCK=16)
        assert 0 <= out.min() and out.max() < 1


class TestDrawAccess:
    def test_shows_itself_once_with_words(self):
        x = torch.randn(3, 5, device=DEVICE)
        picture = lab.draw_access(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8)
        data, metadata = picture._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["alt"] == data["text/plain"]
        assert "60 bytes read, 60 written" in data["text/plain"] == repr(picture)

    def test_many_programs_and_shared_elements(self):
        a, b, c = vector(16), vector(12), torch.empty(16, 12, device=DEVICE)
        lab.draw_access(outer_kernel, (8, 2), a, b, c, 16, 12, BLOCK_M=2, BLOCK_N=8).savefig(os.devnull, format="png")

    def test_masked_lanes_can_be_left_out(self):
        launch = softmax_kernel, (3,), torch.randn(3, 5, device=DEVICE), torch.empty(3, 5, device=DEVICE), 5, 5
        shown = {masked: lab.draw_access(*launch, masked=masked, BLOCK_N=8) for masked in (True, False)}
        hatched = {
            masked: sum(patch.get_hatch() is not None for axes in picture.axes for patch in axes.patches)
            for masked, picture in shown.items()
        }
        assert hatched == {True: 2 * 3 * 3 + 1, False: 0} and repr(shown[True]) == repr(shown[False])

    def test_large_inputs_are_refused(self):
        with pytest.raises(ValueError, match="draw_access: expected at most 64 rows and columns to draw, got 1 x 128"):
            lab.draw_access(double_kernel, (2,), vector(128), vector(128), 128, BLOCK=64)


class TestDrawTiles:
    def test_strips_are_counted_once(self):
        orders = {"one": [(1, 0)], "two rows": [(0, 0), (0, 1), (1, 0)]}
        picture = lab.draw_tiles(orders, (2, 3), steps=2)
        assert repr(picture) == "one: reads 1 row of a, 1 column of b; two rows: reads 2 rows of a, 2 columns of b"
        assert picture._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")

    def test_many_tiles_are_drawn_without_lines(self):
        (axes,) = lab.draw_tiles({"all": [(i, 2 * i) for i in range(40)]}, (40, 80)).axes
        assert not axes.collections and not [text for text in axes.texts if text.get_text().isdigit()]


class TestDrawErrors:
    def test_counts_what_it_draws(self):
        wanted = torch.tensor([[1.0, 2.0, float("inf")], [3.0, 4.0, float("nan")]])
        got = wanted.clone()
        got[0, 1], got[1, 0] = 7, float("nan")
        picture = lab.draw_errors({"a": (got, wanted), "all": (wanted[0], wanted[0])})
        assert repr(picture) == "a: 4 right, 1 wrong, 1 never written; all: 3 right"
        picture.savefig(os.devnull, format="png")

    def test_shapes_are_compared(self):
        with pytest.raises(ValueError, match=r"draw_errors: expected shape \(2,\), got \(3,\)"):
            lab.draw_errors({"a": (torch.ones(3), torch.ones(2))})


def my_add(x, y, out):
    kernel = sys.modules["course.exercises.vector_add"].my_add_kernel
    kernel[(triton.cdiv(out.numel(), 1024),)](x, y, out, out.numel(), x.stride(0), y.stride(0), BLOCK=1024)


@triton.jit
def part_of(x_ptr, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0))


@triton.jit
def add_by_load_and_store(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    tl.store(out_ptr, tl.load(out_ptr) + part_of(x_ptr, n, BLOCK))


@triton.jit
def add_after_a_first_store(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    part = part_of(x_ptr, n, BLOCK)
    if tl.program_id(0) == 0:
        tl.store(out_ptr, part)
    else:
        tl.atomic_add(out_ptr, part)


@triton.jit
def store_last_of_all(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    total = 0.0
    for start in range(0, (tl.program_id(0) + 1) * BLOCK, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0))
    tl.store(out_ptr, total)


@triton.jit
def everybody_adds_up(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0)))


@triton.jit
def last_one_adds_up(x_ptr, parts_ptr, arrived_ptr, n, COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    arrived = tl.program_id(0)
    tl.store(parts_ptr + arrived, part_of(x_ptr, n, BLOCK))
    if COUNTS:
        arrived = tl.atomic_add(arrived_ptr, 1)
    if arrived == tl.num_programs(0) - 1:
        total = tl.sum(tl.load(parts_ptr + tl.arange(0, 4)))
        if COUNTS:
            tl.store(parts_ptr, total)


@triton.jit
def add_in_place(x_ptr, out_ptr, n, stride, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    total = tl.load(out_ptr + offs, mask=offs < n) + tl.load(x_ptr + offs * stride, mask=offs < n)
    tl.store(out_ptr + offs, total, mask=offs < n)


TOTAL = dataclasses.replace(
    ADD, reference=lambda x: x.sum()[None],
    cases={f"{n:,} elements": lambda randn, n=n: (randn(n),) for n in (1, 1000, 3000, 60_000)},
    heavy=lambda randn: (randn(50_000),),
)  # fmt: skip


class TestCheck:
    def test_right(self):
        report = lab.check("vector_add.fill_in", my_add)
        assert report.passed and len(report.cases) >= 5
        assert repr(report).startswith("PASSED  vector_add.fill_in: all 7 cases pass")
        assert "vector_add.fill_in" in report._repr_html_()

    def test_with_pytorch_s_own_result(self):
        assert lab.check(ADD, lambda x, y, out: torch.add(x, y, out=out)).passed

    def test_float32_is_float32(self):
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
        (lambda x, y: None, ["takes 2 positional arguments but 3 were given"]),
        (lambda x, y, out: sys.exit(), ["FAILED"]),
    ])  # fmt: skip
    def test_wrong(self, function, words):
        report = lab.check(ADD, function)
        assert report.status == "failed"
        said = "\n".join(f"{c.problem} {c.means}" for c in report.cases) + repr(report)
        for word in words:
            assert word in said
        assert report._repr_html_()

    def test_an_infinity_leaves_the_others_their_tolerance(self):
        def infinite(randn):
            return torch.tensor([float("inf"), 1.0, float("nan")]), torch.ones(3)

        exercise = dataclasses.replace(ADD, cases={"3 elements": infinite})
        assert lab.check(exercise, lambda x, y, out: out.copy_((x + y) * (1 + 2e-6))).passed
        assert not lab.check(exercise, lambda x, y, out: out.copy_((x + y) * (1 + 1e-4))).passed

    def test_integers_are_right_or_wrong(self, monkeypatch):
        def which(x, y):
            return torch.where(x > y, 1000, 7)

        def nearly(x, y, out):
            out.copy_(which(x, y))[0] += 1

        exercise = dataclasses.replace(ADD, reference=which)
        assert lab.check(exercise, lambda x, y, out: out.copy_(which(x, y))).passed
        report = lab.check(exercise, nearly)
        assert "1 of 1000 elements is wrong. The first: out[0], expected 1000, got 1001" in repr(report)
        module = sys.modules["course.lab.speed"]
        monkeypatch.setattr(module, "time_in_turn", lambda calls, cold: pytest.fail("timed"))
        large = dataclasses.replace(exercise, heavy=lambda randn: (torch.arange(-9.0, 9), torch.zeros(18)))
        with pytest.raises(AssertionError, match="Tensor-likes are not"):
            module.speed(large, lambda x, y, out: out.copy_(which(y, x)))

    def test_memory_around_the_output_is_watched(self):
        def launch(x, y, out):
            unmasked_kernel[(triton.cdiv(out.numel(), 1024),)](x, out, BLOCK=1024)

        report = lab.check(ADD, launch)
        first = report.first_failure
        assert "Program 0 wrote to 1 element past the end of out, which is of size 1000" in first.problem
        assert "!" in repr(first.picture) and "tl.store has no mask" in first.means[0]

    @pytest.mark.parametrize("kernel, told", [
        (add_by_load_and_store, "Program 0 wrote out[0] and program 1 read it"),
        (add_after_a_first_store, "Program 0 wrote out[0] and program 1 added to it"),
        (store_last_of_all, "Programs 0 and 1 both wrote out[0]"),
    ])  # fmt: skip
    def test_programs_that_meet_are_told(self, kernel, told):
        """Each of these gives the right result in the interpreter, and may give any on a GPU."""

        def launch(x, out):
            kernel[(triton.cdiv(len(x), 1024),)](x, out.zero_(), len(x), BLOCK=1024)

        report = lab.check(TOTAL, launch)
        failure = report.first_failure
        assert failure.name == "3,000 elements" and failure.problem.startswith(told), report
        assert "tl.atomic_add" in failure.means[0]

    def test_programs_that_add_atomically_or_store_the_same_are_right(self):
        def add_atomically(x, out):
            count_kernel[(2,)](x, out.zero_(), len(x), BLOCK=1024)

        def all_store_the_same(x, out):
            everybody_adds_up[(2,)](x, out, len(x), 1 << 17)

        for function in (add_atomically, all_store_the_same):
            assert lab.check(TOTAL, function).passed

    @pytest.mark.parametrize("counts", [True, False])
    def test_programs_that_may_wait_for_each_other_are_not_accused(self, counts):
        parts = Guarded("parts", torch.zeros(4), "cpu", filled=True)
        races = Races([parts])
        with observed(races):
            last_one_adds_up[(3,)](torch.ones(6), parts.tensor, torch.zeros(1, dtype=torch.int32), 6, counts, BLOCK=2)
        assert parts.tensor.tolist() == [6.0 if counts else 2.0, 2.0, 2.0, 0.0]
        assert races.found is None if counts else "Program 0 wrote parts[0] and program 2 read it" in races.found

    def test_launches_follow_each_other(self):
        def launch(x, y, out):
            for operand in (x, y):
                add_in_place[(1,)](operand, out.zero_() if operand is x else out, len(x), operand.stride(0), 1 << 17)

        one_program_s = dataclasses.replace(ADD, heavy=lambda randn: (randn(1 << 17), randn(1 << 17)))
        assert lab.check(one_program_s, launch).passed

    def test_hang(self):
        @triton.jit
        def forever(out_ptr, n):
            i = n
            while i > 0:
                tl.store(out_ptr, 0.0)

        before, start = threading.active_count(), time.monotonic()
        report = lab.check(ADD, lambda x, y, out: forever[(1,)](out, out.numel()), seconds=1)
        assert "still running after 1 seconds" in repr(report) and "loop never ends" in repr(report)
        assert time.monotonic() - start < 30 and threading.active_count() == before

    @pytest.mark.parametrize("function, words", [
        (None, "expected a function, got NoneType"), (double_kernel, "this is the kernel"),
    ])  # fmt: skip
    def test_not_a_function(self, function, words):
        report = lab.check(ADD, function)
        assert report.status == "failed" and words in repr(report)

    def test_no_such_exercise(self):
        assert "expected one of vector_add.fill_in" in repr(lab.check("vector_add.fillin", my_add))
        assert "no chapter 'vectoradd'" in repr(lab.check("vectoradd.fill_in", my_add))

    def test_unsolved_in_the_function_itself(self):
        def stub(x, y, out):
            grid = ...
            return grid, out[..., 0]

        report = lab.check(ADD, stub)
        assert (report.status, report.headline) == ("unsolved", "not solved yet: `grid = ...`")

    def test_unsolved_in_what_a_kernel_calls(self):
        def launch(x, y, out):
            calls_an_unsolved_one[(1,)](x, out, BLOCK=16)

        report = lab.check(ADD, launch)
        assert (report.status, report.headline) == ("unsolved", "not solved yet: `y = ...`")

    @pytest.mark.parametrize("function, words", [
        (lambda a, b, out: torch.mm(a[:, :30], b[:30], out=out), "a part of each sum is missing or counted twice"),
        (lambda a, b, out: torch.mm(a, b.flip(0), out=out), "nothing to do with the right ones"),
        (lambda a, b, out: torch.mm(a, b, out=out).view(-1)[:610].neg_(), "Some elements are right"),
    ], ids=["part of the sums", "other elements", "some rows"])  # fmt: skip
    def test_wrong_sums(self, function, words):
        product = dataclasses.replace(ADD, reference=lambda a, b: a @ b, cases={
            "40 × 50 by 50 × 30": lambda randn: (randn(40, 50), randn(50, 30)),
        })  # fmt: skip
        assert words in repr(lab.check(product, function))

    def test_the_gpu_s_part(self, monkeypatch):
        """On a GPU a case runs twice, interpreted amid watched memory and then compiled, and is timed after that."""
        module, runs = sys.modules["course.lab.check"], []
        monkeypatch.setattr(module, "INTERPRET", False)
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
        monkeypatch.setattr(module, "speed", lambda exercise, function: ["as fast as a copy"])
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

        def function(x, y, out):
            runs.append(out.numel())
            if len(runs) % 2 == 0:
                torch.add(x, y, out=out)

        report = lab.check(ADD, function)
        assert report.passed and len(runs) == 2 * len(ADD.cases) and "as fast as a copy" in repr(report)
        runs.clear()
        monkeypatch.setattr(module, "speed", lambda exercise, function: 1 / 0)
        assert lab.check(ADD, function).headline == "the small cases pass, the large input does not"

    @pytest.mark.gpu
    def test_speed_beside_a_copy_and_pytorch(self):
        (line,) = lab.check(ADD, my_add).speed
        assert "% of this GPU's copy bandwidth" in line and "PyTorch takes" in line

    @pytest.mark.parametrize("counted, words", [
        ({}, "13 MB in 0.010 ms: 1,258 GB/s, 31 % of this GPU's copy bandwidth (4,000 GB/s). PyTorch takes 0.005 ms."),
        ({"operations": lambda x, y: 2000 * x.numel()},
         "2 GFLOP in 0.010 ms: 210 TFLOP/s, 26 % of what a large matrix product reaches here (800 TFLOP/s)"),
    ], ids=["bytes", "operations"])  # fmt: skip
    def test_judged_by_bytes_or_by_operations(self, monkeypatch, counted, words):
        module = sys.modules["course.lab.speed"]
        monkeypatch.setattr(module, "copy_bandwidth", lambda: 4000.0)
        monkeypatch.setattr(module, "matmul_rate", lambda dtype: 800.0)
        took = {"ours": Timing(0.01, 0.0, 0.0), "theirs": Timing(0.005, 0.0, 0.0)}
        monkeypatch.setattr(module, "time_in_turn", lambda calls, cold: took)
        exercise = dataclasses.replace(ADD, heavy=lambda randn: randn(2, 2**20).unbind(), **counted)
        (line,) = module.speed(exercise, lambda x, y, out: torch.add(x, y, out=out))
        assert words in line

    def test_a_wrong_large_result_is_not_timed(self):
        small = dataclasses.replace(ADD, heavy=lambda randn: (1e-4 * randn(99), 1e-4 * randn(99)))
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            sys.modules["course.lab.speed"].speed(small, lambda x, y, out: torch.sub(x, y, out=out))


class TestSandbox:
    @pytest.mark.parametrize("like", [
        torch.randn(5), torch.randn(9)[::2], torch.randn(3, 4).T, torch.randn(1).expand(4), torch.randn(0),
        torch.tensor(1.0), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.arange(5),
        torch.randn(4).bfloat16(),
    ])  # fmt: skip
    def test_guarded_copies(self, like):
        filled = Guarded("x", like, "cpu", filled=True)
        assert filled.tensor.equal(like) and filled.tensor.stride() == like.stride()
        assert not filled.changed() and not filled.trespassed()
        empty = Guarded("out", like, "cpu", filled=False)
        assert empty.unwritten.all() and (empty.tensor.isnan().all() or not like.is_floating_point())
        empty.bits[0] = 0
        assert empty.trespassed() == [-(1 << 14)] and not empty.changed()

    def test_errors_come_through(self):
        with pytest.raises(KeyError):
            within(5, lambda: {}[0])

    def test_a_loop_is_stopped_even_if_it_catches_exceptions(self):
        def stubborn():
            while True:
                try:
                    time.sleep(0.01)
                except Exception:
                    pass

        before = threading.active_count()
        with pytest.raises(TimeoutError):
            within(0.2, stubborn)
        assert threading.active_count() == before


class TestHelp:
    def test_three_hints_one_a_call(self):
        exercise = find("vector_add.axpy")
        given = [repr(lab.hint("vector_add.axpy")) for _ in range(4)]
        for number, text in enumerate(given[:3], start=1):
            assert text.startswith(f"**Hint {number} of 3.** {exercise.hints[number - 1]}")
        assert given[3] == given[2]

    def test_solution(self):
        shown = repr(lab.solution("vector_add.fill_in"))
        assert "mask = offs < n" in shown and "#>" not in shown and ADD.explanation in shown
        ast.parse(shown.split("```python")[1].split("```")[0])


class TestShowSource:
    def test_the_source_itself(self):
        shown = repr(lab.show_source("add.add_op", "_pointwise.flat_kernel", "_pointwise.launch", "add.add"))
        for thing in (add_op.fn, _pointwise.flat_kernel.fn, _pointwise.launch):
            assert inspect.getsource(thing).rstrip() in shown
        assert "[course/kernels/add.py](../course/kernels/add.py)" in shown
        assert lab.show_source("add.add_op")._repr_markdown_() == repr(lab.show_source(add_op))

    def test_a_function_behind_a_cache(self):
        assert "def attention_configs(" in repr(lab.show_source("_attention_configs.attention_configs"))

    def test_a_function_from_elsewhere(self):
        assert "`textwrap.py`" in repr(lab.show_source(__import__("textwrap").dedent))


STORED = {
    "name": "two", "axis": "elements", "gpu": "NVIDIA X", "driver": "1", "versions": {"torch": "2", "triton": "3"},
    "commit": "abc", "date": "2026-01-02T03:04:05+00:00", "copy_gbps": 1000.0,
    "rows": [{"provider": p, "size": n, "median_ms": 1.0, "q20_ms": 1.0, "q80_ms": 1.0, "gbps": 500.0}
             for n in (1024, 2048) for p in ("ours", "theirs")],
}  # fmt: skip


class TestBench:
    @pytest.fixture(autouse=True)
    def results(self, monkeypatch, tmp_path):
        monkeypatch.setattr(stored, "RESULTS", tmp_path)
        (tmp_path / "nvidia-x" / "notebooks").mkdir(parents=True)
        return tmp_path

    @pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
    def test_without_a_gpu_the_stored_result_is_shown(self, results, monkeypatch, sizes):
        monkeypatch.setattr(stored, "INTERPRET", True)
        result = {**STORED, "rows": [row for row in STORED["rows"] if row["size"] in sizes]}
        (results / "nvidia-x" / "notebooks" / "two.json").write_text(json.dumps(result))
        shown = lab.bench("two", {"ours": None}, None, [])
        assert "this is the stored result of the NVIDIA X, driver 1, torch 2, triton 3; commit abc, 2026" in shown.alt
        assert "ours, 1,024 elements: 1.0000 ms, 500 GB/s" in shown.alt and "Copying: 1,000 GB/s." in shown.alt
        assert shown._repr_mimebundle_()[0]["image/png"]

    @pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
    def test_operations_are_shown_instead_of_bytes(self, results, monkeypatch, sizes):
        monkeypatch.setattr(stored, "INTERPRET", True)
        rows = [{**row, "tflops": 7.0} for row in STORED["rows"] if row["size"] in sizes]
        result = {**STORED, "matmul_tflops": 5.0, "rows": rows}
        (results / "nvidia-x" / "notebooks" / "two.json").write_text(json.dumps(result))
        shown = lab.bench("two", {"ours": None}, None, [])
        assert "ours, 1,024 elements: 1.0000 ms, 7 TFLOP/s" in shown.alt
        assert "A large matrix product: 5 TFLOP/s." in shown.alt
        assert shown._repr_mimebundle_()[0]["image/png"]

    @pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
    @pytest.mark.parametrize("limit, drawn", [(1000, True), (9000, False)])
    def test_a_limit_far_away_is_named_and_not_drawn(self, sizes, limit, drawn):
        plot = sys.modules["course.lab.bench"].plot
        rows = [row for row in STORED["rows"] if row["size"] in sizes]
        (axes,) = plot({**STORED, "copy_gbps": limit, "rows": rows}, "").axes
        dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
        assert bool(dashed) == drawn
        ends, words = (axes.get_ylim(), axes.get_legend_handles_labels()[1][-1]) if len(sizes) > 1 else (
            axes.get_xlim(), axes.get_xlabel())  # fmt: skip
        assert (ends[1] > limit) == drawn and (f"{limit:,}" in words) != drawn

    def test_numbers_and_names(self):
        named = sys.modules["course.lab.bench"].named
        for size, axis, words in [(1024, "rows a program", "1,024 rows a program"), (64, "images", "64 images"),
                                  (4, "num_stages", "num_stages 4"), (64, "head size", "head size 64")]:  # fmt: skip
            assert named(size, axis) == words

    def test_operations_are_counted(self, monkeypatch):
        module = sys.modules["course.lab.bench"]
        monkeypatch.setattr(module, "copy_bandwidth", lambda: 1000.0)
        monkeypatch.setattr(module, "matmul_rate", lambda dtype: {torch.float16: 5.0}[dtype])
        monkeypatch.setattr(module, "circumstances", dict)
        monkeypatch.setattr(module, "time_in_turn", lambda calls, **how: dict.fromkeys(calls, Timing(2.0, 2.0, 2.0)))

        def measured(inputs, operations):
            return module.measure("m", {"ours": torch.add}, inputs, [64], "n", operations, 1e-3)

        counted = measured(lambda n: (torch.ones(n).half(), torch.ones(n).half()), lambda x, y: 10**9 * x.numel())
        assert counted["matmul_tflops"] == 5.0 and counted["rows"][0]["tflops"] == 32.0
        plain = measured(lambda n: (torch.ones(n), torch.ones(n)), None)
        assert "matmul_tflops" not in plain and "tflops" not in plain["rows"][0]

    def test_without_a_gpu_and_without_a_result(self, monkeypatch):
        monkeypatch.setattr(stored, "INTERPRET", True)
        assert "No GPU here, and no result is stored for `none` yet" in repr(lab.bench("none", {}, None, []))

    @pytest.mark.gpu
    def test_measures_and_stores(self, results, monkeypatch):
        monkeypatch.setenv("COURSE_STORE", "1")
        shown = lab.bench("three", {"ours": torch.add, "theirs": lambda x, y: x + y},
                          lambda n: torch.randn(2, n, device="cuda").unbind(), [2**20, 2**24])  # fmt: skip
        (file,) = results.glob("*/notebooks/three.json")
        rows = json.loads(file.read_text())["rows"]
        assert len(rows) == 4 and all(0 < row["gbps"] for row in rows)
        assert "Measured on this" in shown.alt

    @pytest.mark.gpu
    def test_results_are_compared_before_they_are_timed(self):
        with pytest.raises(AssertionError, match="bench: theirs differs, size=8"):
            lab.bench("four", {"ours": torch.add, "theirs": torch.sub}, lambda n: (torch.ones(n), torch.ones(n)), [8])


class TestSanitize:
    def test_the_sanitizer_s_lines_are_kept(self, monkeypatch, tmp_path):
        """A stand-in for compute-sanitizer runs the program, as the real one does, and says something itself."""
        tool = tmp_path / "compute-sanitizer"
        tool.write_text('#!/bin/sh\necho "========= $1 $2"\nwhile [ "$1" != "$PYTHON" ]; do shift; done\n"$@"\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("PYTHON", sys.executable)
        monkeypatch.setattr(stored, "INTERPRET", False)
        monkeypatch.delenv("COURSE_STORE", raising=False)
        where = {"gpu": "X", "driver": "1", "versions": {}, "commit": "c", "date": "2026-01-02"}
        monkeypatch.setattr(sys.modules["course.lab.sanitizer"], "circumstances", lambda: where)
        program = "import os\nprint('not this')\nprint('=========', os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'])"
        shown = repr(lab.sanitize("s", program))
        assert shown.startswith("```text\n========= --tool memcheck\n========= 1\n```")
        assert "Measured on this X" in shown

    def test_a_long_report_is_cut(self):
        result = {"gpu": "X", "driver": "1", "versions": {}, "commit": "c", "date": "2026-01-02",
                  "report": [f"========= {i}" for i in range(99)]}  # fmt: skip
        shown = repr(sys.modules["course.lab.sanitizer"].draw(result, "Measured on this"))
        assert "========= 11\n… 85 more lines\n========= 97\n========= 98\n" in shown and "= 12\n" not in shown

    def test_without_the_sanitizer_or_a_report(self, monkeypatch, tmp_path):
        monkeypatch.setattr(stored, "RESULTS", tmp_path)
        monkeypatch.setattr(stored, "INTERPRET", False)
        monkeypatch.setattr(sys.modules["course.lab.sanitizer"], "find", lambda: None)
        assert "No compute-sanitizer here" in repr(lab.sanitize("s", ""))


def test_hardware():
    assert lab.hardware("nvidia-h200")["multiprocessors"] == 132
