"""`trace`: what is recorded of a launch."""
import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from course import lab
from course.kernels.elementwise import pointwise
from course.kernels.elementwise.add import add_op
from course.results import ROOT
from course.runtime import DEVICE
from tests.lab.kernels import count_kernel, double_kernel, outer_kernel, softmax_kernel, unmasked_kernel, vector


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


COMPILED = """
import os, torch, triton
from course import lab
from tests.lab.kernels import softmax_kernel
from triton.backends.compiler import GPUTarget
x = torch.randn(3, 5)
print(type(softmax_kernel).__name__, lab.trace(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8))
assert os.environ["TRITON_INTERPRET"] == "0"
source = triton.compiler.ASTSource(softmax_kernel, constexprs={"BLOCK_N": 8}, signature={
    "x_ptr": "*fp32", "out_ptr": "*fp32", "stride": "i32", "n_cols": "i32", "BLOCK_N": "constexpr"})
assert ".entry softmax_kernel" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print("compiled")
"""


def test_every_element_and_masked_lane_is_counted():
    x, out = vector(10), torch.zeros(10, device=DEVICE)
    record = lab.trace(double_kernel, (3,), x, out, 10, BLOCK=4)
    assert (record.read, record.written, record.moved, record.ideal) == (40, 40, 80, 80)
    assert (record.lanes(), record.lanes("masked"), record.lanes("outside")) == (24, 4, 0)
    assert not out.any(), "the launch worked on copies"
    last = record.touches["out_ptr written"][-1]
    assert last.program == (2, 0, 0) and last.column.tolist() == [8, 9, 10, 11]
    assert last.state.tolist() == ["active", "active", "masked", "masked"]


def test_lanes_outside_are_told_apart():
    record = lab.trace(unmasked_kernel, (3,), vector(10), vector(10), BLOCK=4)
    assert (record.lanes("outside"), record.moved, record.ideal) == (4, 96, 80)
    assert "4 lanes outside" in repr(record)


def test_a_lost_pointer_does_no_harm():
    record = lab.trace(unmasked_kernel, (1,), vector(4), vector(4)[:0], BLOCK=1 << 16)
    assert record.lost + record.lanes("outside") == 2 * (1 << 16) - 4


def test_functions_called_by_the_kernel_and_masked_columns():
    x = torch.randn(3, 5, device=DEVICE)
    record = lab.trace(softmax_kernel, (3,), x, torch.empty_like(x), 5, 5, BLOCK_N=8)
    touch = record.touches["x_ptr read"][0]
    # the address of a masked lane is that of the next row's first element; its place is behind the row
    assert touch.row.tolist() == [0] * 8 and touch.column.tolist() == list(range(8))
    assert record.moved == record.ideal == 2 * 4 * 15


def test_tiles():
    a, b, c = vector(3), vector(6), torch.empty(3, 6, device=DEVICE)
    record = lab.trace(outer_kernel, (2, 2), a, b, c, 3, 6, BLOCK_M=2, BLOCK_N=4)
    tile = record.touches["c_ptr written"][3]
    assert tile.program == (1, 1, 0)
    assert (tile.row[:, 0].tolist(), tile.column[0].tolist()) == ([2, 3], [4, 5, 6, 7])
    assert (record.read, record.written) == (4 * (2 * 3 + 2 * 6), 4 * 18)  # each vector is read by two programs
    assert record.ideal == 4 * (3 + 6 + 18)


@pytest.mark.parametrize("view", [lambda t: t[::2], lambda t: t[2:7], lambda t: t.expand(3, 12)])
def test_views(view):
    x = view(vector(12))
    record = lab.trace(double_kernel, (1,), x, vector(4), 1, BLOCK=4)
    assert record.touches["x_ptr read"][0].state.tolist() == ["active"] + 3 * ["masked"]


def test_tensors_one_behind_the_other():
    """Most lanes of the last block are masked, and their addresses are in the next tensor."""
    x, out = torch.ones(2, 5, device=DEVICE)
    record = lab.trace(double_kernel, (2,), x, out, 5, BLOCK=4)
    assert set(record.touches) == {"x_ptr read", "out_ptr written"}
    assert record.lanes("masked") == 2 * 3 and record.lanes("outside") == 0


def test_the_margin_of_windows_is_around_the_image():
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


def test_atomics_read_and_write():
    total = torch.zeros(1, device=DEVICE)
    record = lab.trace(count_kernel, (2,), vector(10), total, 10, BLOCK=4)
    assert (record.read, record.written) == (40 + 3 * 4, 3 * 4)
    assert len(record.touches["out_ptr read"]) == 3


def test_tensor_descriptors():
    x = vector(12)
    record = lab.trace(descriptor_kernel, (4,), TensorDescriptor.from_tensor(x, [4]), vector(12), 12, BLOCK=4)
    assert record.read == record.written == 48 and record.lanes("masked") == 2 * 4


def test_autotuned_kernels_take_their_first_configuration():
    tuned = triton.autotune([triton.Config({"BLOCK": 4}), triton.Config({"BLOCK": 8})], key=["n"])(double_kernel)
    assert len(lab.trace(tuned, lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),), vector(10), vector(10), 10)
               .touches["x_ptr read"]) == 3


def test_the_package_s_own_kernel():
    x = vector(10)
    record = lab.trace(pointwise.flat_kernel, (3,), x, x.clone(), None, x.clone(), 10, OP=add_op, BLOCK=4)
    assert record.moved == record.ideal == 120


def test_where_kernels_are_compiled():
    """What a GPU machine does: jit functions made to be compiled are interpreted, and compiled afterwards."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_ALWAYS_COMPILE": "1",
                               "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "24 of 64 lanes masked" not in done.stdout and "18 of 48 lanes masked" in done.stdout
    assert "compiled" in done.stdout
