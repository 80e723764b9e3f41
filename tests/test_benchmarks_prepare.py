"""What torch.compile makes of the models' peers, compiled ahead of the races."""
import subprocess
import sys
import time

import filelock
import pytest
import torch

from benchmarks import compiled, models, prepare
from benchmarks.__main__ import main as benchmarks
from benchmarks.models import Cell
from benchmarks.session import Session
from course.runtime import INTERPRET

CELLS = [Cell("vit-b16", "bf16", 1), Cell("resnet18", "tf32", 8)]
RUN = {"date": "2026-01-02T03:04:05+00:00"}


class TestFiles:
    def test_written_and_read(self, tmp_path, monkeypatch):
        import torch._inductor.config as settings

        read = []
        monkeypatch.setattr(settings, "bundle_triton_into_fx_graph_cache", True)
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"graphs", None))
        monkeypatch.setattr(torch.compiler, "load_cache_artifacts", read.append)
        file = compiled.file_of(tmp_path / "new", CELLS[0], "timm-compile")
        assert file.name == "vit-b16-bf16-1-timm-compile.bin"
        compiled.save(file)
        compiled.load(file)
        assert read == [b"graphs"] and settings.bundle_triton_into_fx_graph_cache is False
        assert list(file.parent.iterdir()) == [file]

    def test_nothing_compiled(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: None)
        with pytest.raises(RuntimeError, match="expected something compiled, got nothing"):
            compiled.save(tmp_path / "a.bin")
        assert not list(tmp_path.iterdir())

    def test_one_measures_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(compiled, "turn", lambda: filelock.FileLock(tmp_path / "lock", timeout=0))

        def measure(x, *, y):
            with pytest.raises(filelock.Timeout), filelock.FileLock(tmp_path / "lock", timeout=0):
                pass
            return x + y

        assert compiled.in_turn(measure)(1, y=2) == 3

    def test_inductor_measures_so(self, monkeypatch):
        from torch._inductor.runtime.benchmarking import benchmarker

        before = benchmarker.benchmark_gpu
        monkeypatch.setattr(benchmarker, "benchmark_gpu", before)
        compiled.measured_in_turn()
        assert benchmarker.benchmark_gpu.__wrapped__ == before


class TestRaces:
    """`models --compiled FOLDER`, where one peer of two was compiled before."""

    @pytest.fixture
    def raced(self, tmp_path, monkeypatch):
        def race(family, cell, names):
            done.append((cell, list(names), list(loaded)))
            return [], {}

        done, loaded = [], []
        compiled.file_of(tmp_path, CELLS[0], "timm-compile").write_bytes(b"")
        monkeypatch.setattr(models, "race", race)
        monkeypatch.setattr(compiled, "load", lambda file: loaded.append(file.name))
        monkeypatch.setattr(models, "set_up", lambda: None)

        def run(budget_s, *providers, made=tmp_path):
            models.run(Session("models", RUN, None, budget_s), CELLS[:1], providers, made=made)
            return done

        return run

    def test_time_enough(self, raced):
        ((_, names, loaded),) = raced(10_000, "course", "timm-compile", "transformers-compile")
        assert names == ["course", "transformers-compile", "timm-compile"]
        assert loaded == ["vit-b16-bf16-1-timm-compile.bin"]

    def test_too_late_to_compile(self, raced, capsys):
        ((_, names, loaded),) = raced(60, "course", "timm-compile", "transformers-compile")
        assert names == ["course", "timm-compile"] and len(loaded) == 1
        assert "no time to compile: vit-b16 bf16 1 without transformers-compile\n" in capsys.readouterr().err

    def test_nobody_left(self, raced):
        assert raced(60, "transformers-compile") == []

    def test_nothing_prepared(self, raced):
        ((_, names, loaded),) = raced(60, "course", "timm-compile", made=None)
        assert names == ["course"] and not loaded


def test_jobs(tmp_path):
    compiled.file_of(tmp_path, CELLS[0], "timm-compile").write_bytes(b"")
    assert prepare.jobs(CELLS, ["peers"], tmp_path) == [
        (CELLS[0], "transformers-compile"), (CELLS[1], "torchvision-compile"),
    ]
    assert prepare.jobs(CELLS, ["timm-compile", "torchvision-compile", "course"], tmp_path / "none") == [
        (CELLS[0], "timm-compile"), (CELLS[1], "torchvision-compile"),
    ]


class TestProcesses:
    @pytest.fixture
    def begun(self, monkeypatch):
        """The (provider, GPU) of each process as it begins; a provider is the Python that its process runs."""

        def start(job, folder, gpu, at_once):
            log.append((job[1], gpu))
            return subprocess.Popen([sys.executable, "-c", job[1]])

        log = []
        monkeypatch.setattr(prepare, "start", start)
        monkeypatch.setattr(prepare, "visible_gpus", lambda: ["2", "5"])
        return log

    def test_all_done(self, begun, tmp_path, capsys):
        jobs = [(CELLS[0], "pass"), (CELLS[0], "import time; time.sleep(1)"), (CELLS[1], "pass # too")]
        assert prepare.run(jobs, tmp_path, at_once=2) == 0
        assert [provider for provider, _ in begun] == [provider for _, provider in jobs]
        assert {gpu for _, gpu in begun[:2]} == {"2", "5"}
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 and lines[0].startswith("vit-b16 bf16 1 pass: compiled, ")

    def test_one_fails(self, begun, tmp_path, capsys):
        assert prepare.run([(CELLS[0], "raise SystemExit(3)"), (CELLS[1], "pass")], tmp_path) == 1
        assert "vit-b16 bf16 1 raise SystemExit(3): failed with 3, " in capsys.readouterr().out and len(begun) == 2

    def test_no_time_to_begin(self, begun, tmp_path, capsys):
        assert prepare.run([(CELLS[0], "pass")], tmp_path, budget_s=60) == 1
        assert capsys.readouterr().out == "vit-b16 bf16 1 pass: no time, not begun\n" and not begun

    def test_ended_when_time_is_up(self, begun, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(prepare, "COMPILING_S", 0)
        began = time.perf_counter()
        assert prepare.run([(CELLS[0], "import time; time.sleep(60)")], tmp_path, budget_s=1) == 1
        assert time.perf_counter() - began < 20
        assert "failed with -15, " in capsys.readouterr().out

    def test_where_a_process_runs(self, tmp_path, monkeypatch):
        ran = {}
        monkeypatch.setattr(subprocess, "Popen", lambda command, **options: ran.update(options, command=command))
        monkeypatch.setattr(prepare.os, "sched_getaffinity", lambda pid: range(16))
        prepare.start((CELLS[0], "timm-compile"), tmp_path, "5", 4)
        assert ran["command"][1:] == ["-m", "benchmarks.prepare", "vit-b16", "bf16", "1", "timm-compile", str(tmp_path)]
        assert ran["env"].items() >= {"CUDA_VISIBLE_DEVICES": "5", "TORCHINDUCTOR_COMPILE_THREADS": "4"}.items()

    def test_the_gpus_that_are_seen(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
        assert prepare.visible_gpus() == ["3", "1"]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert prepare.visible_gpus() == ["0", "1"]


class TestInAProcess:
    @pytest.fixture
    def compile_one(self, tmp_path, monkeypatch):
        def run(rows, errors):
            monkeypatch.setattr(models, "race", lambda family, cell, names: (rows, errors))
            return prepare.main("resnet18", "tf32", "8", "torchvision-compile", str(tmp_path))

        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back afterwards
        for name in ("without_binaries", "measured_in_turn"):
            monkeypatch.setattr(compiled, name, lambda: None)
        monkeypatch.setattr(models, "set_up", lambda: None)
        monkeypatch.setattr(compiled, "save", lambda file: file.write_bytes(b""))
        return run

    def test_kept(self, compile_one, tmp_path, capsys):
        assert compile_one([{"mode": "graph", "median_ms": 1.23456}], {}) == 0
        assert [file.name for file in tmp_path.iterdir()] == ["resnet18-tf32-8-torchvision-compile.bin"]
        assert capsys.readouterr().out == "resnet18 tf32 8 torchvision-compile graph 1.235 ms\n"

    def test_a_wrong_result_is_not_kept(self, compile_one, tmp_path, capsys):
        assert compile_one([], {(*CELLS[1], "torchvision-compile", "graph"): "wrong result"}) == 1
        assert not list(tmp_path.iterdir())
        assert capsys.readouterr().out == "resnet18 tf32 8 torchvision-compile graph: wrong result\n"


@pytest.mark.skipif(not INTERPRET, reason="compiles on a GPU")
def test_without_a_gpu(tmp_path, capsys):
    assert benchmarks(["prepare", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "prepare: no GPU here, nothing was compiled\n"
