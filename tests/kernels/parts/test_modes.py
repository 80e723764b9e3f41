"""Every function under the modes of PyTorch that its own functions follow."""
import inspect

import pytest
import torch
import torch.nn.functional as F

from course import kernels

FUNCTIONS = {  # ours, PyTorch's, what they are called with besides tensors, and the shapes of these
    "add": (torch.add, {}, (3, 4), (3, 4)),
    "mul": (torch.mul, {}, (3, 4), (4,)),
    "relu": (F.relu, {}, (3, 4)),
    "gelu": (F.gelu, {}, (3, 4)),
    "sigmoid": (torch.sigmoid, {}, (3, 4)),
    "tanh": (torch.tanh, {}, (3, 4)),
    "silu": (F.silu, {}, (3, 4)),
    "relu6": (F.relu6, {}, (3, 4)),
    "hardsigmoid": (F.hardsigmoid, {}, (3, 4)),
    "hardswish": (F.hardswish, {}, (3, 4)),
    "leaky_relu": (F.leaky_relu, {}, (3, 4)),
    "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), {}, (3, 4)),
    "softmax": (F.softmax, {"dim": -1}, (3, 4)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), {}, (3, 4), (4,), (4,)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), {}, (3, 4, 5), (4,), (4,)),
    "batch_norm": (lambda x, m, v: F.batch_norm(x, m, v.abs()), {}, (3, 4, 5), (4,), (4,)),
    "max_pool2d": (F.max_pool2d, {"kernel_size": 2}, (1, 2, 4, 6)),
    "avg_pool2d": (F.avg_pool2d, {"kernel_size": 2}, (1, 2, 4, 6)),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d, {"output_size": 1}, (1, 2, 4, 6)),
    "matmul": (torch.matmul, {}, (3, 4), (4, 5)),
    "linear": (F.linear, {}, (3, 4), (5, 4), (5,)),
    "conv2d": (F.conv2d, {}, (1, 2, 5, 5), (3, 2, 3, 3), (3,)),
    "scaled_dot_product_attention": (F.scaled_dot_product_attention, {}, (1, 2, 5, 16), (1, 2, 6, 16), (1, 2, 6, 16)),
}
OURS = {  # where the tensors are not the first arguments
    "layer_norm": lambda x, w, b: kernels.layer_norm(x, (4,), w, b),
    "group_norm": lambda x, w, b: kernels.group_norm(x, 2, w, b),
    "batch_norm": lambda x, m, v: kernels.batch_norm(x, m, v.abs()),
}
FUSED = {"fold_norm", "linear_with_statistics", "norm_linear", "patchify", "row_statistics", "stem"}

low = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def ours_of(name):
    return OURS.get(name, getattr(kernels, name))


def test_no_function_is_forgotten():
    assert set(FUNCTIONS) | FUSED == set(kernels.__all__)


@low
@pytest.mark.parametrize("wide", ["all", "first", "others", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast(name, wide, low, device):
    """What is float32 outside and what is not, PyTorch's dtype comes out, and its values."""
    theirs, options, *shapes = FUNCTIONS[name]
    is_wide = [wide == "all" or wide == ("first" if i == 0 else "others") for i in range(len(shapes))]
    tensors = [torch.randn(shape, device=device).to(torch.float32 if w else low) for shape, w in zip(shapes, is_wide)]
    with torch.autocast(device.type, low):
        try:
            want = theirs(*tensors, **options)
        except RuntimeError:
            pytest.skip("PyTorch has no answer")
        got = ours_of(name)(*tensors, **options)
    assert got.dtype == want.dtype
    tolerance = 4 * torch.finfo(low).eps
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@low
def test_autocast_of_fused_functions(low, device):
    """What goes to the lower dtype, and what stays as it must be."""
    x, weight, bias = (torch.randn(shape, device=device) for shape in ((3, 64), (8, 64), (8,)))
    norm_weight, norm_bias = torch.randn(2, 64, device=device)
    with torch.autocast(device.type, low):
        y = kernels.linear(x, weight, bias, activation="relu", residual=torch.randn(3, 8, device=device))
        assert y.dtype == low
        folded = kernels.fold_norm(weight, bias, norm_weight, norm_bias)
        y, statistics = kernels.linear_with_statistics(x, torch.randn(64, 64, device=device))
        assert (y.dtype, statistics.dtype) == (low, torch.float32)
        z = kernels.norm_linear(y, statistics, *folded)
        assert z.dtype == low
        want = F.linear(F.layer_norm(y.float(), (64,), norm_weight, norm_bias).to(low), weight, bias)
    torch.testing.assert_close(z.float(), want.float(), rtol=0.05, atol=0.2)


def test_autocast_leaves_other_dtypes_alone(device):
    with torch.autocast(device.type, torch.bfloat16), pytest.raises(TypeError, match="got torch.float64"):
        kernels.matmul(torch.randn(2, 2, device=device).double(), torch.randn(2, 2, device=device).double())


def test_compiled_under_autocast(device):
    def f(x):
        return kernels.add(kernels.linear(x, x), kernels.softmax(x))

    x = torch.randn(4, 4, device=device)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for enabled in (False, True, False):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            got, want = compiled(x), f(x)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tangents_are_refused(name, device):
    """Each argument's: without a word, they would be zero."""
    _, options, *shapes = FUNCTIONS[name]
    tensors = [torch.rand(shape, device=device) for shape in shapes]
    for i, t in enumerate(tensors):
        def of_one(t, i=i):
            return ours_of(name)(*tensors[:i], t, *tensors[i + 1 :], **options)

        with pytest.raises(ValueError, match=f"{name}: .* has a tangent and this kernel has no forward-mode deriv"):
            torch.func.jvp(of_one, (t,), (t,))
        with torch.autograd.forward_ad.dual_level():
            of_one(t)
            with pytest.raises(ValueError, match=f"{name}: .* has a tangent"):
                of_one(torch.autograd.forward_ad.make_dual(t, t))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_traced_by_fx(name, device):
    _, options, *shapes = FUNCTIONS[name]
    tensors = [torch.rand(shape, device=device) for shape in shapes]
    ours = ours_of(name)

    class Model(torch.nn.Module):
        def forward(self, x):
            return ours(x, *tensors[1:], **options)

    traced = torch.fx.symbolic_trace(Model())
    assert getattr(kernels, name) in [node.target for node in traced.graph.nodes]
    torch.testing.assert_close(traced(tensors[0]), ours(*tensors, **options), rtol=0, atol=0)


def test_subclasses_of_tensor_are_asked(device):
    calls = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, fn, types, args=(), kwargs=None):
            calls.append(fn)
            return super().__torch_function__(fn, types, args, kwargs or {})

    x = torch.randn(2, 3, device=device).as_subclass(Watched)
    assert type(kernels.relu(x)) is Watched and calls[0] is kernels.relu
    assert type(kernels.add(torch.randn(2, 3, device=device), other=x)) is Watched


def test_signatures_stay():
    """The decorated function's, for help, editors and inspect."""
    assert list(inspect.signature(kernels.matmul).parameters)[:2] != ["args", "kwargs"]
    assert "def matmul(" in inspect.getsource(kernels.matmul)
