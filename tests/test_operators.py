import os
import subprocess
import sys

import pytest
import torch

from course.kernels import add
from course.operators import custom_op
from course.results import ROOT


def test_what_an_operator_does_is_not_traced(device):
    """Not even in a function that torch.compile gives up, for a break of its graph in a loop."""

    def broken(x):
        for _ in range(2):
            torch._dynamo.graph_break()
            x = torch.ops.course.add.default(x, x)
        return x

    x = torch.randn(3, 4, device=device)
    torch.testing.assert_close(torch.compile(broken, backend="eager")(x), 4 * x)


def test_an_operator_can_have_a_backward(device):
    @custom_op("twice_for_test")
    def twice(x: torch.Tensor) -> torch.Tensor:
        return add(x, x)

    torch.library.register_fake(twice)(torch.empty_like)
    torch.library.register_autograd(twice, lambda ctx, grad: 2 * grad)
    x = torch.randn(3, 4, device=device)
    with torch.enable_grad():
        x.requires_grad_()
        twice(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2))


def test_an_operator_may_write_to_its_arguments(device):
    @custom_op("double_for_test", mutates_args=("x",))
    def double(x: torch.Tensor) -> None:
        x.copy_(add(x, x))

    x = torch.randn(3, 4, device=device)
    want, version = 2 * x, x._version
    double(x)
    torch.testing.assert_close(x, want)
    assert x._version > version  # what autograd sees of it
    torch.library.opcheck(double, (x,), test_utils=("test_schema", "test_faketensor"))


def test_operators_are_those_of_the_library(device):
    @custom_op("thrice_for_test")
    def thrice(x: torch.Tensor, offset: float = 0.5) -> torch.Tensor:
        return add(add(x, x), x) + offset

    torch.library.register_fake(thrice)(lambda x, offset=0.5: torch.empty_like(x))
    assert thrice is torch.ops.course.thrice_for_test.default
    assert str(thrice._schema) == "course::thrice_for_test(Tensor x, float offset=0.5) -> Tensor"
    x = torch.randn(3, 4, device=device)
    torch.library.opcheck(thrice, (x,), test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(thrice, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), 3 * x + 0.5)


NAMELESS = """
import os, pwd

def no_entry(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = no_entry
for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
import torch, course.kernels
x = torch.ones(3, device=course.runtime.DEVICE)
print(course.kernels.add(x, x).tolist())
"""


def test_a_user_without_a_name_and_a_home(tmp_path):
    """A container's, with an id that no user has."""
    done = subprocess.run([sys.executable, "-c", NAMELESS], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr, done.returncode) == ("[2.0, 2.0, 2.0]\n", "", 0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_an_operator_runs_where_its_first_argument_lies():
    x = torch.randn(1000, device="cuda:1")
    with torch.cuda.device(0):
        torch.testing.assert_close(add(x, x), 2 * x)
        assert torch.cuda.current_device() == 0
