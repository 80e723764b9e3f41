import copy
import gc
import threading
import weakref

import hypothesis
import pytest
import torch
import triton
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from course import nn
from course.kernels import add, batch_norm, conv2d, linear, matmul, relu, softmax
from course.replay import calls
from course.runtime import DEVICE
from tests.kernels.engines import offer
from tests.replay.cases import CASES, on


def usual(function, *args, **kwargs):
    """What the call gives when it is made the usual way."""
    before, calls.ON = calls.ON, False
    try:
        return function(*args, **kwargs)
    finally:
        calls.ON = before


def assert_same(got, expected):
    for x, y in zip(*(t if isinstance(t, tuple) else (t,) for t in (got, expected)), strict=True):
        assert x.dtype == y.dtype and x.stride() == y.stride() and x.storage_offset() == 0
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def randn(*shape, **options):
    return torch.randn(*shape, device=DEVICE, **options)


def warm(function, *args, **kwargs):
    """Calls until the call is kept."""
    for _ in range(3):
        result = function(*args, **kwargs)
    return result


def signatures():
    return sum(type(known) is calls.Recording for one in calls.Calls.everywhere for known in one.known.values())


@pytest.mark.parametrize("name", CASES)
def test_a_call_made_again_gives_the_same(name, again):
    for i in range(4):
        function, args, kwargs = CASES[name]()
        args, kwargs = on(DEVICE, args), on(DEVICE, kwargs)
        others, named = copy.deepcopy((args, kwargs))
        expected = usual(function, *others, **named)
        assert_same(function(*args, **kwargs), expected)
        for t, other in zip(args, others):  # those that are changed in place too
            if isinstance(t, torch.Tensor):
                torch.testing.assert_close(t, other, rtol=0, atol=0)
        assert bool(again) == (i >= 2)


# what a signature is made of

CHANGED = {
    "shape": lambda: (add, (randn(6, 5), randn(6, 5))),
    "fewer dimensions": lambda: (add, (randn(20), randn(20))),
    "strides": lambda: (add, (randn(5, 4).T, randn(4, 5))),
    "stride 0": lambda: (add, (randn(1, 5).expand(4, 5), randn(4, 5))),
    "dtype": lambda: (add, (randn(4, 5).half(), randn(4, 5).half())),
    "alignment": lambda: (add, (randn(21)[1:].view(4, 5), randn(4, 5))),
    "a number": lambda: (add, (randn(4, 5), 1.0)),
    "one tensor twice": lambda: (add, (both := randn(4, 5), both)),
    "a number as a tensor": lambda: (add, (randn(4, 5), torch.tensor(2.5))),
    "a tensor of another dtype": lambda: (add, (randn(4, 5), torch.tensor(2.5, device=DEVICE).double())),
    "negated": lambda: (add, (torch.complex(randn(4, 5), randn(4, 5)).conj().imag, randn(4, 5))),
    "a subclass": lambda: (add, (torch.nn.Parameter(randn(4, 5), requires_grad=False), randn(4, 5))),
    "nothing": lambda: (add, (randn(0, 5), randn(0, 5))),
}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("times", [1, 3])
def test_another_call_is_another_call(changed, times, again):
    warm(add, randn(4, 5), randn(4, 5))
    warm(add, randn(8, 5)[::2], randn(4, 5))  # strides of a view of a complex tensor
    warm(add, torch.complex(randn(4, 5), randn(4, 5)).imag, randn(4, 5))
    for _ in range(times):
        function, args = CHANGED[changed]()
        torch.testing.assert_close(function(*args), args[0] + args[1])
    x, y = randn(4, 5), randn(4, 5)
    before = len(again)
    assert_same(add(x, y), usual(add, x, y))
    assert len(again) == before + 1


def test_operands_that_are_one_tensor_are_not_two(again):
    both, x, y = randn(4, 5), randn(4, 5), randn(4, 5)
    assert_same(warm(add, both, both), usual(add, both, both))
    assert_same(warm(add, x, y), usual(add, x, y))
    assert_same(add(both, both), usual(add, both, both))
    assert len(again) == 3 and signatures() == 2


@pytest.mark.parametrize("changed", list(CHANGED)[:7])
@pytest.mark.usefixtures("again")
def test_what_makes_another_signature(changed):
    warm(add, randn(4, 5), randn(4, 5))
    function, args = CHANGED[changed]()
    warm(function, *args)
    assert signatures() == 2


def test_numbers_that_are_equal_and_not_the_same(again):
    x = randn(4, 5)
    for count, scalar in enumerate((0.0, -0.0, float("nan"), 0, False), start=1):
        warm(add, x, scalar)
        assert signatures() == len(again) == count
    assert add(x, float("nan")).isnan().all() and signatures() == 5
    warm(softmax, x, 1)
    with pytest.raises(TypeError, match="expected dim to be an integer"):
        softmax(x, True)
    with pytest.raises(TypeError, match="expected dim to be an integer"):
        softmax(x, 1.0)
    w, images = randn(2, 3, 1, 1), randn(1, 3, 4, 4)
    warm(conv2d, images, w, None, (1, 1))
    for stride in ((True, True), (1.0, 1.0)):
        with pytest.raises(TypeError, match="expected stride"):
            conv2d(images, w, None, stride)


def test_a_tensor_in_place_of_a_number_is_read_each_time(again):
    x = randn(4, 5)
    for dim in (0, 1, 0, 1, 1, 0):
        assert_same(softmax(x, torch.tensor(dim, device=DEVICE)), usual(softmax, x, dim))
    assert not again


def test_bad_input_is_refused_however_often_good_input_came(again):
    warm(add, randn(4, 5), randn(4, 5))
    for bad in (randn(4, 6), randn(4, 5).double(), randn(4, 5).to_sparse(), "a", None):
        for _ in range(3):
            with pytest.raises((TypeError, ValueError, RuntimeError)):
                add(randn(4, 5), bad)


@pytest.mark.parametrize("operation, newer, older", [
    (lambda t: matmul(t, t.mT), torch.backends.cuda.matmul, torch.backends.cuda.matmul),
    (lambda t: conv2d(t[:, :, None, None], t[:, :, None, None]), torch.backends.cudnn.conv, torch.backends.cudnn),
], ids=["matmul", "conv2d"])
@pytest.mark.usefixtures("again", "ieee")
def test_tf32_makes_another_signature(operation, newer, older):
    """Whichever way it is set."""
    t = randn(4, 16)
    warm(operation, t)
    assert signatures() == 1
    newer.fp32_precision = "tf32"
    warm(operation, t)
    assert signatures() == 2
    newer.fp32_precision = "ieee"
    warm(operation, t)
    assert signatures() == 2
    older.allow_tf32 = True
    warm(operation, t)
    assert signatures() == 2
    older.allow_tf32 = False


# what wants to see the call


def test_autocast_is_followed(again):
    x, w = randn(4, 8), randn(6, 8)
    warm(linear, x, w)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for _ in range(3):
            assert linear(x, w).dtype == torch.bfloat16
    assert linear(x, w).dtype == torch.float32


def test_a_gradient_is_still_refused(again):
    x, w = randn(4, 8), torch.nn.Parameter(randn(6, 8))
    warm(linear, x, w)
    before = len(again)
    with torch.enable_grad(), pytest.raises(ValueError, match="weight requires a gradient"):
        linear(x, w)
    with torch.enable_grad():
        linear(x, w.detach())
    assert len(again) == before + 1


def test_a_tangent_is_still_refused(again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, randn(4, 5))
        with pytest.raises(ValueError, match="has a tangent"):
            add(dual, y)


def test_vmap_sees_the_call(again):
    x, y = randn(3, 4, 5), randn(3, 4, 5)
    warm(add, x[0], y[0])
    before, watched = len(again), []

    def watched_add(x, y):
        watched.append(calls.somebody_watches())
        return add(x, y)

    try:
        torch.testing.assert_close(torch.func.vmap(watched_add)(x, y), x + y)
    except RuntimeError as error:
        assert "vmap" in str(error) or "batching" in str(error)
    assert len(again) == before and watched == [True]


def test_modes_see_the_call(again):
    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **kwargs or {})

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **kwargs or {})

    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    with Functions():
        add(x, y)
    assert add in seen
    with Dispatched():
        add(x, y)
    assert torch.ops.course.add.default in seen


def test_a_profiler_sees_the_call(again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        add(x, y)
    assert "course::add" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("hook", ["launch_enter_hook", "launch_exit_hook"])
def test_hooks_on_launches_see_the_call(hook, again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    before = len(again)
    seen = []
    getattr(triton.knobs.runtime, hook).add(seen.append)
    try:
        add(x, y)
    finally:
        getattr(triton.knobs.runtime, hook).remove(seen.append)
    assert len(again) == before and (DEVICE.type == "cpu" or len(seen) == 1)
    add(x, y)
    assert len(again) == before + 1


def test_another_launcher_in_place_of_tritons_sees_the_call(again, monkeypatch):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    before = len(again)
    run = triton.runtime.jit.JITFunction.run
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", lambda self, *args, **kwargs: run(self, *args, **kwargs))
    add(x, y)
    assert len(again) == before


def test_tracing_sees_the_call(again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    graph = torch.fx.symbolic_trace(lambda a, b: add(a, b)).graph
    assert add in [node.target for node in graph.nodes]
    watched = []
    traced = torch.jit.trace(lambda a, b: (watched.append(calls.somebody_watches()), add(a, b))[1], (x, y))
    assert "course::add" in str(traced.graph) and watched[0]


def test_torch_compile_sees_the_call(again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    compiled = torch.compile(lambda a, b: add(a, b) * 2, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), 2 * (x + y))


def test_inference_mode(again):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)
    with torch.inference_mode():
        assert add(x, y).is_inference()
    assert not add(x, y).is_inference()
    assert len(again) == 3


# what changes in place


def test_a_change_in_place_is_counted(again):
    for _ in range(4):
        x = randn(4, 5)
        version, address = x._version, x.data_ptr()
        assert relu(x, inplace=True) is x and x._version > version and x.data_ptr() == address
        assert x.min() >= 0
    mean = randn(5)
    for _ in range(4):
        version = mean._version
        batch_norm(randn(6, 5), mean, randn(5).abs(), training=True)
        assert mean._version > version
    assert again


# what is kept, and for how long


def test_no_more_is_kept_than_can_be_remembered(again, monkeypatch):
    monkeypatch.setattr(calls, "MOST", 3)
    for n in range(1, 8):
        x = randn(n)
        assert_same(warm(relu, x), usual(relu, x))
        assert all(len(one.known) <= 3 for one in calls.Calls.everywhere)


def test_nothing_is_kept_of_a_call_that_fails(again, monkeypatch):
    x, y = randn(4, 5), randn(4, 5)
    warm(add, x, y)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "empty_strided", full)
        add(x, y)
    assert_same(add(x, y), usual(add, x, y))
    matmul(x, y.T)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr("course.kernels.products.matmul.compute_product", full)
        matmul(x, y.T)
    assert_same(warm(matmul, x, y.T), usual(matmul, x, y.T))


def test_a_configuration_that_was_measured_is_the_one_that_is_kept(again, monkeypatch):
    from course.kernels.products.matmul import ENGINES

    x, w = randn(4, 8), randn(6, 8)
    warm(linear, x, w)
    asked = []
    configs = ENGINES.configs
    offer(monkeypatch, ENGINES, lambda problem: asked.append(problem) or configs(problem))
    linear(x, w)
    assert asked


def test_what_was_chosen_without_measuring_holds_while_nothing_is_measured(again, monkeypatch):
    from course.kernels.products.matmul import ENGINES

    asked = []
    monkeypatch.setenv("COURSE_TUNE", "0")
    monkeypatch.setattr(ENGINES, "chosen", {})
    choose = ENGINES.choose
    monkeypatch.setattr(ENGINES, "choose", lambda *args: asked.append(1) or (choose(*args)[0], False))
    x, w = randn(4, 8), randn(6, 8)
    warm(linear, x, w)
    linear(x, w)
    assert len(asked) == 2 and len(again) == 2
    monkeypatch.setenv("COURSE_TUNE", "1")
    linear(x, w)
    assert len(asked) == 3 and len(again) == 2


def test_weights_may_be_replaced_and_layers_copied(again):
    layer = nn.Linear(8, 6, device=DEVICE)
    x = randn(4, 8)
    warm(layer, x)
    other = copy.deepcopy(layer)
    layer.weight = torch.nn.Parameter(randn(6, 8))
    layer.bias.data = randn(6)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(other(x), torch.nn.functional.linear(x, other.weight, other.bias))
    assert len(again) == 3


def test_threads(again):
    wrong = []

    def work():
        with torch.no_grad():
            for n in (3, 4, 5) * 6:
                x, y = randn(n, 5), randn(n, 5)
                if not torch.equal(add(x, y), x + y):
                    wrong.append(n)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and again


@pytest.mark.parametrize("name", ["conv2d, weight copied", "attention", "batch_norm, training", "relu, in place"])
@pytest.mark.usefixtures("again")
def test_no_tensor_is_kept(name):
    gone = []
    for _ in range(4):
        function, args, kwargs = CASES[name]()
        args, kwargs = on(DEVICE, args), on(DEVICE, kwargs)
        result = function(*args, **kwargs)
        gone += [weakref.ref(t.untyped_storage()) for t in (result, *args) if isinstance(t, torch.Tensor)]
        gone += [weakref.ref(t) for t in (result, *args) if isinstance(t, torch.Tensor)]
        del args, kwargs, result
    gc.collect()
    assert not [ref for ref in gone if ref() is not None]


@st.composite
def layouts(draw):
    """A shape of three dimensions, and how a tensor of that shape lies in memory."""
    shape = draw(st.lists(st.integers(1, 4), min_size=3, max_size=3))
    order = draw(st.permutations(range(3)))
    return shape, order, draw(st.lists(st.integers(1, 2), min_size=3, max_size=3)), draw(st.integers(0, 5))


def laid_out(shape, order, steps, offset):
    whole = [shape[d] * steps[d] for d in order]
    size = whole[0] * whole[1] * whole[2]
    t = randn(size + offset)[offset:].view(whole).permute([order.index(d) for d in range(3)])
    return t[tuple(slice(None, None, step) for step in steps)]


@hypothesis.given(st.lists(st.tuples(layouts(), st.sampled_from([relu, lambda t: softmax(t, 1), lambda t: add(t, t[0]),
                                                               lambda t: matmul(t, t[0].mT)])), min_size=1, max_size=3))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_sequence_of_calls(again, sequence):
    for layout, operation in sequence * 3:
        t = laid_out(*layout)
        assert_same(operation(t), usual(operation, t))


@pytest.mark.gpu
def test_calls_are_kept_while_a_graph_is_captured(again):
    x, w = randn(1, 64, 7, 7, dtype=torch.float16), randn(64, 64, 3, 3, dtype=torch.float16)
    x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))
    warm(conv2d, x, w, None, 1, 1)
    before = len(again)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = conv2d(x, w, None, 1, 1)
    assert len(again) > before
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w, None, 1, 1), rtol=1e-2, atol=1e-1)


@pytest.mark.gpu
def test_calls_are_launched_on_the_current_stream(again):
    x = randn(1 << 24)
    warm(relu, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        t = torch.full_like(x, -1.0)
        y = relu(t)
    stream.synchronize()
    assert (y == 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_gpu_has_its_own(again):
    for i in (0, 1, 0, 1, 0, 1, 0, 1):
        x, y = (torch.randn(4, 5, device=f"cuda:{i}") for _ in range(2))
        with torch.cuda.device(i):
            torch.testing.assert_close(add(x, y), x + y)
        torch.testing.assert_close(add(x, y), x + y)
