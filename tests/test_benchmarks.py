import math
import re

import pytest
import torch

from benchmarks import memory, cases, contenders, kernels, models, plots, products, report
from benchmarks.__main__ import main as benchmarks
from benchmarks.session import Session
from course import commands, results, timing
from course.__main__ import main
from course.runtime import DEVICE, INTERPRET
from course.results import Results
from course.verify import full_precision

RUN = {
    "gpu": "NVIDIA X", "driver": "1.2", "versions": {"torch": "2"}, "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
    "limits": {"copy_gbps": 1000.0, "half_tflops": 500.0, "tf32_tflops": 200.0},
}  # fmt: skip

TINY = [
    *(cases.pointwise(kernel, 1000, dtype) for kernel in ("add", "mul", "relu", "gelu") for dtype in ("fp16", "fp32")),
    cases.softmax(3, 100, "fp16"), cases.layer_norm(5, 96, "fp16"), cases.batch_norm(2, (8, 6, 6), "fp16"),
    *(cases.pool(kernel, 2, (8, 6, 6), "fp16") for kernel in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")),
    products.matmul(64), *(products.linear(40, 64, 48, then) for then in ("", "gelu", "residual")),
    products.conv2d(2, (3, 16, 7, 2, 16)), products.conv2d(2, (16, 32, 1, 2, 8)), products.conv2d(1, (16, 16, 3, 1, 7)),
    products.conv2d_norm_add_relu(2, (16, 16, 3, 1, 7)), products.attention(2, 20, heads=2, channels=16),
]  # fmt: skip


@pytest.mark.parametrize("case", TINY, ids=lambda case: " ".join(case.cell))
def test_ours_and_the_peers_agree(case):
    """What a benchmark checks before it times anything, on sizes for the interpreter."""
    args = case.inputs()
    with full_precision():
        exact = case.exact(*args)
    for name, function in {"course": case.ours, **case.peers}.items():
        try:
            result = function(*args)
        except RuntimeError as error:
            if name in products.SDPA and re.match("No (available kernel|viable backend)", str(error)):
                continue  # not each of PyTorch's backends takes every size and device
            raise
        assert kernels.problem(result, exact, kernels.UNIT[case.dtype]) is None, name
        assert (result.shape, result.dtype) == (exact.shape, cases.DTYPES[case.dtype]), name
        assert case.moved(*args, result) > result.nbytes and case.operations > 0


def test_the_check_sees_what_is_wrong():
    exact = torch.randn(100)
    result = exact.half()
    assert kernels.problem(result, exact, 2**-11) is None
    for wrong in (exact[:99].half(), result.clone().index_fill_(0, torch.tensor([3]), math.nan), result + 0.05):
        assert kernels.problem(wrong, exact, 2**-11)


def test_bytes_and_operations():
    x, y = torch.empty(10, 20), torch.empty(20)
    assert timing.footprint(x, x.half(), y.expand(10, 20), x[:0]) == 800 + 400 + 80
    case = products.conv2d(2, (16, 32, 1, 2, 8))  # of the pixels, a 1x1 convolution with stride 2 reads a quarter
    x, w = case.inputs()
    assert case.moved(x, w, case.ours(x, w)) == 2 * (2 * 16 * 16 + 16 * 32 + 2 * 32 * 16)
    assert case.operations == 2 * 2 * 16 * 16 * 32
    assert products.matmul(64).operations == 2 * 64**3


def test_every_case_has_its_own_name():
    every = kernels.all_cases()
    assert len({case.cell for case in every}) == len(every)
    quick = kernels.quick_cases()
    assert {case.kernel for case in quick} == {case.kernel for case in every} - {"mul"}


def test_rotations():
    assert timing.rotations(50, cache=100) == 8
    assert timing.rotations(10_000, cache=100) == 2 and timing.rotations(1, cache=10**9) == 512


FAMILIES = {
    "vit": (lambda: contenders.ViTBase(image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=2,
                                       num_attention_heads=2, intermediate_size=64, num_labels=10), "bf16"),
    "resnet18": (lambda: contenders.ResNet18(side=64), "tf32"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_contenders_agree(name):
    """All providers have the same weights and the same answer."""
    if "vit" in name:
        pytest.importorskip("timm")
    family, dtype = FAMILIES[name][0](), FAMILIES[name][1]
    images = family.images(2, dtype, DEVICE)
    with full_precision():
        exact = family.reference(images)
    for provider in family.providers:
        if not models.is_compiled(provider):
            logits = family.contender(provider, dtype, DEVICE).call(images)
            assert models.problem(logits, exact, dtype) is None, provider
            assert models.problem(logits * 1.2, exact, dtype)


def test_plan():
    stored = Results("models")
    cells = [models.Cell("vit-b16", "bf16", 1), models.Cell("vit-b16", "bf16", 8)]
    families = {"vit-b16": contenders.ViTBase()}
    stored.add([model_row("timm-compile", 1.0), model_row("timm", 2.0)], RUN)

    def names(*providers, compiled=True):
        return [names for _, names in models.plan(cells, families, providers, stored, compiled)]

    everybody = ["course", "course-plain", "transformers", "timm", "transformers-compile", "timm-compile"]
    assert names("all") == [everybody] * 2 and names("all", compiled=False) == [everybody[:4]] * 2
    assert names("course") == [["course"]] * 2
    assert names("best") == [["course", "timm-compile"], everybody]
    assert names("best", "course-plain")[0] == ["course", "course-plain", "timm-compile"]
    assert names("timm-compile", "course") == [["course", "timm-compile"]] * 2
    quick, slow = ["transformers", "timm"], [["transformers-compile"], ["timm-compile"]]
    assert names("peers") == [quick, quick, *slow, *slow]
    assert names("timm-compile") == [["timm-compile"]] * 2


def model_row(provider, ms, batch=1, model="vit-b16", dtype="bf16", mode="graph"):
    return {"model": model, "dtype": dtype, "batch": batch, "provider": provider, "mode": mode,
            "median_ms": ms, "q20_ms": ms, "q80_ms": ms, "peak_mib": 300.0}  # fmt: skip


def kernel_row(case, provider, ms):
    gbps, tflops = 1e6 / ms / 1e6, case.operations / ms / 1e9
    return {"kernel": case.kernel, "shape": case.shape, "dtype": case.dtype, "provider": provider, "median_ms": ms,
            "q20_ms": ms, "q80_ms": ms, "gbps": gbps, "tflops": tflops, "limit_ms": 0.0005}  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """Results of a GPU that does not exist, of every kernel and model."""
    table = Results("kernels")
    for case in TINY:
        table.add([kernel_row(case, "course", 0.001), kernel_row(case, next(iter(case.peers)), 0.002)], RUN)
    table.save(tmp_path / report.HEADLINE_GPU)
    table = Results("models")
    for model, dtype in report.MODELS:
        for batch in report.BATCHES[:4]:
            table.add([model_row("course", 2.0 * batch, batch, model, dtype),
                       model_row("course", 2.5 * batch, batch, model, dtype, "eager"),
                       model_row("torchvision", 3.0 * batch, batch, model, dtype),
                       model_row("torchvision", 4.0 * batch, batch, model, dtype, "eager")], RUN)  # fmt: skip
    table.save(tmp_path / report.HEADLINE_GPU)
    return tmp_path


def test_a_size_has_one_tick():
    """Though its bytes, from rates and times that were rounded, lie on both sides of 514.5 MiB."""
    row = {"kernel": "relu", "shape": "84", "dtype": "fp32", "median_ms": 0.125, "limit_ms": 0.12}
    moved = {"course": 514.49, "aten": 514.51}
    rows = [{**row, "provider": name, "gbps": mib * 2**20 / 0.125 / 1e6} for name, mib in moved.items()]
    figure = plots.bytes_figure(rows, "relu", "")
    (axes,) = figure.axes
    assert len(axes.get_xticks()) == 1


def test_plots(stored, tmp_path):
    tables = [results.read(what, report.HEADLINE_GPU, stored) for what in ("kernels", "models")]
    files = plots.draw_all(*tables, tmp_path / "plots")
    kernels_drawn = {f"kernel_{case.kernel}.png" for case in TINY}
    assert {file.name for file in files} == {*kernels_drawn, "roofline.png", "models.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert plots.draw_all(Results("kernels"), Results("models"), tmp_path / "none") == []


def test_text(stored):
    text = report.as_text(results.read("models", report.HEADLINE_GPU, stored))
    line = next(line for line in text.splitlines() if re.match(r"resnet18 +fp16 +8 ", line))
    assert line.split() == ["resnet18", "fp16", "8", "20", "16", "torchvision", "(graph)", "24", "1.50", "300", "300"]
    text = report.as_text(results.read("kernels", report.HEADLINE_GPU, stored))
    line = next(line for line in text.splitlines() if line.startswith("softmax"))
    words = line.split()
    assert words[:4] == ["softmax", "3×100", "fp16", "0.001"] and words[-4:] == ["50%", "aten", "0.002", "2.00"]


class TestReadme:
    def test_block(self, stored):
        block = report.readme_block(stored)
        assert "| ViT-B/16, bf16 | **1.50**‡ (2 ms) | **1.50**‡ (16 ms) |" in block and "‡ without a compiled" in block
        assert "| attention, 197 and 1,024 tokens | the fastest SDPA backend | 2.00 | 2.00 |" in block
        assert block.count("NVIDIA X, driver 1.2, torch 2; commit abc, 2026-01-02") == 2

    def test_a_peer_of_another_run_is_marked(self, stored):
        table = results.read("models", report.HEADLINE_GPU, stored)
        table.add([model_row("course", 1.0)], {**RUN, "date": "2026-02-03T04:05:06+00:00"})
        block = report.models_table(table)
        assert "| ViT-B/16, bf16 | **3.00**†‡ (1 ms) | **1.50**‡ (16 ms) |" in block
        assert "† the peer ran at another time. ‡ without" in block
        table.add([model_row("torchvision-compile", 5.0)], RUN)
        assert "| ViT-B/16, bf16 | **3.00**† (1 ms) |" in report.models_table(table)

    def test_without_results(self, tmp_path):
        assert report.readme_block(tmp_path) == report.NOTHING

    def test_replaced(self):
        text = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nrest\n"
        once = report.readme_with(text, "new")
        assert once == f"# Title\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\nrest\n"
        assert report.readme_with(once, "new") == once
        with pytest.raises(ValueError, match="expected a line <!-- benchmarks"):
            report.readme_with("# Title", "new")

    def test_says_what_was_measured(self):
        """`python -m benchmarks readme` brings it up to date."""
        text = report.README.read_text()
        assert text == report.readme_with(text, report.readme_block())


def test_session_stores_at_once(tmp_path, capsys):
    session = Session("models", RUN, tmp_path / "gpu", budget_s=100)
    session.add([model_row("timm", 1.0)], {})
    session.add([model_row("course", 1.0, batch=8)], {("vit-b16", "bf16", 1, "timm", "graph"): "wrong result"})
    (row,) = results.read("models", "gpu", tmp_path).rows
    assert row["provider"] == "course" and len(session.measured.rows) == 2
    assert "vit-b16 bf16 1 timm graph: wrong result" in capsys.readouterr().err
    assert not session.over() and Session("models", RUN, None, budget_s=0).over()


def test_session_begins_nothing_once_time_is_up(capsys):
    session = Session("models", RUN, None, budget_s=100)
    jobs = [(("vit-b16", "bf16", batch), batch) for batch in (1, 8, 16)]
    assert list(session.in_turn(jobs)) == jobs
    assert "3/3 vit-b16 bf16 16" in capsys.readouterr().err
    for _, batch in session.in_turn(jobs):
        assert batch == 1
        session.ends = 0
    assert "out of time: 2 of 3 not measured\n" in capsys.readouterr().err


@pytest.mark.skipif(not INTERPRET, reason="measures on a GPU")
class TestWithoutAGpu:
    def test_stored_figures(self, stored, monkeypatch, capsys):
        monkeypatch.setattr(results, "RESULTS", stored)
        for what in ("models", "kernels"):
            assert main(["bench", what]) == 0
            *table, last = capsys.readouterr().out.splitlines()
            assert table[0].startswith(what.removesuffix("s")) and "course" not in table[0]
            assert last.startswith("No GPU here, nothing was timed: these figures are from NVIDIA X, driver 1.2")

    def test_nothing_stored(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(results, "RESULTS", tmp_path)
        assert benchmarks(["kernels", "--quick"]) == 0
        assert capsys.readouterr().out == "No GPU here, and no kernels were measured yet.\n"

    def test_installed_without_benchmarks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(results, "ROOT", tmp_path)
        with pytest.raises(FileNotFoundError, match="they come with the repository"):
            commands.bench("kernels", quick=True)


@pytest.mark.gpu
def test_measures_kernels(tmp_path):
    session = Session("kernels", RUN, tmp_path / "gpu", budget_s=100)
    case = cases.softmax(64, 1000, "fp16")
    kernels.run(session, [case, products.matmul(256)], ["all"])
    assert not session.errors
    rows = results.read("kernels", "gpu", tmp_path).rows
    assert [row["provider"] for row in rows] == ["course", "aten", "inductor", "course", "cublas"]
    assert all(0 < row["q20_ms"] <= row["median_ms"] <= row["q80_ms"] for row in rows)


@pytest.mark.gpu
def test_a_wrong_kernel_is_reported_and_not_timed(tmp_path):
    case = cases.softmax(64, 1000, "fp16")
    wrong = cases.Case(**{**vars(case), "ours": lambda x: x + 1, "inductor": False})
    rows, errors = kernels.race(wrong, ["course", "aten"], RUN["limits"])
    assert [row["provider"] for row in rows] == ["aten"]
    assert "wrong result" in errors["softmax", "64×1000", "fp16", "course"]


@pytest.mark.gpu
def test_measures_models():
    cell = models.Cell("resnet18", "fp16", 2)
    rows, errors = models.race(contenders.ResNet18(side=64), cell, ["course", "torchvision"])
    assert not errors and [(row["provider"], row["mode"]) for row in rows] == [
        ("course", "eager"), ("course", "graph"), ("torchvision", "eager"), ("torchvision", "graph"),
    ]  # fmt: skip
    assert all(row["median_ms"] > 0 and row["peak_mib"] > 20 for row in rows)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name, dtype", [("vit-b16", "bf16"), ("resnet18", "fp16"), ("resnet18", "tf32")])
@torch.inference_mode()
def test_the_fast_path_takes_less_memory_than_eager_peers(name, dtype, batch):
    family = contenders.FAMILIES[name]()
    images = family.images(batch, dtype, DEVICE)
    mib = {
        provider: memory.taken(lambda: family.contender(provider, dtype, DEVICE), lambda it: it.call(images))  # noqa: B023
        for provider in ("course", *family.peers)
    }
    ours = mib.pop("course")
    assert ours <= 0.9 * min(mib.values()), (ours, mib)
