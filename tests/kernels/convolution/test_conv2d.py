import itertools
import warnings

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from course import runtime
from course.kernels import conv2d
from course.kernels.convolution import few_channels, problem, tma
from course.kernels.convolution.conv2d import ENGINES
from course.kernels.convolution.problem import convolution_problem
from course.precision import conv_precision
from course.runtime import INTERPRET
from course.tuning import Config, choice_name
from tests.compare import TF32, assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.engines import offer
from tests.kernels.images import LAYOUTS
from tests.marks import needs_tma

PYTORCH = {
    None: lambda y: y, "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}
layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def random(*shape, dtype, device, layout="contiguous"):
    return LAYOUTS[layout](torch.randn(shape, dtype=dtype, device=device))


def reference(x, weight, bias=None, residual=None, activation=None, **how):
    """The exact result, and the sum of the absolute values of what is added up for it."""
    with warnings.catch_warnings():  # PyTorch pads a copy for 'same' with an even filter, and says so
        warnings.simplefilter("ignore")
        x, weight = x.cpu().double(), weight.cpu().double()
        exact, magnitude = F.conv2d(x, weight, **how), F.conv2d(x.abs(), weight.abs(), **how)
    for term in (bias.reshape(-1, 1, 1) if bias is not None else None, residual):
        if term is not None:
            exact, magnitude = exact + term.cpu().double(), magnitude + term.cpu().double().abs()
    return PYTORCH[activation](exact), magnitude


def check(x, weight, bias=None, residual=None, activation=None, **how):
    got = conv2d(x, weight, bias, activation=activation, residual=residual, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_like_pytorch(got, F.conv2d(x, weight, bias, **how))
    exact, magnitude = reference(x, weight, bias, residual, activation, **how)
    # tensor cores cut float32 off after TF32's 10 bits instead of rounding it: twice the error
    rounding = 2 * TF32 if conv_precision(x.dtype) == "tf32" and not INTERPRET else 0.0
    assert_accurate(got, exact, terms=weight[0].numel() + 2, magnitude=magnitude, input_rounding=rounding)


@pytest.mark.parametrize("x_shape, w_shape, how", [
    ((2, 3, 32, 30), (16, 3, 7, 7), dict(stride=2, padding=3)),  # a stem
    ((2, 32, 9, 11), (48, 32, 3, 3), dict(padding=1)),
    ((2, 32, 9, 11), (40, 32, 3, 3), dict(padding=1, stride=2)),
    ((1, 48, 7, 7), (33, 48, 1, 1), dict(stride=2)),
    ((1, 3, 48, 32), (64, 3, 16, 16), dict(stride=16)),  # patches
    ((3, 20, 8, 7), (5, 20, 2, 3), dict(padding=(0, 2), stride=(3, 1), dilation=(2, 1))),
    ((1, 1, 28, 28), (8, 1, 5, 5), {}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 5, 1, 9), (3, 5, 1, 3), dict(padding=(4, 1))),
    ((1, 4, 3, 3), (2, 4, 3, 3), dict(padding=5, dilation=3)),  # windows that meet nothing but padding
])
@layouts
def test_shapes(x_shape, w_shape, how, layout, dtype, device):
    x = random(*x_shape, dtype=dtype, device=device, layout=layout)
    check(x, random(*w_shape, dtype=dtype, device=device, layout=layout), **how)


@pytest.mark.parametrize("x_layout, w_layout", [
    ("contiguous", "channels_last"), ("channels_last", "contiguous"), ("every other column", "every other column"),
    ("expanded", "transposed"), ("some channels", "some channels"), ("images innermost", "expanded"),
])
@pytest.mark.parametrize("channels", [6, 16])
def test_strides(channels, x_layout, w_layout, device):
    x = random(2, channels, 8, 7, dtype=torch.float16, device=device, layout=x_layout)
    w = random(9, channels, 3, 3, dtype=torch.float16, device=device, layout=w_layout)
    check(x, w, torch.randn(18, dtype=torch.float16, device=device)[::2], padding=1)
    check(x, w[:, :1].expand(-1, 1, -1, -1)[:1].expand(channels, -1, -1, -1), padding=1, groups=channels)


@pytest.mark.parametrize("groups, filters, channels", [
    (2, 16, 8), (3, 5, 7), (8, 4, 4), (1, 4, 4), (8, 3, 1), (6, 40, 1), (5, 1, 2), (70, 1, 1),
])
@layouts
def test_groups(groups, filters, channels, layout, device):
    x = random(2, groups * channels, 9, 6, dtype=torch.float32, device=device, layout=layout)
    w = random(groups * filters, channels, 3, 2, dtype=torch.float32, device=device, layout=layout)
    check(x, w, torch.randn(groups * filters, device=device), groups=groups, padding=1, stride=(2, 1))


@layouts
def test_depthwise(layout, dtype, device):
    x = random(2, 40, 9, 6, dtype=dtype, device=device, layout=layout)
    w = random(40, 1, 3, 3, dtype=dtype, device=device)
    residual = random(2, 40, 9, 6, dtype=dtype, device=device)
    check(x, w, w[:, 0, 0, 0], residual, "relu", groups=40, padding=1)


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 4), (5, 2)])
@pytest.mark.parametrize("dilation", [1, (2, 3)])
def test_named_padding(kernel_size, dilation, device):
    x, w = torch.randn(2, 3, 11, 12, device=device), torch.randn(4, 3, *kernel_size, device=device)
    check(x, w, padding="same", dilation=dilation)
    check(x, w, padding="valid", dilation=dilation, stride=2)


@pytest.mark.parametrize("activation, residual", [
    ("relu", None), (None, "contiguous"), ("relu", "channels_last"), ("gelu", "expanded"), ("gelu_tanh", "transposed"),
])
@layouts
def test_epilogue(activation, residual, layout, dtype, device):
    x = random(2, 16, 6, 7, dtype=dtype, device=device, layout=layout)
    w, bias = torch.randn(24, 16, 3, 3, dtype=dtype, device=device), torch.randn(24, dtype=dtype, device=device)
    if residual is not None:
        residual = random(2, 24, 6, 7, dtype=dtype, device=device, layout=residual)
    check(x, w, bias, residual, activation, padding=1)


def test_one_image_without_a_batch(device):
    x, w = torch.randn(3, 8, 9, device=device), torch.randn(4, 3, 3, 3, device=device)
    residual = torch.randn(4, 6, 7, device=device)
    check(x, w, residual=residual, activation="relu")
    check(x.permute(1, 2, 0).contiguous().permute(2, 0, 1), w)


@pytest.mark.parametrize("x_shape", [(0, 3, 5, 5), (2, 0, 5, 5)])
def test_empty(x_shape, device):
    x, w = torch.randn(x_shape, device=device), torch.randn(4, x_shape[1], 3, 3, device=device)
    assert_like_pytorch(conv2d(x, w), F.conv2d(x, w))


def integers(*shape, dtype, device, layout="contiguous"):
    return LAYOUTS[layout](torch.randint(-2, 3, shape, device=device).to(dtype))


def check_integers(x, w, **how):
    """Small integers are exact in every dtype, and so must their sums be: up to 256 in bfloat16, 2048 in float16."""
    exact, _ = reference(x, w, **how)
    torch.testing.assert_close(conv2d(x, w, **how).cpu().double(), exact.to(x.dtype).double(), rtol=0, atol=0)


@pytest.mark.parametrize("x_shape, w_shape, how", [
    ((2, 64, 14, 13), (70, 64, 3, 3), dict(padding=1)),
    ((2, 3, 33, 32), (64, 3, 7, 7), dict(padding=3, stride=2)),
    ((1, 512, 7, 7), (64, 512, 3, 3), dict(padding=1)),
    ((2, 24, 9, 9), (24, 1, 3, 3), dict(groups=24)),
    ((2, 64, 9, 9), (64, 32, 1, 1), dict(groups=2)),
])
@layouts
def test_integers_come_out_exactly(x_shape, w_shape, how, layout, dtype, device):
    x = integers(*x_shape, dtype=dtype, device=device, layout=layout)
    w = integers(*w_shape, dtype=dtype, device=device, layout=layout)
    if dtype != torch.float32:  # few enough terms that no sum needs rounding, which the interpreter does differently
        x = x * (torch.rand(x.shape, device=device) < 0.1)
    check_integers(x, w, **how)


@pytest.mark.parametrize("block_k, split", [(16, 1), (32, 2), (16, 5)])
@pytest.mark.parametrize("channels", [32, 7])
@layouts
def test_any_tile_and_split(block_k, split, channels, layout, device, monkeypatch):
    """Several tiles each way and sums in parts, whatever this machine would choose by itself."""
    tile = {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": block_k, "SPLIT_K": split}
    offer(monkeypatch, ENGINES, lambda _: [Config("pointers", tile, num_warps=4, num_stages=2)])
    x = integers(2, channels * 2, 5, 8, dtype=torch.float32, device=device, layout=layout)
    w = integers(40, channels, 3, 3, dtype=torch.float32, device=device, layout=layout)
    residual, bias = integers(2, 40, 5, 8, dtype=torch.float32, device=device), w[:, 0, 0, 0]
    check_integers(x, w, bias=bias, residual=residual, activation="relu", padding=1, groups=2)


def use_tma(monkeypatch, box=(1, 4, 4), channels=32, split=1, slices=1, engine=tma):
    """From here on what `engine` can run is computed by it, in these boxes; returns the problems that were."""
    blocks = {"IMAGES": box[0], "ROWS": box[1], "COLS": box[2], "BLOCK_N": 64, "BLOCK_K": channels, "SPLIT_K": split,
              "SLICES": slices, "PER_SM": 1}
    problems = []

    def first_that_can_run(asked):
        name, chosen = engine_of(asked)
        if chosen is not engine:
            return chosen.configs(asked)
        problems.append(asked)
        return [Config(name, blocks, num_warps=4, num_stages=3)]

    offer(monkeypatch, ENGINES, first_that_can_run)
    if INTERPRET:  # pretend to be a Hopper with few multiprocessors, so that each has many tiles
        monkeypatch.setattr(runtime, "capability", lambda: (9, 0))
        monkeypatch.setattr(runtime, "num_sms", lambda: 3)
    return problems


def engine_of(asked):
    """The name and the module of the engine that computes the problem `asked`."""
    return next((name, engine) for name, engine in ENGINES.by_name.items() if engine.can_run(asked))


def problem_of(x, w, residual=None, stride=(1, 1), pad=0, dilation=(1, 1), groups=1, precision="tf32"):
    return convolution_problem(
        x.shape, x.stride(), w.shape, w.stride(), None if residual is None else residual.stride(), stride, (pad,) * 4,
        dilation, groups, None, x.dtype, precision if x.dtype == torch.float32 else "ieee",
        False, (x.data_ptr() | w.data_ptr()) % 16 == 0, residual is None or residual.data_ptr() % 16 == 0,
    )


@needs_tma
@pytest.mark.parametrize("x_shape, w_shape, how, box, split, slices", [
    ((5, 32, 4, 5), (72, 32, 3, 3), dict(padding=1), (16, 1, 1), 1, 1),
    ((5, 32, 5, 5), (40, 32, 3, 3), dict(padding=1, stride=2), (32, 1, 1), 2, 4),
    ((2, 64, 5, 6), (72, 64, 3, 3), dict(padding=1), (1, 4, 4), 1, 2),
    ((2, 64, 5, 6), (16, 64, 3, 3), dict(padding=1), (2, 2, 8), 5, 8),
    ((3, 32, 6, 10), (72, 32, 3, 3), dict(padding=1, stride=2), (2, 4, 4), 2, 2),
    ((3, 32, 7, 10), (72, 32, 3, 3), dict(padding=1, stride=2), (1, 1, 16), 1, 1),
    ((3, 32, 8, 9), (16, 32, 2, 3), dict(padding=(2, 0), stride=(1, 3), dilation=(3, 1)), (2, 4, 4), 1, 1),
    ((1, 32, 3, 5), (64, 32, 3, 3), dict(padding=5, dilation=4), (1, 2, 8), 3, 1),  # windows that meet only padding
    ((3, 64, 5, 7), (72, 64, 1, 1), {}, (32, 1, 1), 2, 1),
])
def test_boxes_through_tma(x_shape, w_shape, how, box, split, slices, device, monkeypatch):
    problems = use_tma(monkeypatch, box, split=split, slices=slices)
    x = integers(*x_shape, dtype=torch.float16, device=device, layout="channels_last")
    w = integers(*w_shape, dtype=torch.float16, device=device)
    x, bias = x * (torch.rand(x.shape, device=device) < 0.1), w[:, 0, 0, 0]
    residual = integers(*F.conv2d(x, w, **how).shape, dtype=torch.float16, device=device, layout="channels_last")
    check_integers(x, w, bias=bias, residual=residual, activation="relu", **how)
    assert problems


@needs_tma
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_epilogue_through_tma(activation, dtype, device, monkeypatch):
    problems = use_tma(monkeypatch, (2, 2, 8), slices=2)
    x = random(2, 32, 6, 7, dtype=dtype, device=device, layout="channels_last")
    w, bias = torch.randn(24, 32, 3, 3, dtype=dtype, device=device), torch.randn(24, dtype=dtype, device=device)
    check(x, w, bias, random(2, 24, 6, 7, dtype=dtype, device=device, layout="channels_last"), activation, padding=1)
    assert problems


@needs_tma
def test_what_tma_can_read(device, monkeypatch, ieee):
    problems = use_tma(monkeypatch)

    def goes(x, w, **how):
        problems.clear()
        check(x, w, padding=1, **how)
        return len(problems) > 0

    x = random(2, 96, 6, 8, dtype=torch.float16, device=device, layout="channels_last")
    w = random(16, 64, 3, 3, dtype=torch.float16, device=device, layout="channels_last")
    assert goes(x[:, :64], w)
    assert goes(x[:, 32:], w, stride=2)
    assert goes(x[:1, 32:, ::2, :4], w)
    assert goes(x[:, :64, :1, :1], w)
    assert goes(x[:, :64], torch.cat((w, w), dim=1)[:, 64:])
    assert not goes(x[:, 1:65], w)  # not from a multiple of 16 bytes on
    assert not goes(x[:, :64].contiguous(), w)
    assert not goes(x[:, :64, :, :1].expand(-1, -1, -1, 8), w)
    assert not goes(x[:, :16], w[:, :16])  # less than 64 bytes a step
    assert not goes(x[:, :64], w[:15])
    assert not goes(x[:, :64], w[:, :32], groups=2)
    assert not goes(x[:, :64], w, residual=random(2, 16, 6, 8, dtype=torch.float16, device=device))
    assert not goes(x[:, :64].float(), w.float())


@needs_tma
@pytest.mark.parametrize("x_shape, w_shape, how, channels", [
    ((2, 3, 20, 19), (16, 3, 7, 7), dict(stride=2, padding=3), 32),
    ((2, 1, 9, 8), (72, 1, 3, 3), dict(padding=1), 32),
    ((2, 8, 6, 9), (16, 8, 3, 5), dict(padding=(1, 2), dilation=(2, 1)), 64),
    ((3, 3, 16, 16), (24, 3, 4, 8), dict(stride=(4, 8)), 32),
    ((2, 3, 8, 8), (16, 3, 4, 4), dict(padding="same"), 32),
])
@layouts
def test_few_channels_through_tma(x_shape, w_shape, how, channels, layout, device, monkeypatch):
    monkeypatch.setattr(problem, "SMALL", 0)
    problems = use_tma(monkeypatch, (1, 2, 8), channels, engine=few_channels)
    x = integers(*x_shape, dtype=torch.float16, device=device, layout=layout)
    w = integers(*w_shape, dtype=torch.float16, device=device, layout="channels_last")
    check_integers(x * (torch.rand(x.shape, device=device) < 0.3), w, bias=w[:, 0, 0, 0], activation="relu", **how)
    assert problems


@needs_tma
def test_few_channels_keep_to_their_window(dtype, device, monkeypatch):
    """A step reads more pixels than the window has: what these hold, infinity even, must not matter."""
    monkeypatch.setattr(problem, "SMALL", 0)
    problems = use_tma(monkeypatch, (1, 1, 16), 16, engine=few_channels)
    x = random(1, 3, 8, 16, dtype=dtype, device=device, layout="channels_last")
    w = random(16, 3, 3, 3, dtype=dtype, device=device, layout="channels_last")
    x[0, 1, 2, 7], x[0, 2, 5, 12] = float("inf"), float("nan")
    check(x, w, stride=2, padding=1)
    assert problems


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("N, C, H, K, R, stride", [
    (1, 64, 56, 64, 3, 1), (16, 256, 14, 256, 3, 1), (256, 512, 7, 512, 3, 1), (64, 64, 56, 128, 1, 2),
    (100, 96, 15, 40, 3, 2), (1, 512, 1, 1000, 1, 1),
])
def test_offered_boxes(N, C, H, K, R, stride, dtype, monkeypatch):
    """All can be described to TMA and fit a Hopper's memory; a box of several rows needs an even height."""
    monkeypatch.setattr(runtime, "capability", lambda: (9, 0))
    monkeypatch.setattr(runtime, "num_sms", lambda: 132)
    x = torch.empty(N, C, H, H, dtype=dtype, device="meta").to(memory_format=torch.channels_last)
    asked = problem_of(x, torch.empty(K, C, R, R, dtype=dtype, device="meta"), stride=(stride, stride), pad=R // 2)
    assert tma.can_run(asked)
    monkeypatch.setattr(tma, "configs", tma.configs.__wrapped__)
    configs = ENGINES.configs(asked)
    assert 1 <= len(configs) <= 12 and {config.engine for config in configs} == {"tma"}
    assert len({str(config) for config in configs}) == len(configs)
    for config in configs:
        blocks = config.blocks
        assert C % blocks["BLOCK_K"] == 0
        assert max(blocks["IMAGES"], blocks["ROWS"], blocks["COLS"], blocks["BLOCK_N"]) <= 256
        assert blocks["ROWS"] == blocks["COLS"] == 1 or H % stride == 0
        pixels = blocks["IMAGES"] * blocks["ROWS"] * blocks["COLS"]
        step = (pixels + blocks["BLOCK_N"]) * blocks["BLOCK_K"] * dtype.itemsize
        finished = pixels * blocks["BLOCK_N"] * dtype.itemsize // blocks["SLICES"]
        assert (config.num_stages * step + finished + 1024) * blocks["PER_SM"] <= 228 * 1024


def test_a_choice_is_one_engines(monkeypatch):
    """Whatever lies in memory how: a stored choice is never found for a problem that its engine cannot run."""
    monkeypatch.setattr(runtime, "capability", lambda: (9, 0))
    monkeypatch.setattr(problem, "SMALL", 0)
    engines = {}
    for channels, filters, dtype in itertools.product((3, 8, 16, 64), (16, 20), (torch.float16, torch.float32)):
        how = dict(dtype=dtype, device="cpu")
        xs = [random(2, channels, 6, 8, layout=layout, **how) for layout in LAYOUTS]
        xs.append(random(2, 2 * channels, 6, 8, layout="channels_last", **how)[:, 1 : channels + 1])
        ws = [random(filters, channels, 1, 1, layout=layout, **how) for layout in ("contiguous", "channels_last")]
        residuals = [random(2, filters, 6, 8, layout=layout, **how) for layout in LAYOUTS] + [None]
        for x, w, residual in itertools.product(xs, ws, residuals):
            for stride, groups, precision in (((1, 1), 1, "tf32"), ((2, 2), 1, "ieee"), ((1, 1), 2, "tf32")):
                w_of_group = w[:, : channels // groups]
                if x.shape[1] == w_of_group.shape[1] * groups:
                    asked = problem_of(x, w_of_group, residual, stride, groups=groups, precision=precision)
                    name, _ = engine_of(asked)
                    assert engines.setdefault(choice_name("conv2d", asked.choice()), name) == name
    assert set(engines.values()) == {"tma", "few_channels", "transposed", "pointers"}


@pytest.mark.parametrize("channels, groups", [(3, 1), (16, 1), (6, 6)])
def test_taps_very_far_apart(channels, groups, device):
    """Offsets within a window pass 2**31, and only the middle tap meets the image."""
    x, w = torch.randn(1, channels, 4, 5, device=device), torch.randn(6, channels // groups, 3, 3, device=device)
    got = conv2d(x, w, padding=2**29, dilation=2**29, groups=groups)
    torch.testing.assert_close(got, conv2d(x, w[:, :, 1:2, 1:2], groups=groups))


@layouts
def test_nan_and_infinity(layout, dtype, device):
    x = random(2, 5, 9, 8, dtype=dtype, device=device, layout=layout)
    w = random(4, 5, 3, 3, dtype=dtype, device=device)
    x[0, 1, 2, 3], x[1, 2, 0, 0], x[1, 3, 5, 5] = float("nan"), float("inf"), -float("inf")
    check(x, w, padding=1, activation="relu")
    w[1, 2, 0, 1] = float("inf")  # and no other filter may see it
    check(x, w)
    check(random(2, 4, 5, 5, dtype=dtype, device=device), w[:, :1], groups=4)


@hypothesis.given(data=st.data())
def test_any_parameters(data, device):
    def draw(name, low, high):
        return data.draw(st.integers(low, high), label=name)

    groups = data.draw(st.sampled_from([1, 1, 2, 3]), label="groups")
    C, K = groups * data.draw(st.sampled_from([1, 3, 8, 16, 32])), groups * draw("filters", 1, 20)
    R, S = data.draw(st.sampled_from([(1, 1), (2, 3), (3, 3), (4, 1)]), label="kernel_size")
    pads, steps, gaps = ((draw(n, low, high), draw(n, low, high)) for n, low, high in
                         [("padding", 0, 3), ("stride", 1, 3), ("dilation", 1, 3)])
    H = max(1, gaps[0] * (R - 1) + 1 - 2 * pads[0]) + draw("height", 0, 9)
    W = max(1, gaps[1] * (S - 1) + 1 - 2 * pads[1]) + draw("width", 0, 9)
    x_layout, w_layout = (data.draw(st.sampled_from(sorted(LAYOUTS)), label="layout") for _ in range(2))
    if C // groups * R * S == 1:  # strides of single numbers say nothing, and PyTorch's CPU kernels read them variously
        w_layout = "contiguous"
    x = random(draw("images", 1, 3), C, H, W, dtype=torch.float32, device=device, layout=x_layout)
    w = random(K, C // groups, R, S, dtype=torch.float32, device=device, layout=w_layout)
    check(x, w, padding=pads, stride=steps, dilation=gaps, groups=groups)


@one_dtype
def test_opcheck(dtype, device):
    x, w = torch.randn(2, 4, 6, 5, dtype=dtype, device=device), torch.randn(8, 4, 3, 3, dtype=dtype, device=device)
    op = torch.ops.course.conv2d.default
    torch.library.opcheck(op, (x, w, None, None, [1, 1], [0, 0, 0, 0], [1, 1], 1, None))
    x = x.to(memory_format=torch.channels_last)
    residual = torch.randn(2, 8, 3, 3, dtype=dtype, device=device)
    torch.library.opcheck(op, (x, w[:, :2], w[:, 0, 0, 0], residual, [2, 2], [1, 1, 1, 1], [1, 1], 2, "relu"))


def test_compiles_without_graph_breaks(device):
    x, w = torch.randn(2, 4, 6, 5, device=device), torch.randn(8, 4, 3, 3, device=device)
    bias = torch.randn(8, device=device)
    compiled = torch.compile(conv2d, fullgraph=True, backend="aot_eager")
    for images in (x, x.to(memory_format=torch.channels_last), x[0]):
        got = compiled(images, w, bias, padding="same", activation="relu")
        assert_like_pytorch(got, F.conv2d(images, w, bias, padding="same"))
        torch.testing.assert_close(got, conv2d(images, w, bias, padding=1, activation="relu"))


def test_bad_input(device):
    x, w = torch.randn(2, 4, 5, 5, device=device), torch.randn(6, 4, 3, 3, device=device)

    def refused(message, *args, error=ValueError, **how):
        with pytest.raises(error, match=f"^conv2d: expected {message}"):
            conv2d(*args, **how)

    refused(r"input \(N, C, H, W\) or \(C, H, W\) with H and W at least 1, got \(5, 5\)", x[0, 0], w)
    refused(r"input .* with H and W at least 1, got \(2, 4, 0, 5\)", x[:, :, :0], w, padding=2)
    refused(r"weight \(K, C / groups, R, S\) with K, R and S at least 1, got \(6, 4, 3\)", x, w[..., 0])
    refused(r"weight .*, got \(0, 4, 3, 3\)", x, w[:0])
    refused(r"weight .*, got \(6, 4, 0, 3\)", x, w[:, :, :0])
    refused(r"input with 4 channels \(1 groups of 4\), got 3", x[:, :3], w)
    refused(r"input with 8 channels \(2 groups of 4\), got 4", x, w, groups=2)
    refused("groups that divide the 6 filters, got 4", x, w, groups=4)
    refused("groups that divide the 6 filters, got 0", x, w, groups=0)
    refused(r"bias \(6,\), got \(4,\)", x, w, w[0, :, 0, 0])
    refused(r"residual \(2, 6, 3, 3\), got \(2, 4, 5, 5\)", x, w, residual=x)
    refused("activation to be one of .*, got 'swish'", x, w, activation="swish")
    refused("padding of at least 0, got -1", x, w, padding=-1)
    refused("stride of at least 1, got 0", x, w, stride=0)
    refused("dilation of at least 1, got 0", x, w, dilation=0)
    refused("stride to be an integer or a pair of integers, got 3 of them", x, w, stride=(1, 1, 1))
    refused("stride to be an integer or a pair of integers, got 1.5", x, w, stride=1.5, error=TypeError)
    refused("stride 1 for padding='same', got", x, w, padding="same", stride=2)
    refused("padding to be 'same', 'valid' or integers, got 'full'", x, w, padding="full")
    refused(r"input that holds 3 by 3 taps at least once, got \(2, 4, 5, 5\)", x, w, dilation=3)
    refused("weight in torch.float32 as input, got torch.float16", x, w.half(), error=TypeError)
    refused("input in float32, float16 or bfloat16, got torch.int64", x.long(), w.long(), error=TypeError)
    refused("weight on .*, got meta", x, w.to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="conv2d: weight requires a gradient"):
        conv2d(x, w.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    with pytest.raises(ValueError, match=r"conv2d: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        conv2d(torch.randn(1, 3, 4, 4), torch.randn(2, 3, 3, 3))


@pytest.mark.gpu
@layouts
def test_float32_precision_follows_pytorch(layout, ieee):
    x = random(2, 64, 14, 14, dtype=torch.float32, device="cuda", layout=layout)
    w = random(64, 64, 3, 3, dtype=torch.float32, device="cuda")
    check(x, w, padding=1)
    exact, _ = reference(x, w, padding=1)
    full = (conv2d(x, w, padding=1).cpu() - exact).abs().max()
    torch.backends.cudnn.allow_tf32 = True
    check(x, w, padding=1)
    assert (conv2d(x, w, padding=1).cpu() - exact).abs().max() > 10 * full


@pytest.mark.gpu
def test_graph_capture():
    """Also where the sums are split, and twice the same bits."""
    x, w = torch.randn(1, 512, 7, 7, device="cuda"), torch.randn(512, 512, 3, 3, device="cuda")
    want = conv2d(x, w, padding=1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = conv2d(x, w, padding=1)
    graph.replay()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
@needs_tma
def test_split_sums_on_several_streams(monkeypatch):
    """Launches that run at the same time keep their counters apart, and every launch leaves zeros for the next."""
    use_tma(monkeypatch, (1, 2, 8), channels=64, split=4)
    x = random(1, 512, 7, 7, dtype=torch.float16, device="cuda", layout="channels_last")
    w = random(512, 512, 3, 3, dtype=torch.float16, device="cuda", layout="channels_last")
    want = conv2d(x, w, padding=1)
    exact, magnitude = reference(x, w, padding=1)
    assert_accurate(want, exact, terms=w[0].numel(), magnitude=magnitude)
    torch.cuda.synchronize()
    graphs, results = [torch.cuda.CUDAGraph() for _ in range(3)], []
    for graph in graphs:
        with torch.cuda.graph(graph):
            results += [conv2d(x, w, padding=1) for _ in range(5)]
    streams = [torch.cuda.Stream() for _ in range(6)]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, graph in zip(streams, graphs + [None] * 3):
            with torch.cuda.stream(stream):
                if graph is None:
                    results.append(conv2d(x, w, padding=1))
                else:
                    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(got, want) for got in results)


@pytest.mark.gpu
@pytest.mark.parametrize("x_shape, w_shape, how", [
    ((520, 64, 256, 256), (8, 64, 3, 3), dict(stride=4)),  # many images
    ((1, 16, 18_000, 8_192), (8, 16, 3, 3), dict(stride=4)),  # one image, and its channels 2**31 apart
    ((1, 1, 2**16, 2**15 + 8), (1, 1, 3, 3), dict(padding=1)),  # more than 2**31 pixels
    ((1, 16, 16_400, 8_192), (16, 1, 3, 3), dict(padding=1, groups=16)),
])
@layouts
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(x_shape, w_shape, how, layout):
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty(x_shape, dtype=torch.float16, device="cuda", memory_format=memory_format).normal_()
    w = torch.randn(w_shape, dtype=torch.float16, device="cuda")
    got = conv2d(x, w, **how)
    # the end of the last image, computed on its own but for what the cut changes
    exact, magnitude = (t[:, :, 2:] for t in reference(x[-1:, :, -64:], w, **how))
    assert_accurate(got[-1:, :, -exact.shape[2] :], exact, terms=w[0].numel(), magnitude=magnitude)
