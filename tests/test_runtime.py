import torch

from course.kernels import add
from course.runtime import custom_op


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
