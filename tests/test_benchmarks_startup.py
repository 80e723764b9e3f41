"""Measurements of the first call, and of plain calls."""
import json
import math
import subprocess

import pytest
import torch

import course
from benchmarks import calls, contenders, kernels, report, startup
from benchmarks.__main__ import main as benchmarks
from benchmarks.cases import pointwise
from benchmarks.startup import Cell
from course import results, tuning
from course.results import Results
from course.runtime import INTERPRET
from course.timing import Timing
from tests.test_benchmarks import FAMILIES, RUN

TINY = {"vit-b16": FAMILIES["vit"][0], "resnet18": FAMILIES["resnet18"][0]}


def start_row(provider, seconds, batch=1, ms=1.0, model="resnet18", cpu_s=9.0):
    return {"model": model, "dtype": "fp16", "batch": batch, "provider": provider, "seconds": seconds, "cpu_s": cpu_s,
            "median_ms": ms, "q20_ms": ms, "q80_ms": ms}


class TestNewProcess:
    @pytest.fixture
    def ended(self, monkeypatch):
        """`in_a_new_process`, with a process that prints `rows` and ends as `how` says."""

        def end(provider, rows, how=0, said=b""):
            def run(command, env, timeout, **_):
                out = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
                seen.update(command=command[1:], caches={env[name] for name in (
                    "COURSE_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}, timeout=timeout)
                if how == "late":
                    raise subprocess.TimeoutExpired(command, timeout, out)
                return subprocess.CompletedProcess(command, how, b"some note\n" + out, said)

            monkeypatch.setattr(subprocess, "run", run)
            return startup.in_a_new_process(Cell("resnet18", "fp16", 1), provider, seen.get("limit", math.inf))

        seen = end.seen = {}
        return end

    def test_all_rows(self, ended):
        rows = [start_row("course", 1.0), start_row("course-next", 1.0, 8), start_row("course-tuned", 30.0)]
        assert ended("course", rows) == (rows, {})
        assert ended.seen["command"] == ["-m", "benchmarks.startup", "resnet18", "fp16", "1", "course"]
        assert len(ended.seen["caches"]) == 3 and ended.seen["timeout"] is None

    def test_an_error(self, ended):
        rows = [start_row("course", 1.0), start_row("course-next", 1.0, 8)]
        said = b"Traceback\n  File\nAttributeError: tune\nand what to do\n"
        errors = {("resnet18", "fp16", 1, "course-tuned"): "AttributeError: tune"}
        assert ended("course", rows, 1, said) == (rows, errors)
        found, errors = ended("course", rows[:1], -9)
        assert found == rows[:1] and errors == {("resnet18", "fp16", 8, "course-next"): "no word of it"}

    def test_out_of_time(self, ended):
        ended.seen["limit"] = 5.0
        found, errors = ended("torch-compile", [], "late")
        assert not found and errors == {("resnet18", "fp16", 1, "torch-compile"): "out of time"}
        assert ended.seen["timeout"] == 5.0


class FakeGraph:
    def __init__(self, call, images):
        call(images)

    def replay(self):
        pass


@pytest.fixture
def fake_gpu(monkeypatch):
    monkeypatch.setattr(startup, "fast_graph", FakeGraph)
    monkeypatch.setattr(startup, "capture", FakeGraph)
    monkeypatch.setattr(startup, "time_in_turn", lambda runs, **_: {
        name: Timing(1.0 + i, 0.5, 3.0) for i, name in enumerate(runs)})
    monkeypatch.setattr(startup, "FAMILIES", TINY)


@pytest.mark.skipif(not INTERPRET, reason="of a GPU that is not there")
@pytest.mark.usefixtures("fake_gpu")
class TestRows:
    def test_ours(self, monkeypatch, capsys):
        tuned = []
        monkeypatch.setattr(course, "tune", lambda model, images: tuned.append((model, images.shape)), raising=False)
        monkeypatch.setattr(tuning, "TUNED", tuning.TUNED)
        monkeypatch.setenv("COURSE_CACHE", "/nowhere")
        monkeypatch.setattr(startup, "IMAGE", (3, 32, 32))
        startup.main("vit-b16", "tf32", "1", "course")
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["provider"], row["batch"], row["median_ms"]) for row in rows] == [
            ("course", 1, 1.0), ("course-next", 8, 1.0), ("course", 1, 1.0), ("course-tuned", 1, 2.0)]
        assert rows[0]["seconds"] == rows[2]["seconds"] > 0 and all(row["cpu_s"] > 0 for row in rows[:2])
        assert all(set(row) == set(results.COLUMNS["startup"]) for row in rows)
        ((model, shape),) = tuned
        assert type(model) is course.vit.ViT and shape == (1, 3, 32, 32)
        assert not tuning.TUNED.exists()

    @pytest.mark.parametrize("provider", ["torch", "torch-compile"])
    def test_theirs(self, provider, monkeypatch, capsys):
        asked = []
        monkeypatch.setattr(torch, "compile", lambda model, mode: asked.append(mode) or model)
        monkeypatch.setattr(tuning, "TUNED", tuning.TUNED)
        monkeypatch.setenv("COURSE_CACHE", "/nowhere")
        monkeypatch.setattr(startup, "IMAGE", (3, 32, 32))
        startup.main("vit-b16", "tf32", "1", provider)
        (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert row["provider"] == provider and math.isnan(row["cpu_s"]) == bool(asked)
        assert asked == ["default"] * (provider == "torch-compile")

    def test_replaced(self):
        pytest.importorskip("torchvision")
        subject = startup.loaded(Cell("resnet50", "tf32", 16), "course")
        assert type(subject.model.conv1) is course.nn.Conv2d and subject.prepare(subject.model) is subject.model
        assert type(startup.loaded(Cell("resnet50", "tf32", 16), "torch").model.conv1) is torch.nn.Conv2d


def test_every_cell_has_a_next_batch_and_a_title():
    assert all(cell.batch in startup.NEXT and cell.model in startup.TITLES for cell in startup.CELLS)


@pytest.mark.skipif(not INTERPRET, reason="of a GPU that is not there")
class TestCalls:
    @pytest.fixture(autouse=True)
    def fake_gpu(self, monkeypatch):
        def time(functions, **_):
            return {name: Timing(1.0, 0.5, 2.0) for name in functions}

        monkeypatch.setattr(calls, "time_of_the_cpu", time)
        monkeypatch.setattr(calls, "time_in_turn", time)
        monkeypatch.setattr(calls, "FAMILIES", TINY)

    @pytest.mark.parametrize("case", [pointwise("add", 100, "fp16"), calls.Model("vit-b16", "tf32")],
                             ids=lambda case: case.cell[0])
    def test_who_competes(self, case):
        rows, errors = calls.measured(case, ["all"])
        peer = {"add": "aten", "vit-b16": "timm"}[case.cell[0]]
        names = ["course", peer] if case.cell[0] == "add" else ["course", "course-plain", peer]
        assert not errors and [row["provider"] for row in rows] == names
        assert all(set(row) == set(results.COLUMNS["calls"]) for row in rows)

    def test_the_replaced_model_is_another(self):
        functions = calls.of_model(calls.Model("resnet18", "tf32")).functions
        kinds = {name: type(next(iter(function.func.children()))) for name, function in functions.items()}
        assert kinds["course"] is course.nn.Conv2d and kinds["torchvision"] is torch.nn.Conv2d

    def test_a_wrong_result_is_not_timed(self):
        case = kernels.Case(**{**vars(pointwise("add", 100, "fp16")), "ours": lambda x, y: x - y})
        rows, errors = calls.measured(case, ["all"])
        assert [row["provider"] for row in rows] == ["aten"]
        assert "wrong result" in errors["add", "100", "fp16", "course"]

    def test_asked_for_by_name(self):
        rows, _ = calls.measured(pointwise("add", 100, "fp16"), ["aten"])
        assert [row["provider"] for row in rows] == ["aten"]


@pytest.mark.gpu
def test_the_cpu_s_time_is_microseconds():
    x = torch.randn(1024, device="cuda")
    timing = calls.time_of_the_cpu({"add": lambda: x + x}, rounds=5)["add"]
    assert 1e-4 < timing.q20 <= timing.median <= timing.q80 < 1


def test_calls_have_names_of_their_own():
    cells = [case.cell for case in calls.CASES]
    assert len(set(cells)) == len(cells) and {cell[0] for cell in cells} >= set(contenders.FAMILIES)


class TestReport:
    @pytest.fixture
    def stored(self, tmp_path):
        starts = Results("startup")
        starts.add([start_row("course", 8.04, ms=1.0), start_row("course-next", 2.0, 8), start_row("torch", 0.9),
                    start_row("course-tuned", 41.0, ms=0.95, cpu_s=400.0), start_row("course", 9.0, 32)], RUN)
        starts.save(tmp_path / report.HEADLINE_GPU)
        table = Results("calls")
        row = {"kernel": "add", "shape": "1024", "dtype": "fp16", "q20_ms": 0.01, "q80_ms": 0.02}
        table.add([{**row, "provider": "course", "median_ms": 0.0202}, {**row, "provider": "aten", "median_ms": 0.005},
                   {**row, "kernel": "resnet18", "provider": "course", "median_ms": 1.5},
                   {**row, "kernel": "resnet18", "provider": "course-plain", "median_ms": 1.25},
                   {**row, "kernel": "resnet18", "provider": "torchvision", "median_ms": 1.4}], RUN)
        table.save(tmp_path / report.HEADLINE_GPU)
        return tmp_path

    def test_readme(self, stored):
        block = report.readme_block(stored)
        assert "| ResNet-18, fp16, B=1 | 8.0 s | 0.95 | 41.0 s, 400 s | 2.0 s (B=8) | – | – |" in block
        assert "| ResNet-18, fp16, B=32 | 9.0 s | – | – | – | – | – |" in block
        assert "| add, 1024, fp16 | 20.2 | 5.0 |" in block and "| ResNet-18, 1024, fp16 | 1,500 | 1,400 |" in block
        assert block.count("NVIDIA X, driver 1.2, torch 2; commit abc, 2026-01-02") == 2

    def test_text(self, stored, monkeypatch, capsys):
        starts = report.as_text(results.read("startup", report.HEADLINE_GPU, stored)).splitlines()
        assert starts[1].split() == ["resnet18", "fp16", "1", "course", "8.0", "9", "1"]
        table = report.as_text(results.read("calls", report.HEADLINE_GPU, stored)).splitlines()
        assert table[2].split() == ["resnet18", "1024", "fp16", "1,500", "1,250", "torchvision", "1,400", "0.93"]

    @pytest.mark.skipif(not INTERPRET, reason="measures on a GPU")
    def test_stored_figures(self, stored, monkeypatch, capsys):
        monkeypatch.setattr(results, "RESULTS", stored)
        for what in ("startup", "calls"):
            assert benchmarks([what]) == 0
            assert "No GPU here, nothing was timed: these figures are from NVIDIA X" in capsys.readouterr().out
