"""`bench`: what is measured, and how a result is drawn."""
import json

import pytest
import torch

from course import lab
from course.lab.measuring import bench as module, stored
from course.timing import Timing


STORED = {
    "name": "two", "axis": "elements", "gpu": "NVIDIA X", "driver": "1", "versions": {"torch": "2", "triton": "3"},
    "commit": "abc", "date": "2026-01-02T03:04:05+00:00", "copy_gbps": 1000.0,
    "rows": [{"provider": p, "size": n, "median_ms": 1.0, "q20_ms": 1.0, "q80_ms": 1.0, "gbps": 500.0}
             for n in (1024, 2048) for p in ("ours", "theirs")],
}


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    (tmp_path / "nvidia-x" / "notebooks").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
def test_without_a_gpu_the_stored_result_is_shown(results, monkeypatch, sizes):
    monkeypatch.setattr(stored, "INTERPRET", True)
    result = {**STORED, "rows": [row for row in STORED["rows"] if row["size"] in sizes]}
    (results / "nvidia-x" / "notebooks" / "two.json").write_text(json.dumps(result))
    shown = lab.bench("two", {"ours": None}, None, [])
    assert "this is the stored result of the NVIDIA X, driver 1, torch 2, triton 3; commit abc, 2026" in shown.alt
    assert "ours, 1,024 elements: 1.0000 ms, 500 GB/s" in shown.alt and "Copying: 1,000 GB/s." in shown.alt
    assert shown._repr_mimebundle_()[0]["image/png"]


@pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
def test_operations_are_shown_instead_of_bytes(results, monkeypatch, sizes):
    monkeypatch.setattr(stored, "INTERPRET", True)
    rates = {"ours": 7.0, "theirs": 0.039}
    rows = [{**row, "tflops": rates[row["provider"]]} for row in STORED["rows"] if row["size"] in sizes]
    result = {**STORED, "matmul_tflops": 5.0, "product": "bf16", "rows": rows}
    (results / "nvidia-x" / "notebooks" / "two.json").write_text(json.dumps(result))
    shown = lab.bench("two", {"ours": None}, None, [])
    assert "ours, 1,024 elements: 1.0000 ms, 7 TFLOP/s" in shown.alt
    assert "theirs, 1,024 elements: 1.0000 ms, 0.039 TFLOP/s" in shown.alt
    assert "A large matrix product: 5 TFLOP/s." in shown.alt
    assert shown._repr_mimebundle_()[0]["image/png"]


@pytest.mark.parametrize("sizes", [(1024, 2048), (1024,)])
@pytest.mark.parametrize("limit, drawn", [(1000, True), (9000, False)])
def test_a_limit_far_away_is_named_and_not_drawn(sizes, limit, drawn):
    rows = [row for row in STORED["rows"] if row["size"] in sizes]
    (axes,) = module.plot({**STORED, "copy_gbps": limit, "rows": rows}, "").axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    assert bool(dashed) == drawn
    ends, words = (axes.get_ylim(), axes.get_legend_handles_labels()[1][-1]) if len(sizes) > 1 else (
        axes.get_xlim(), axes.get_xlabel())
    assert (ends[1] > limit) == drawn and (f"{limit:,}" in words) != drawn


@pytest.mark.parametrize("product", ["bf16", "tf32"])
def test_a_gpu_has_one_limit_in_all_plots(product):
    """The one that is stored of it, whatever was measured in that run."""
    h200 = {**STORED, "gpu": "NVIDIA H200", "copy_gbps": 4000.0, "matmul_tflops": 700.0, "product": product}
    counted = [{**row, "tflops": 300.0} for row in STORED["rows"]]
    stored = lab.hardware("nvidia-h200")[f"matmul_{product}_tflops"]
    assert f"A large matrix product: {stored} TFLOP/s." in module.plot({**h200, "rows": counted}, "").alt
    del h200["matmul_tflops"]
    assert f"Copying: {lab.hardware('nvidia-h200')['copy_gbps']:,} GB/s." in module.plot(h200, "").alt


@pytest.mark.parametrize("rate, words", [(1234.5, "1,234"), (57.4, "57"), (9.6, "10"), (3.58, "3.6"), (0.404, "0.4")])
def test_a_small_rate_is_not_nothing(rate, words):
    assert module.in_digits(rate) == words


def test_numbers_and_names():
    for size, axis, words in [(1024, "rows a program", "1,024 rows a program"), (64, "images", "64 images"),
                              (4, "num_stages", "num_stages 4"), (64, "head size", "head size 64")]:
        assert module.size_label(size, axis) == words


def test_operations_are_counted(monkeypatch):
    monkeypatch.setattr(module, "copy_bandwidth", lambda: 1000.0)
    monkeypatch.setattr(module, "matmul_rate", lambda dtype: {torch.float16: 5.0}[dtype])
    monkeypatch.setattr(module, "circumstances", dict)
    monkeypatch.setattr(module, "time_in_turn", lambda calls, **how: dict.fromkeys(calls, Timing(2.0, 2.0, 2.0)))

    def measured(inputs, operations):
        return module.measured_rates("m", {"ours": torch.add}, inputs, [64], "n", operations, 1e-3)

    counted = measured(lambda n: (torch.ones(n).half(), torch.ones(n).half()), lambda x, y: 10**9 * x.numel())
    assert counted["matmul_tflops"] == 5.0 and counted["product"] == "bf16" and counted["rows"][0]["tflops"] == 32.0
    plain = measured(lambda n: (torch.ones(n), torch.ones(n)), None)
    assert "matmul_tflops" not in plain and "tflops" not in plain["rows"][0]


def test_without_a_gpu_and_without_a_result(monkeypatch):
    monkeypatch.setattr(stored, "INTERPRET", True)
    assert "No GPU here, and no result is stored for `none` yet" in repr(lab.bench("none", {}, None, []))


@pytest.mark.gpu
def test_measures_and_stores(results, monkeypatch):
    monkeypatch.setenv("COURSE_STORE", "1")
    shown = lab.bench("three", {"ours": torch.add, "theirs": lambda x, y: x + y},
                      lambda n: torch.randn(2, n, device="cuda").unbind(), [2**20, 2**24])
    (file,) = results.glob("*/notebooks/three.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 4 and all(0 < row["gbps"] for row in rows)
    assert "Measured on this" in shown.alt


@pytest.mark.gpu
def test_results_are_compared_before_they_are_timed():
    with pytest.raises(AssertionError, match="bench: theirs differs, size=8"):
        lab.bench("four", {"ours": torch.add, "theirs": torch.sub}, lambda n: (torch.ones(n), torch.ones(n)), [8])
