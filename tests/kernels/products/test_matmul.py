import hypothesis
import pytest
import torch
import triton
from hypothesis import strategies as st

from course import runtime
from course.kernels.products import hopper, pointers, tma
from course.kernels.products.hopper import rows_of_a_tile
from course.kernels.products.matmul import ENGINES, matmul
from course.kernels.products.problem import product_problem
from course.runtime import INTERPRET
from course.tuning import Config
from tests.compare import TF32, assert_accurate, assert_like_pytorch, one_dtype
from tests.kernels.engines import offer
from tests.marks import needs_hopper, needs_tma


def check(a, b):
    got = matmul(a, b)
    assert_like_pytorch(got, torch.matmul(a, b))
    exact, magnitude = torch.matmul(a.double(), b.double()), torch.matmul(a.double().abs(), b.double().abs())
    assert_accurate(got, exact, terms=a.shape[-1], magnitude=magnitude, input_rounding=rounding(a.dtype))
    return got


def rounding(dtype):
    """Hopper's tensor cores cut float32 off to TF32: up to twice the error of rounding."""
    return 2 * TF32 if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else 0.0


@pytest.fixture
def tf32():
    """Float32 products on tensor cores, where there are some."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def normal(shape, dtype=torch.float32, device=runtime.DEVICE):
    return torch.randn(shape, dtype=dtype, device=device)


def use(monkeypatch, *configs):
    """From here on each product is computed in the first of `configs` whose engine can run it. Returns those used."""
    used = []

    def offered(problem):
        used.append(next(config for config in configs if ENGINES.by_name[config.engine].can_run(problem)))
        return used[-1:]

    offer(monkeypatch, ENGINES, offered)
    if INTERPRET:  # pretend to be a Hopper with few multiprocessors, so that each has many tiles
        monkeypatch.setattr(runtime, "capability", lambda: (9, 0))
        monkeypatch.setattr(runtime, "num_sms", lambda: 3)
    return used


def by_pointers(split=1):
    blocks = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 2, "SPLIT_K": split}
    return Config("pointers", blocks, num_warps=4, num_stages=3)


def by_tma(slices=2, at_once=False, split=1, per_sm=1):
    """With at_once and a great many programs on a multiprocessor, each has one tile."""
    blocks = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 2, "SLICES": slices, "PER_SM": per_sm,
              "AT_ONCE": at_once, "SPLIT_K": split}
    return Config("tma", blocks, num_warps=4, num_stages=3)


def by_hopper(warp_groups=3):
    return Config("hopper", {"WARP_GROUPS": warp_groups}, num_warps=4, num_stages=1)


@pytest.mark.parametrize("a_shape, b_shape", [
    ((1, 1), (1, 1)), ((5, 7), (7, 3)), ((197, 768), (768, 100)), ((257, 33), (33, 129)), ((1, 300), (300, 65)),
    ((7,), (7,)), ((7,), (7, 3)), ((5, 7), (7,)), ((2, 5, 7), (7,)), ((7,), (2, 7, 3)),
    ((2, 5, 7), (7, 3)), ((2, 5, 7), (2, 7, 3)), ((5, 7), (2, 7, 3)), ((2, 1, 5, 7), (3, 7, 4)),
    ((2, 3, 1, 7), (2, 3, 7, 4)), ((4, 1, 1, 7), (1, 3, 7, 1)), ((1, 2, 3, 5, 7), (2, 2, 1, 7, 3)),
])
def test_shapes(a_shape, b_shape, dtype, device):
    check(normal(a_shape, dtype), normal(b_shape, dtype))


@pytest.mark.parametrize("a_shape, b_shape", [
    ((0, 7), (7, 3)), ((5, 7), (7, 0)), ((5, 0), (0, 3)), ((0, 5, 7), (7, 3)), ((2, 5, 0), (2, 0, 3)),
    ((0,), (0,)), ((0, 1, 5, 7), (3, 7, 2)), ((0,), (0, 3)),
])
def test_empty(a_shape, b_shape, dtype, device):
    a, b = normal(a_shape, dtype), normal(b_shape, dtype)
    got = matmul(a, b)
    assert_like_pytorch(got, torch.matmul(a, b))
    assert not got.any()


VIEWS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other column": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
    "sliced": lambda t: torch.nn.functional.pad(t, (3, 2, 1, 0))[..., 1:, 3:-2],
    "one row, repeated": lambda t: t[..., :1, :].expand(t.shape),
    "one matrix, repeated": lambda t: t[:1].expand(t.shape),
    "batch innermost": lambda t: t.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_strides(name, dtype, device):
    a, b = normal((3, 70, 40), dtype), normal((3, 40, 36), dtype)
    check(VIEWS[name](a), b)
    check(a, VIEWS[name](b))
    check(VIEWS[name](a), VIEWS[name](b)[0])


@pytest.mark.parametrize("M, N, K, split", [(150, 100, 200, 1), (150, 100, 200, 3), (70, 60, 130, 7), (3, 33, 97, 2)])
def test_through_pointers(M, N, K, split, dtype, monkeypatch):
    """Many tiles, edges in each direction, a group of rows that is not full; short and empty parts of the sum."""
    used = use(monkeypatch, by_pointers(split))
    a, b = normal((M, K), dtype), normal((K, N), dtype)
    assert torch.equal(check(a, b), matmul(a, b))  # the same bits every time
    assert all(config.blocks["SPLIT_K"] == split for config in used)


def test_batches_of_many_tiles(dtype, monkeypatch):
    use(monkeypatch, by_pointers())
    check(normal((2, 1, 100, 70), dtype), normal((3, 70, 50), dtype))


@needs_tma
@pytest.mark.parametrize("M, N, K", [(300, 136, 200), (64, 64, 32), (17, 8, 8)])
@pytest.mark.parametrize("a_rows, b_rows", [(True, True), (True, False), (False, True), (False, False)])
def test_through_tma(M, N, K, a_rows, b_rows, dtype, monkeypatch, tf32):
    used = use(monkeypatch, by_tma(), by_pointers())
    M = M if a_rows else triton.cdiv(M, 8) * 8  # columns start at multiples of 16 bytes
    a, b = normal((M, K), dtype), normal((K, N), dtype)
    check(a if a_rows else a.T.contiguous().T, b if b_rows else b.T.contiguous().T)
    k_innermost = a_rows and not b_rows
    assert (used[0].engine == "tma") == (dtype != torch.float32 or k_innermost)


@needs_hopper
@pytest.mark.parametrize("warp_groups", [2, 3])
@pytest.mark.parametrize("M, N, K", [(300, 136, 200), (64, 64, 32), (17, 8, 8), (5000, 1000, 328), (6000, 768, 3072)])
def test_on_hopper(M, N, K, warp_groups, dtype, monkeypatch):
    """Warp groups without a column, edges all round, fewer steps than stages, more tiles than multiprocessors."""
    used = use(monkeypatch, by_hopper(warp_groups), by_pointers())
    a, b = normal((M, K), dtype), normal((N, K), dtype).T
    assert torch.equal(check(a, b), matmul(a, b))
    assert (used[0].engine == "hopper") == (dtype != torch.float32)
    used.clear()
    check(a, b.contiguous())  # not as a linear layer has them
    check(a.T.contiguous().T, b)
    assert not any(config.engine == "hopper" for config in used)


@pytest.mark.parametrize("M, N, K, warp_groups, rows", [
    (1576, 768, 3072, 2, (64, 8)), (3152, 768, 768, 2, (128, 16)), (1576, 2304, 768, 3, (128, 16)),
    (1576, 3072, 768, 2, (128, 16)), (12608, 768, 3072, 3, (128,)),
])
def test_tiles_come_out_even(M, N, K, warp_groups, rows):
    """Layers of a ViT on an H200: as many tiles as multiprocessors, or a multiple."""
    assert rows_of_a_tile(M, N, K, warp_groups, 132) == rows
    tiles = triton.cdiv(M, sum(rows)) * triton.cdiv(N, 64 * warp_groups)
    assert tiles % 132 == 0


@needs_tma
def test_programs_that_share_a_tile_ask_at_once(monkeypatch):
    """Otherwise each would compute the whole sum."""
    use(monkeypatch, by_tma(split=3))
    with pytest.raises(Exception, match="programs that share a tile have one tile"):
        matmul(normal((64, 96), torch.float16), normal((64, 96), torch.float16).T)


@needs_tma
def test_what_tma_cannot_read(dtype, monkeypatch):
    used = use(monkeypatch, by_tma(), by_pointers())
    a, b = normal((64, 72), dtype), normal((72, 48), dtype)
    for x, y in ((a[:, 1:], b[1:]), (a[:, ::2], b[::2]), (a, b[:, :47]), (a.expand(2, -1, -1), b.repeat(2, 1, 1))):
        check(x, y)
    check(normal((1, 72), dtype).expand(64, -1), b)
    assert not any(config.engine == "tma" for config in used)


@pytest.mark.parametrize("path", [
    "pointers", "split", *(pytest.param(path, marks=needs_tma) for path in ("tma", "tma split")),
    *(pytest.param(path, marks=needs_hopper) for path in ("hopper", "hopper, 2 warp groups")),
])
def test_integers_come_out_exactly(path, dtype, device, monkeypatch, tf32):
    configs = {"pointers": by_pointers(), "split": by_pointers(3), "tma": by_tma(), "tma split": by_tma(2, True, 3),
               "hopper": by_hopper(), "hopper, 2 warp groups": by_hopper(2)}
    used = use(monkeypatch, configs[path], by_pointers())
    a = torch.randint(-4, 5, (200, 264), device=device)
    b = torch.randint(-1, 2, (264, 136), device=device) * (torch.rand(264, 136, device=device) < 0.1)  # sums under 256
    got = matmul(a.to(dtype), b.T.contiguous().T.to(dtype))
    assert torch.equal(got.cpu().long(), a.cpu() @ b.cpu())
    assert (used[0].engine == "tma") == path.startswith("tma")
    assert (used[0].engine == "hopper") == (path.startswith("hopper") and dtype != torch.float32)


def test_nan_and_infinity(dtype, device):
    a, b = normal((70, 50), dtype), normal((50, 40), dtype)
    a[3, 7], a[5, 49], b[2, 4], b[49, 39] = float("nan"), float("inf"), -float("inf"), float("nan")
    a[:, 1], b[1] = 0, 0
    a[9, 1], b[1, 1] = 2 * [torch.finfo(dtype).max]  # their product overflows
    check(a, b)


@hypothesis.given(data=st.data())
def test_any_shapes(data, device):
    M, N, K = (data.draw(st.integers(0, 40), label=label) for label in "MNK")
    batch = data.draw(st.lists(st.integers(0, 3), max_size=3), label="batch")

    def operand(name, rows, cols):
        sizes = [data.draw(st.sampled_from([1, n])) for n in batch]
        sizes = sizes[data.draw(st.integers(0, len(sizes)), label=f"first dimension of {name}") :]
        transposed = data.draw(st.booleans(), label=f"{name} transposed")
        return normal((*sizes, cols, rows)).mT if transposed else normal((*sizes, rows, cols))

    check(operand("a", M, K), operand("b", K, N))


def of_linear(M, N, K, dtype, precision="ieee", a_strides=None, aligned=True):
    """The problem of x (M, K) times the transpose of weights (N, K)."""
    a_strides = a_strides or (K, 1)
    return product_problem((M, N), K, (N, 1), a_strides, (1, K), None, dtype, precision, None, False, False, aligned)


def test_offered_configurations(dtype, set_capability, monkeypatch):
    def clear():  # which a process that sees one GPU need not do
        for engine in (hopper, tma, pointers):
            engine.configs.cache_clear()

    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(runtime, "num_sms", lambda: 132)
    for capability in ((0, 0), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
        set_capability(*capability)
        clear()
        for precision in ("ieee", "tf32"):
            for size in ((8192, 8192, 8192), (50432, 768, 3072), (197, 768, 768), (1, 2000, 16384)):
                problem = of_linear(*size, dtype, precision)
                fed_by_tma = capability in ((9, 0), (10, 0))
                by_tma = size[0] > 1 and fed_by_tma and (dtype != torch.float32 or precision == "tf32")
                on_hopper = by_tma and capability == (9, 0) and dtype != torch.float32
                assert [engine.can_run(problem) for engine in (hopper, tma, pointers)] == [on_hopper, by_tma, True]
                offered = ENGINES.offered(problem)
                assert 1 < len(offered) == len(set(map(str, offered)))
                assert offered == sorted(offered, key=lambda config: config.cost)
            assert len(ENGINES.configs(of_linear(197, 10, 768, dtype, precision))) == 1  # too small to measure
    clear()


def test_what_a_choice_depends_on(monkeypatch):
    monkeypatch.setattr(runtime, "capability", lambda: (9, 0))
    choice = of_linear(1576, 768, 3072, torch.float16).choice()
    assert of_linear(2048, 768, 3072, torch.float16).choice() == choice  # about as many rows
    others = [
        of_linear(2049, 768, 3072, torch.float16), of_linear(1576, 760, 3072, torch.float16),
        of_linear(1576, 768, 3000, torch.float16), of_linear(1576, 768, 3072, torch.bfloat16),
        of_linear(1576, 768, 3072, torch.float16, a_strides=(1, 1576)),
        of_linear(1576, 768, 3072, torch.float16, aligned=False),  # which other engines can run
        of_linear(1576, 768, 3072, torch.float16)._replace(activation="relu"),
        of_linear(1576, 768, 3072, torch.float16)._replace(residual_strides=(768, 1)),
        of_linear(1576, 768, 3072, torch.float16)._replace(norm=True),
        of_linear(1576, 768, 3072, torch.float16)._replace(statistics=True),
    ]
    assert len({str(problem.choice()) for problem in others} | {str(choice)}) == 1 + len(others)


@one_dtype
def test_nothing_is_worked_out_twice(dtype, device, monkeypatch):
    """Listing and sorting the configurations takes longer than a small product."""
    monkeypatch.setattr(ENGINES, "chosen", {})
    a, b = normal((40, 50), dtype), normal((50, 60), dtype)
    cached = product_problem, pointers.configs, pointers.plan
    for function in cached:
        function.cache_clear()
    for _ in range(3):
        matmul(a, b)
    assert [function.cache_info().misses for function in cached] == [1, 1, 1]


@one_dtype
def test_opcheck(dtype, device):
    for a_shape, b_shape in (((3, 4), (4, 5)), ((4,), (4,)), ((2, 1, 3, 4), (3, 4, 5)), ((2, 3, 4), (4,))):
        torch.library.opcheck(torch.ops.course.matmul.default, (normal(a_shape, dtype), normal(b_shape, dtype)))


def test_compiles_without_graph_breaks(device):
    a, b = normal((2, 3, 4)), normal((4, 5))
    compiled = torch.compile(matmul, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), matmul(a, b))


def test_bad_input(device):
    a = normal((3, 4))
    with pytest.raises(ValueError, match=r"matmul: expected .* of one K, got input \(3, 4\), other \(3, 4\)"):
        matmul(a, a)
    with pytest.raises(ValueError, match=r"of one K, got input \(3, 4\), other \(3,\)"):
        matmul(a, a[:, 0])
    with pytest.raises(ValueError, match=r"expected batch dimensions .*, got input \(2, 3, 4\), other \(5, 4, 3\)"):
        matmul(normal((2, 3, 4)), normal((5, 4, 3)))
    with pytest.raises(ValueError, match="matmul: expected tensors of at least one dimension"):
        matmul(a, a[0, 0])
    with pytest.raises(TypeError, match="matmul: expected other in torch.float32 as input, got torch.float16"):
        matmul(a, a.T.half())
    with pytest.raises(TypeError, match="matmul: expected input in float32, float16 or bfloat16, got torch.int64"):
        matmul(a.long(), a.T.long())
    with pytest.raises(ValueError, match="matmul: expected other on .*, got meta"):
        matmul(a, a.T.to("meta"))
    with torch.enable_grad(), pytest.raises(ValueError, match="matmul: other requires a gradient"):
        matmul(a, a.T.clone().requires_grad_())


@pytest.mark.gpu
def test_cpu_tensor_says_what_to_do():
    a = torch.randn(3, 3)
    with pytest.raises(ValueError, match=r"matmul: expected input on a GPU, got cpu: move it with \.cuda\(\)"):
        matmul(a, a)


@pytest.mark.gpu
def test_float32_follows_pytorchs_setting(ieee):
    a, b = normal((500, 1000)), normal((1000, 300))
    for allow in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = allow
        for x, y in ((a, b), (a, b.T.contiguous().T), (a.T.contiguous().T, b)):
            error = (check(x, y).double() - a.double() @ b.double()).abs().max()
            assert (error > 1e-3) == allow  # TF32 is visibly coarser


@pytest.mark.gpu
@pytest.mark.parametrize("M, N, K", [(2048, 2048, 2048), (197, 768, 3072), (1576, 2304, 768), (4096, 1024, 4104)])
def test_large(M, N, K, dtype):
    check(normal((M, K), dtype), normal((K, N), dtype))
    check(normal((M, K), dtype), normal((N, K), dtype).T)
    check(normal((K, M), dtype).T, normal((K, N), dtype))


@pytest.mark.gpu
def test_in_a_cuda_graph():
    a, b = normal((197, 3072), torch.bfloat16), normal((3072, 768), torch.bfloat16)
    matmul(a, b)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = matmul(a, b)
    a.copy_(normal((197, 3072)))
    graph.replay()
    assert torch.equal(got, matmul(a, b))


@needs_hopper
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements_on_hopper(monkeypatch):
    used = use(monkeypatch, by_hopper(), by_pointers())
    rows, weight = normal((2**25 + 200, 64), torch.float16), normal((72, 64), torch.float16)
    torch.testing.assert_close(matmul(rows, weight.T)[-300:], matmul(rows[-300:], weight.T))  # in a and in the result
    assert all(config.engine == "hopper" for config in used)


@pytest.mark.gpu
@pytest.mark.parametrize("path", ["pointers", pytest.param("tma", marks=needs_tma)])
@pytest.mark.usefixtures("whole_gpu")
def test_more_than_2_31_elements(path, monkeypatch):
    used = use(monkeypatch, {"pointers": by_pointers(), "tma": by_tma()}[path], by_pointers())
    wide, few = normal((64, 2**25 + 8), torch.float16), normal((24, 64), torch.float16)
    torch.testing.assert_close(matmul(wide.T, few.T)[-300:], matmul(wide[:, -300:].T, few.T))  # in a
    torch.testing.assert_close(matmul(few, wide)[:, -300:], matmul(few, wide[:, -300:]))  # in b
    del wide
    rows, cols = normal((40_000, 64), torch.float16), normal((64, 60_000), torch.float16)
    torch.testing.assert_close(matmul(rows, cols)[-300:, -300:], matmul(rows[-300:], cols[:, -300:]))  # in the result
    assert (used[0].engine == "tma") == (path == "tma")
