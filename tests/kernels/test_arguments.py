"""Arguments that PyTorch takes, and those that it refuses: names, order, defaults, numbers in their several forms."""
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course import kernels as K

IMAGE = torch.arange(2 * 4 * 7 * 6).sin().reshape(2, 4, 7, 6)
FILTERS = torch.arange(4 * 2 * 3 * 3).cos().reshape(4, 2, 3, 3)
CHANNELS = torch.linspace(0.5, 2, 4)


def on(device, value):
    """`value` with its tensors of floats on `device`."""
    if isinstance(value, (tuple, list)):
        return type(value)(on(device, v) for v in value)
    floats = isinstance(value, torch.Tensor) and value.ndim > 0 and value.is_floating_point()
    return value.to(device) if floats else value


TAKEN = {
    "conv2d": (F.conv2d, K.conv2d, [
        dict(input=IMAGE, weight=FILTERS, groups=2), dict(padding=(1,), groups=2),
        dict(padding=[1], stride=(2,), groups=2),
        dict(padding=np.int64(1), groups=np.int64(2)), dict(padding=torch.tensor(1), groups=torch.tensor(2)),
        dict(padding=(np.int32(1), torch.tensor(2)), dilation=(1,), groups=2), dict(bias=None, groups=2, stride=2**29),
        dict(padding=torch.Size([1, 0]), groups=2),
    ], (IMAGE, FILTERS)),
    "max_pool2d": (F.max_pool2d, K.max_pool2d, [
        dict(kernel_size=(2,)), dict(kernel_size=np.int64(2)), dict(kernel_size=torch.tensor(2)),
        dict(kernel_size=2, stride=()), dict(kernel_size=3, stride=[], padding=(1,)),
        dict(kernel_size=2, stride=None, dilation=(2,)),
        dict(kernel_size=2, return_indices=False), dict(kernel_size=2, return_indices=None),
    ], (IMAGE,)),
    "avg_pool2d": (F.avg_pool2d, K.avg_pool2d, [
        dict(kernel_size=(2,)), dict(kernel_size=np.int64(2), padding=(1,)), dict(kernel_size=2, stride=()),
        dict(kernel_size=2, divisor_override=None), dict(kernel_size=2, divisor_override=3),
        dict(kernel_size=(7, 6), divisor_override=-5),
        dict(kernel_size=3, stride=1, padding=1, divisor_override=np.int64(2)),
        dict(kernel_size=(7, 6), divisor_override=2, ceil_mode=True, count_include_pad=False),
    ], (IMAGE,)),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d, K.adaptive_avg_pool2d, [
        dict(output_size=(np.int64(2), None)), dict(output_size=(torch.tensor(3), 2)), dict(output_size=[None, 1]),
    ], (IMAGE,)),
    "softmax": (F.softmax, K.softmax, [
        dict(dim=np.int64(1)), dict(dim=torch.tensor(1)), dict(dim=-1, _stacklevel=5), dict(dim=1, dtype=torch.float16),
        dict(dim=0, dtype=None),
    ], (IMAGE,)),
    "torch.softmax": (torch.softmax, K.softmax, [dict(dim=2, dtype=torch.bfloat16)], (IMAGE,)),
    "layer_norm": (F.layer_norm, K.layer_norm, [
        dict(normalized_shape=[np.int64(6)]), dict(normalized_shape=(torch.tensor(6),)),
        dict(normalized_shape=(6,), eps=1),
        dict(normalized_shape=(6,), eps=np.float32(1e-3)), dict(normalized_shape=(6,), eps=torch.tensor(1e-3)),
        dict(normalized_shape=torch.Size([7, 6]), eps=True),
    ], (IMAGE,)),
    "batch_norm": (F.batch_norm, K.batch_norm, [
        dict(momentum=1), dict(eps=np.float64(1e-3)), dict(eps=torch.tensor(1e-3)), dict(weight=None, bias=None),
    ], (IMAGE, CHANNELS, CHANNELS)),
    "batch_norm of nothing": (F.batch_norm, K.batch_norm, [dict(), dict(training=True)], (torch.empty(0),) * 3),
    "relu": (F.relu, K.relu, [dict(inplace=False), dict(inplace=0)], (IMAGE,)),
    "gelu": (F.gelu, K.gelu, [dict(approximate="tanh")], (IMAGE,)),
    "add": (torch.add, K.add, [
        dict(other=2), dict(other=2.5), dict(other=True), dict(other=np.float32(2.5)), dict(other=2, alpha=3),
        dict(other=torch.tensor(2.5)), dict(other=torch.tensor(3)), dict(other=torch.tensor(2.5, dtype=torch.float64)),
        dict(other=CHANNELS[:, None, None], alpha=-3.125), dict(other=IMAGE, alpha=2), dict(other=IMAGE, out=None),
        dict(other=IMAGE, alpha=1.0), dict(other=IMAGE, alpha=np.int64(2)), dict(other=IMAGE, alpha=torch.tensor(2.0)),
    ], (IMAGE,)),
    "mul": (torch.mul, K.mul, [
        dict(other=2), dict(other=2.5), dict(other=False), dict(other=np.int64(3)), dict(other=float("inf")),
        dict(other=torch.tensor(2.5)), dict(other=torch.tensor(3)), dict(other=IMAGE, out=None),
    ], (IMAGE,)),
    "matmul": (torch.matmul, K.matmul, [dict(other=IMAGE.mT), dict(other=IMAGE.mT, out=None)], (IMAGE,)),
    "linear": (F.linear, K.linear, [dict(weight=IMAGE[0, 0], bias=None)], (IMAGE,)),
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.usefixtures("ieee")
def test_what_pytorch_takes(name, device):
    theirs, ours, calls, tensors = TAKEN[name]
    for call in calls:
        given = () if "input" in call else on(device, tensors)
        call = {key: on(device, value) for key, value in call.items()}
        want, got = theirs(*given, **call), ours(*given, **call)
        assert got.dtype == want.dtype, call
        torch.testing.assert_close(got, want, equal_nan=True, msg=lambda m, call=call: f"{call}: {m}")


@pytest.mark.parametrize("ours, theirs", [
    (K.relu, F.relu), (K.gelu, ["input", "approximate"]), (K.silu, F.silu), (K.relu6, F.relu6),
    (K.hardswish, F.hardswish),
    (K.hardsigmoid, F.hardsigmoid), (K.leaky_relu, F.leaky_relu), (K.sigmoid, F.sigmoid), (K.tanh, F.tanh),
    (K.layer_norm, F.layer_norm), (K.batch_norm, F.batch_norm), (K.adaptive_avg_pool2d, F.adaptive_avg_pool2d),
    (K.max_pool2d, ["input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"]),
    (K.avg_pool2d, ["input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"]),
    (K.conv2d, ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]),
    (K.linear, ["input", "weight", "bias"]), (K.matmul, ["input", "other"]), (K.add, ["input", "other"]),
    (K.mul, ["input", "other"]), (K.softmax, ["input", "dim", "dtype"]),
], ids=lambda value: getattr(value, "__name__", ""))
def test_names_order_and_defaults(ours, theirs):
    parameters = inspect.signature(ours).parameters.values()
    mine = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    if isinstance(theirs, list):
        assert list(mine) == theirs
    else:
        assert mine == {name: p.default for name, p in inspect.signature(theirs).parameters.items()}


def images(**options):
    return lambda device: K.conv2d(IMAGE.to(device), FILTERS.to(device), **{"groups": 2, **options})


def pooled(pool, **options):
    return lambda device: pool(IMAGE.to(device), **{"kernel_size": 2, **options})


def call(function, *arguments, **options):
    return lambda device: function(IMAGE.to(device), *on(device, arguments), **on(device, options))


REFUSED = [
    (images(padding=10**10), ValueError, "conv2d: expected padding of at most 536870912, got 10000000000"),
    (images(padding=10**20), ValueError, "conv2d: expected padding of at most 536870912, got 1"),
    (images(dilation=2**40), ValueError, "conv2d: expected dilation of at most 536870912, got 1099511627776"),
    (images(padding=None), TypeError, "conv2d: expected padding to be an integer or a pair of integers, got None"),
    (images(padding=True), TypeError, "conv2d: expected padding to be an integer or a pair of integers, got True"),
    (images(padding=torch.ones(2, 2)), TypeError, "conv2d: expected padding to be .*, got a tensor \\(2, 2\\)"),
    (images(stride=()), ValueError, "conv2d: expected stride to be an integer or a pair of integers, got 0 of them"),
    (images(stride=1.0), TypeError, "conv2d: expected stride to be an integer or a pair of integers, got 1.0"),
    (images(groups=None), TypeError, "conv2d: expected groups to be an integer, got None"),
    (images(groups=True), TypeError, "conv2d: expected groups to be an integer, got True"),
    (images(activation=["relu"]), ValueError, "conv2d: expected activation to be one of .*, got \\['relu'\\]"),
    (pooled(K.max_pool2d, ceil_mode="a"), TypeError, "max_pool2d: expected ceil_mode to be True or False, got 'a'"),
    (pooled(K.max_pool2d, ceil_mode=1), TypeError, "max_pool2d: expected ceil_mode to be True or False, got 1"),
    (pooled(K.max_pool2d, return_indices=True), ValueError, "max_pool2d: expected return_indices=False, got True"),
    (pooled(K.max_pool2d, kernel_size=None), TypeError, "max_pool2d: expected kernel_size to be an integer or a pair"),
    (pooled(K.max_pool2d, kernel_size=(True, 2)), TypeError, "max_pool2d: expected kernel_size to be an integer or"),
    (pooled(K.avg_pool2d, ceil_mode=None), TypeError, "avg_pool2d: expected ceil_mode to be True or False, got None"),
    (pooled(K.avg_pool2d, count_include_pad="no"), TypeError, "avg_pool2d: expected count_include_pad to be True or"),
    (pooled(K.avg_pool2d, divisor_override=0), ValueError, "avg_pool2d: expected divisor_override other than 0"),
    (pooled(K.avg_pool2d, divisor_override=2.5), TypeError, "avg_pool2d: expected divisor_override to be an integer"),
    (call(K.adaptive_avg_pool2d, (2,)), ValueError, "adaptive_avg_pool2d: expected output_size to be an integer or"),
    (call(K.adaptive_avg_pool2d, None), TypeError, "adaptive_avg_pool2d: expected output_size to be an integer or"),
    (call(K.softmax, None), TypeError, "softmax: expected dim to be an integer, got None"),
    (call(K.softmax, 1.0), TypeError, "softmax: expected dim to be an integer, got 1.0"),
    (call(K.softmax, -1, dtype=torch.float64), TypeError, "softmax: expected dtype to be None, .*, got torch.float64"),
    (call(K.softmax, -1, 3), TypeError, "softmax: expected dtype to be None, float32, float16 or bfloat16, got 3"),
    (call(K.layer_norm, (6,), eps=None), TypeError, "layer_norm: expected eps to be a number, got None"),
    (call(K.layer_norm, (6,), eps="1"), TypeError, "layer_norm: expected eps to be a number, got '1'"),
    (call(K.layer_norm, ("a",)), TypeError, "layer_norm: expected normalized_shape to be an integer, got 'a'"),
    (call(K.batch_norm, CHANNELS, CHANNELS, eps=None), TypeError, "batch_norm: expected eps to be a number, got None"),
    (call(K.batch_norm, CHANNELS, CHANNELS, momentum=[]), TypeError, "batch_norm: expected momentum to be a number"),
    (call(K.batch_norm, CHANNELS, CHANNELS, training=1), TypeError, "batch_norm: expected training to be True or"),
    (call(K.gelu, None), ValueError, "gelu: expected approximate to be one of .*, got None"),
    (call(K.gelu, ["tanh"]), ValueError, "gelu: expected approximate to be one of .*, got \\['tanh'\\]"),
    (call(K.add, "2"), TypeError, "add: expected other to be a number, got '2'"),
    (call(K.add, None), TypeError, "add: expected other to be a number, got None"),
    (call(K.add, 1j), TypeError, "add: expected other to be a number, got 1j"),
    (call(K.add, 1e300), ValueError, "add: expected other within the range of float32, got 1e\\+300"),
    (call(K.add, 2, alpha=None), TypeError, "add: expected alpha to be a number, got None"),
    (call(K.add, 2, alpha=True), TypeError, "add: expected alpha to be a number, got True"),
    (call(K.add, 2, out=IMAGE), ValueError, "add: expected out=None, got a tensor \\(2, 4, 7, 6\\)"),
    (call(K.mul, IMAGE.half()), TypeError, "mul: expected other in torch.float32 as input, got torch.float16"),
    (call(K.mul, 2, out=IMAGE), ValueError, "mul: expected out=None, got a tensor"),
    (call(K.matmul, IMAGE.mT, out=IMAGE), ValueError, "matmul: expected out=None, got a tensor"),
    (call(K.linear, IMAGE[0, 0], activation=1), ValueError, "linear: expected activation to be one of .*, got 1"),
]


@pytest.mark.parametrize("refused, kind, words", REFUSED, ids=[words[:40] for _, _, words in REFUSED])
def test_one_line_says_what_is_expected(refused, kind, words, device):
    with pytest.raises(kind, match=words) as error:
        refused(device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [K.add, K.mul])
def test_numbers_are_not_rounded_to_16_bits(function, device):
    """Beside half-precision tensors 2.1 is a float32 number, as on PyTorch's GPUs (on CPUs add rounds it)."""
    theirs = getattr(torch, function.__name__)
    x = torch.randn(999, device=device).half()
    for other in (2.1, torch.tensor(2.1), torch.tensor(2.1, dtype=torch.float64)):
        torch.testing.assert_close(function(x, other), theirs(x.float(), other).half(), rtol=0, atol=0)
    zero_d = torch.tensor(2.5, device=device)
    for a, b in ((x, zero_d), (zero_d, x)):
        torch.testing.assert_close(function(a, b), theirs(a, b), rtol=0, atol=0)
    wide = x.float()
    torch.testing.assert_close(K.add(x, x, alpha=0.1), torch.add(wide, wide, alpha=0.1).half(), rtol=2**-10, atol=0)


def test_in_place(device):
    x = torch.randn(5, 6, device=device)
    want = torch.relu(x)
    assert K.relu(x, inplace=True) is x
    torch.testing.assert_close(x, want, rtol=0, atol=0)


def test_numbers_compile_without_graph_breaks(device):
    x = torch.randn(3, 4, device=device)
    compiled = torch.compile(lambda x: K.mul(K.add(x, x, alpha=3), 2.5), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), 4 * x * 2.5)


def test_opcheck_of_numbers(device):
    x = torch.randn(3, 4, device=device)
    torch.library.opcheck(torch.ops.course.add.default, (x.T, None, 2.5))
    torch.library.opcheck(torch.ops.course.add.default, (x, x, 2.5))
    torch.library.opcheck(torch.ops.course.mul.default, (x.T, None, 2.5))
    images = torch.randn(1, 2, 6, 6, device=device)
    torch.library.opcheck(torch.ops.course.avg_pool2d.default, (images, [2, 2], [2, 2], [0, 0], False, True, 3))
