"""Accesses outside of the tensors, and data races, as `check` reports them."""
import dataclasses

import pytest
import torch
import triton
import triton.language as tl

from course import lab
from course.lab.checking.exercise import find
from course.lab.checking.guarded import Guarded
from course.lab.checking.watch import Races
from course.lab.interpret.observe import observed
from tests.lab.kernels import count_kernel, unmasked_kernel

ADD = find("vector_add.fill_in")


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
def store_the_sum_so_far(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    total = 0.0
    for start in range(0, (tl.program_id(0) + 1) * BLOCK, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(x_ptr + offs, mask=offs < n, other=0.0))
    tl.store(out_ptr, total)


@triton.jit
def every_program_adds_up(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
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
    heavy=lambda randn: (randn(50_000),), solution=(),
)


def test_memory_around_the_output_is_watched():
    def launch(x, y, out):
        unmasked_kernel[(triton.cdiv(out.numel(), 1024),)](x, out, BLOCK=1024)

    report = lab.check(ADD, launch)
    first = report.first_failure
    said = "Program 0 wrote 24 elements outside of out, which is of size 1000; the first lies 1 past its end (in line "
    assert said in first.problem
    assert "!" in repr(first.errors) and "tl.store has no mask" in first.means[0]


@pytest.mark.parametrize("kernel, told", [
    (add_by_load_and_store, "Program 0 wrote out[0] and program 1 read it"),
    (add_after_a_first_store, "Program 0 wrote out[0] and program 1 added to it"),
    (store_the_sum_so_far, "Programs 0 and 1 both wrote out[0]"),
])
def test_data_races_are_reported(kernel, told):
    """Each of these gives the right result in the interpreter, and may give any on a GPU."""

    def launch(x, out):
        kernel[(triton.cdiv(len(x), 1024),)](x, out.zero_(), len(x), BLOCK=1024)

    report = lab.check(TOTAL, launch)
    failure = report.first_failure
    assert failure.name == "3,000 elements" and failure.problem.startswith(told), report
    assert "tl.atomic_add" in failure.means[0]


def test_programs_that_add_atomically_or_store_the_same_are_right():
    def add_atomically(x, out):
        count_kernel[(2,)](x, out.zero_(), len(x), BLOCK=1024)

    def all_store_the_same(x, out):
        every_program_adds_up[(2,)](x, out, len(x), 1 << 17)

    for function in (add_atomically, all_store_the_same):
        assert lab.check(TOTAL, function).passed


@pytest.mark.parametrize("counts", [True, False])
def test_no_race_is_reported_of_programs_that_may_be_synchronised(counts):
    parts = Guarded("parts", torch.zeros(4), "cpu", filled=True)
    races = Races([parts])
    with observed(races):
        last_one_adds_up[(3,)](torch.ones(6), parts.tensor, torch.zeros(1, dtype=torch.int32), 6, counts, BLOCK=2)
    assert parts.tensor.tolist() == [6.0 if counts else 2.0, 2.0, 2.0, 0.0]
    assert races.found is None if counts else "Program 0 wrote parts[0] and program 2 read it" in races.found


def test_launches_follow_each_other():
    def launch(x, y, out):
        for operand in (x, y):
            add_in_place[(1,)](operand, out.zero_() if operand is x else out, len(x), operand.stride(0), 1 << 17)

    one_program_s = dataclasses.replace(ADD, solution=(), heavy=lambda randn: (randn(1 << 17), randn(1 << 17)))
    assert lab.check(one_program_s, launch).passed
