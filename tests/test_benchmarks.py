import math
import re

import pytest
import torch

from benchmarks import cases, check, compiled, contenders, kernels, memory, models, plots, products, replaced, report
from benchmarks.__main__ import main as benchmarks
from benchmarks.session import Session
from course import results, runtime
from course.__main__ import main
from course.commands.bench import bench
from course.precision import full_precision
from course.results import Results
from course.runtime import DEVICE, INTERPRET

RUN = {
    "gpu": "NVIDIA X", "driver": "1.2", "versions": {"torch": "2"}, "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
    "limits": {"copy_gbps": 1000.0, "half_tflops": 500.0, "tf32_tflops": 200.0},
}

TINY = [
    *(cases.pointwise(kernel, 1000, dtype) for kernel in ("add", "mul", "relu", "gelu") for dtype in ("fp16", "fp32")),
    cases.softmax(3, 100, "fp16"), cases.layer_norm(5, 96, "fp16"), cases.batch_norm(2, (8, 6, 6), "fp16"),
    *(cases.pool(kernel, 2, (8, 6, 6), "fp16") for kernel in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")),
    products.matmul(64), *(products.linear(40, 64, 48, then) for then in ("", "gelu", "residual")),
    products.conv2d(2, (3, 16, 7, 2, 16)), products.conv2d(2, (16, 32, 1, 2, 8)), products.conv2d(1, (16, 16, 3, 1, 7)),
    products.grouped_conv2d(2, (32, 8, 3, 2, 8)), products.depthwise_conv2d(2, (16, 5, 1, 7)),
    products.conv2d_norm_add_relu(2, (16, 16, 3, 1, 7)), products.attention(2, 20, heads=2, channels=16),
    *(products.attention(2, 20, heads=2, channels=16, mask=mask) for mask in ("causal", "boolean", "additive")),
    products.attention(2, 20, heads=2, channels=72),
]


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
        unit = kernels.UNIT[case.dtype]
        if INTERPRET and (name, case.kernel, case.dtype) == ("aten", "gelu", "fp32"):
            unit *= 2  # on a CPU ATen's errs by up to 27 units near x = -3.5, where the bound is 16
        assert kernels.problem(result, exact, unit) is None, name
        assert (result.shape, result.dtype) == (exact.shape, cases.DTYPES[case.dtype]), name
        assert case.moved(*args, result) > result.nbytes and case.operations > 0


def test_the_check_sees_what_is_wrong():
    exact = torch.randn(100)
    result = exact.half()
    assert kernels.problem(result, exact, 2**-11) is None
    for wrong in (exact[:99].half(), result.clone().index_fill_(0, torch.tensor([3]), math.nan), result + 0.05):
        assert kernels.problem(wrong, exact, 2**-11)


def test_bytes_and_operations():
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


FAMILIES = {
    "vit": (lambda: contenders.ViTBase(image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=2,
                                       num_attention_heads=2, intermediate_size=64, num_labels=10), "bf16"),
    "resnet18": (lambda: contenders.ResNet18(side=64), "tf32"),
}


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
        if not compiled.is_compiled(provider):
            logits = family.contender(provider, dtype, DEVICE).call(images)
            assert models.problem(logits, exact, dtype) is None, provider
            assert models.problem(logits * 1.2, exact, dtype)


def test_transformers_makes_no_mask_while_a_graph_is_captured(monkeypatch):
    """In which it would be all True, and attention slower than in a call."""
    tracing = pytest.importorskip("transformers.utils.import_utils")
    masks, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    family = FAMILIES["vit"][0]()
    contender, images = family.contender("transformers", "tf32", DEVICE), family.images(2, "tf32", DEVICE)
    called = contender.call(images)
    monkeypatch.setattr(tracing, "is_cuda_stream_capturing", lambda: True)
    assert torch.equal(contender.call(images), called)
    assert masks == [None] * 4


def test_models_before_and_after(tmp_path):
    """The faster layout of each counts."""
    table = Results("replaced")
    ms = {("course", "contiguous"): 2.0, ("course", "channels_last"): 1.0, ("torch", "contiguous"): 3.0,
          ("torch", "channels_last"): 1.5}
    table.add([{**replaced.Cell("torchvision resnet50", 16)._asdict(), "provider": provider, "layout": layout,
                "median_ms": t, "q20_ms": 0.9 * t, "q80_ms": 1.1 * t} for (provider, layout), t in ms.items()], RUN)
    table.save(tmp_path / "gpu")
    stored = results.read("replaced", "gpu", tmp_path)
    assert stored.rows == table.rows
    (race,) = stored.races().values()
    assert (race.ours["layout"], race.best["layout"], race.ratio) == ("channels_last", "channels_last", 1.5)
    *_, line = report.as_text(stored).splitlines()
    assert line.split() == ["torchvision", "resnet50", "16", "2", "3", "1", "1.5", "1.50", "1.23"]


def test_statistics_of_the_models_before_and_after(monkeypatch):
    """Random weights and default statistics would take a deep network's activations beyond float16."""
    layers = [torch.nn.Conv2d(3, 4, 3, stride=8), torch.nn.BatchNorm2d(4), torch.nn.Dropout()]
    monkeypatch.setitem(replaced.MODELS, "small", lambda: torch.nn.Sequential(*layers))
    model = replaced.made("small")
    assert not model.training and not model[2].training
    assert model[1].num_batches_tracked == 1 and (model[1].running_var < 0.9).all()


def test_plan():
    stored = Results("models")
    cells = [models.Cell("vit-b16", "bf16", 1), models.Cell("vit-b16", "bf16", 8)]
    families = {"vit-b16": contenders.ViTBase()}
    stored.add([model_row("timm-compile", 1.0), model_row("timm", 2.0)], RUN)

    def names(*providers, quick=False):
        return [names for _, names in models.plan(cells, families, providers, stored, quick)]

    available = ["course", "course-plain", "transformers", "timm", "transformers-compile", "timm-compile"]
    assert names("all") == [available] * 2 and names("all", quick=True) == [available[:4]] * 2
    assert names("course") == [["course"]] * 2
    assert names("best") == [["course", "timm-compile"], available]
    assert names("best", "course-plain")[0] == ["course", "course-plain", "timm-compile"]
    assert names("timm-compile", "course") == [["course", "timm-compile"]] * 2
    quick, slow = ["transformers", "timm"], [["transformers-compile"], ["timm-compile"]]
    assert names("peers") == [quick, quick, *slow, *slow]
    assert names("timm-compile") == [["timm-compile"]] * 2


def model_row(provider, ms, batch=1, model="vit-b16", dtype="bf16", mode="graph"):
    return {"model": model, "dtype": dtype, "batch": batch, "provider": provider, "mode": mode,
            "median_ms": ms, "q20_ms": ms, "q80_ms": ms, "peak_mib": 300.0}


def kernel_row(case, provider, ms):
    gbps, tflops = 1e6 / ms / 1e6, case.operations / ms / 1e9
    return {"kernel": case.kernel, "shape": case.shape, "dtype": case.dtype, "provider": provider, "median_ms": ms,
            "q20_ms": ms, "q80_ms": ms, "gbps": gbps, "tflops": tflops, "limit_ms": 0.0005}


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
                       model_row("torchvision", 4.0 * batch, batch, model, dtype, "eager")], RUN)
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


def test_lines_join_what_was_measured_with_a_compiled_peer(stored):
    table = results.read("models", report.HEADLINE_GPU, stored)
    for batch in (1, 8, 64):
        table.add([model_row("torchvision-compile", 3.0 * batch, batch)], RUN)
    upper, lower = (plots.models_figure(table).axes[i] for i in (0, len(report.MODELS)))
    (compiled,) = [line for line in upper.lines if line.get_label() == "torchvision-compile"]
    times = dict(zip(compiled.get_xdata(), compiled.get_ydata()))
    assert times[8] == 24 and math.isnan(times[16]) and times[64] == 192
    joined = [line for line in lower.lines if line.get_linewidth() and len(line.get_xdata()) == len(report.BATCHES)]
    (ratios,) = [dict(zip(line.get_xdata(), line.get_ydata())) for line in joined]
    assert ratios[1] == ratios[8] == ratios[64] == 1.5 and math.isnan(ratios[16])
    assert {text.get_text() for text in lower.texts} == {"1.50"} and len(lower.texts) == 4


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
        assert "| ViT-B/16, bf16 | 1.50‡ (2 ms) | 1.50‡ (16 ms) |" in block and "‡ the best peer has not run" in block
        attention = "| attention, heads of 64, no mask: 197 and 1,024 tokens | the fastest SDPA backend | 2.00 | 2.00 |"
        assert attention in block
        assert block.count("NVIDIA X, driver 1.2, torch 2; commit abc, 2026-01-02") == 2

    def test_a_peer_of_another_run_is_marked(self, stored):
        table = results.read("models", report.HEADLINE_GPU, stored)
        table.add([model_row("course", 1.0)], {**RUN, "date": "2026-02-03T04:05:06+00:00"})
        block = report.models_table(table)
        assert "| ViT-B/16, bf16 | 3.00†‡ (1 ms) | 1.50‡ (16 ms) |" in block
        assert "† the peer ran at another time. ‡ the best" in block

    def test_bold_is_what_the_best_peer_ran_compiled_for(self, stored):
        table = results.read("models", report.HEADLINE_GPU, stored)
        table.add([model_row("timm-compile", 5.0)], RUN)  # compiled, but not the best
        assert "| ViT-B/16, bf16 | 1.50‡ (2 ms) |" in report.models_table(table)
        table.add([model_row("torchvision-compile", 5.0)], RUN)
        assert "| ViT-B/16, bf16 | **1.50** (2 ms) | 1.50‡ (16 ms) |" in report.models_table(table)
        table.add([model_row("torchvision-compile", 2.5)], RUN)
        assert "| ViT-B/16, bf16 | **1.25** (2 ms) |" in report.models_table(table)

    def test_a_graph_that_is_slower_than_its_call_is_told(self, stored):
        table = results.read("models", report.HEADLINE_GPU, stored)
        assert "Captured in a graph" not in report.models_table(table)
        for mode, ms, batch in [("eager", 4.0, 1), ("graph", 5.0, 1), ("eager", 20.0, 8), ("graph", 60.0, 8)]:
            table.add([model_row("transformers", ms, batch, mode=mode)], RUN)
        note = report.models_table(table)
        assert "a graph, transformers takes another path" in note
        assert "(60 against 20 ms with 8 images of ViT-B/16, bf16)" in note
        assert "| ViT-B/16, bf16 | 1.50‡ (2 ms) | 1.25‡ (16 ms) |" in note

    def test_a_kernel_of_no_group_has_a_line_of_its_own(self, stored):
        table = results.read("kernels", report.HEADLINE_GPU, stored)
        before = report.kernels_table(table)
        rows = [kernel_row(TINY[0], "course", 1.0), kernel_row(TINY[0], "cudnn", 3.0), kernel_row(TINY[0], "x", 2.0)]
        table.add([{**row, "kernel": "conv9d"} for row in rows], RUN)
        (line,) = set(report.kernels_table(table).splitlines()) - set(before.splitlines())
        assert line == "| conv9d | cudnn, x | 2.00 | 2.00 |"

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
            bench("kernels", quick=True)


class TestCheck:
    """`bench models --check`, with a measurement in which ours takes so much longer than in the stored figures."""

    @pytest.fixture
    def measured(self, stored, monkeypatch):
        monkeypatch.setattr(results, "RESULTS", stored)
        monkeypatch.setattr(runtime, "INTERPRET", False)
        monkeypatch.setattr(runtime, "gpu_name", lambda: report.HEADLINE_GPU)
        monkeypatch.setattr(results, "circumstances", lambda: {**RUN, "gpu": "NVIDIA Y", "date": "2026-03-04"})

        def measure(slower=1.0, clock=1.0, providers=("course", "torchvision"), wrong_mode=None):
            def run(session, cells, asked):
                assert set(asked) == {"course", "torchvision"} and not session.folder
                times = {"course": 2.0 * slower, "torchvision": 3.0}
                for model, dtype, batch in cells:
                    for provider in providers:
                        row = model_row(provider, clock * batch * times[provider], batch, model, dtype)
                        session.add([row], {})
                        session.add([{**row, "mode": "eager", "median_ms": 1e-3}], {})
                    if wrong_mode:
                        session.add([], {(model, dtype, batch, "course", wrong_mode): "wrong result"})

            monkeypatch.setattr(models, "run", run)

        return measure

    @pytest.mark.parametrize("slower, change", [(1.0, "+0.0%"), (1.04, "+4.0%"), (0.5, "-50.0%")])
    def test_green(self, measured, slower, change, capsys):
        measured(slower, clock=1.7)  # both take longer: another GPU's clock
        assert main(["bench", "models", "--check"]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        now = f"{2 / 3 * slower:.3f}"
        assert lines == [
            f"{cell:19} ours / torchvision: {now}, stored 0.667, change {change}"
            for cell in ("vit-b16 bf16 1", "vit-b16 bf16 16", "resnet18 fp16 1", "resnet18 fp16 16")
        ]
        assert last.startswith("NVIDIA Y, driver 1.2")

    def test_red(self, measured, capsys):
        measured(slower=1.06)
        assert benchmarks(["models", "--check"]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first == "vit-b16 bf16 1      ours / torchvision: 0.707, stored 0.667, change +6.0%: more than +5%"

    @pytest.mark.parametrize("provider, wrong_mode", [
        ("course", None), ("torchvision", None), ("torchvision", "graph"),
    ])
    def test_what_could_not_be_measured_is_red(self, measured, provider, wrong_mode, capsys):
        measured(providers=[provider], wrong_mode=wrong_mode)
        assert main(["bench", "models", "--check"]) == 1
        assert "ours / torchvision: nan, stored 0.667" in capsys.readouterr().out

    def test_a_wrong_result_is_red_in_either_mode(self, measured, capsys):
        measured(wrong_mode="eager")
        assert main(["bench", "models", "--check"]) == 1
        assert "vit-b16 bf16 1 course eager: wrong result" in capsys.readouterr().err

    def test_another_gpu_has_no_stored_figures(self, measured, monkeypatch, capsys):
        measured()
        monkeypatch.setattr(runtime, "gpu_name", lambda: "nvidia-z")
        assert main(["bench", "models", "--check"]) == 2
        assert capsys.readouterr().err == "check: nothing is stored for nvidia-z, nothing was measured\n"

    def test_kernels_are_not_checked(self, capsys):
        assert main(["bench", "kernels", "--check"]) == 2
        assert capsys.readouterr().err == "course: bench: expected --check with models, got kernels\n"

    @pytest.mark.skipif(not INTERPRET, reason="measures on a GPU")
    def test_without_a_gpu(self, capsys):
        assert main(["bench", "models", "--check"]) == 2
        assert capsys.readouterr().err == "check: no GPU here, nothing was measured\n"

    def test_the_peer_is_the_fastest_that_needs_no_compiling(self):
        rows = [model_row("timm", 3.0), model_row("timm-compile", 1.0), model_row("timm", 2.0, mode="eager"),
                model_row("transformers", 4.0), model_row("course-plain", 0.5)]
        assert check.peer_in_a_graph(rows) is None  # ours is not among them
        assert check.peer_in_a_graph([*rows, model_row("course", 2.0, mode="eager")]) is None
        assert check.peer_in_a_graph([*rows, model_row("course", 2.0)]) == "timm"
        assert check.peer_in_a_graph([model_row("course", 2.0)]) is None

    def test_what_is_stored_can_be_checked(self):
        stored = results.read("models", report.HEADLINE_GPU).cells()
        assert all(check.peer_in_a_graph(stored[cell]) for cell in check.CELLS)


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
    ]
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
