import csv
import json

import pytest

from course import results
from course.results import Results

RUN = {
    "gpu": "NVIDIA X", "driver": "1.2", "versions": {"torch": "2", "timm": None}, "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
}
LATER = {**RUN, "commit": "def", "date": "2026-02-03T04:05:06+00:00"}


def row(provider, median, mode="graph", batch=1):
    return {
        "model": "vit-b16", "dtype": "bf16", "batch": batch, "provider": provider, "mode": mode,
        "median_ms": median, "q20_ms": median - 0.1, "q80_ms": median + 0.1, "peak_mib": 200.0,
    }


@pytest.fixture
def models():
    models = Results("models")
    models.add([row("course", 1.0), row("timm", 2.0), row("timm", 3.0, "eager"), row("course-plain", 0.5)], RUN)
    return models


def test_round_trip(models, tmp_path):
    models.save(tmp_path / "nvidia-x")
    assert results.gpus(tmp_path) == ["nvidia-x"]
    for gpu in ("nvidia-x", None):  # this machine's results are none of tmp_path's: the first there is
        again = results.read("models", gpu, tmp_path)
        assert again == models and again.last == RUN
    assert not list(tmp_path.glob("*/*.[0-9]*"))  # nothing partial left


def test_files(models, tmp_path):
    """The columns promised, in this order; the .json has the same rows and the circumstances."""
    models.save(tmp_path)
    with open(tmp_path / "models.csv") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == "model dtype batch provider mode median_ms q20_ms q80_ms peak_mib".split()
    about = json.loads((tmp_path / "models.json").read_text())
    assert about.items() >= RUN.items()
    stored = [{name: str(value) for name, value in r.items() if name != "measured"} for r in about["rows"]]
    assert stored == table


def test_columns_of_kernels():
    expected = "kernel shape dtype provider median_ms q20_ms q80_ms gbps tflops limit_ms"
    assert results.COLUMNS["kernels"] == tuple(expected.split())


def test_nothing_stored(tmp_path):
    assert results.read("kernels", "nvidia-x", tmp_path) == results.read("kernels", root=tmp_path) == Results("kernels")


def test_merge_keeps_what_was_not_measured_again(models, tmp_path):
    models.add([row("course", 0.9), row("timm", 5.0, batch=8)], LATER)
    models.save(tmp_path / "gpu")
    models = results.read("models", "gpu", tmp_path)
    found = {(r["provider"], r["mode"], r["batch"]): (r["median_ms"], r["measured"]) for r in models.rows}
    assert found == {
        ("course", "graph", 1): (0.9, LATER["date"]), ("timm", "graph", 1): (2.0, RUN["date"]),
        ("timm", "eager", 1): (3.0, RUN["date"]), ("course-plain", "graph", 1): (0.5, RUN["date"]),
        ("timm", "graph", 8): (5.0, LATER["date"]),
    }
    assert models.runs == {RUN["date"]: RUN, LATER["date"]: LATER} and models.last == LATER


def test_a_run_without_rows_is_forgotten(models):
    models.add([{**r} for r in models.rows], LATER)
    assert models.runs == {LATER["date"]: LATER}


def test_what_failed_loses_its_older_figure(models):
    models.add([], LATER, failed=[("vit-b16", "bf16", 1, "course", "graph"), ("vit-b16", "bf16", 1, "timm", "graph")])
    assert [r["provider"] for r in models.rows] == ["timm", "course-plain"] and models.last == RUN


def test_races(models):
    (race,) = models.races().values()
    assert (race.ours["provider"], race.best["provider"], race.ratio, race.one_run) == ("course", "timm", 2.0, True)
    models.add([row("course", 0.5), row("timm", 2.5, "eager")], LATER)
    race = models.races()["vit-b16", "bf16", 1]
    assert race.ratio == 4.0 and not race.one_run  # the best peer of any run counts, and it is said
    models.add([row("timm", 1.5, "eager")], LATER)
    race = models.races()["vit-b16", "bf16", 1]
    assert race.ratio == 3.0 and race.one_run


def test_rounded_to_what_means_something():
    assert results.rounded(0.123456789) == 0.12346 and results.rounded(197) == 197


def test_described():
    assert results.described(RUN) == "NVIDIA X, driver 1.2, torch 2; commit abc, 2026-01-02"


def test_every_commit_that_was_measured_is_named():
    models = results.Results("models")
    models.add([row("course", 2.0), row("timm", 2.5, "eager")], RUN)
    models.add([row("course", 1.0)], {**LATER, "commit": "def"})
    both = "NVIDIA X, driver 1.2, torch 2; commit abc, 2026-01-02 and def, " + LATER["date"][:10]
    assert models.source(models.rows) == both
    assert "abc" not in models.source(models.rows[:1])


def test_table():
    text = results.table(("name", "ms"), [("a", "1.5"), ("bcdef", "10.25")])
    assert text == "name      ms\na        1.5\nbcdef  10.25"


def test_hardware():
    assert results.hardware("nvidia-h200")["multiprocessors"] == 132
