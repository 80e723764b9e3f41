import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import filelock
import pytest
import torch
from triton.runtime.errors import OutOfResources

from course import tuning
from course.kernels.attention.scaled_dot_product_attention import ENGINES as scaled_dot_product_attention
from course.kernels.convolution.conv2d import ENGINES as conv2d
from course.kernels.pools.avg_pool2d import ENGINES as avg_pool2d
from course.kernels.products.matmul import ENGINES as matmul
from course.kernels.products.problem import product_problem
from course.results import ROOT
from course.tuning import Config, Engines

GPU = "nvidia-x"
CHOICE = "op size=64 dtype=float16 engines=pointers"
"""The name of Problem(50)."""


class Problem(NamedTuple):
    size: int
    worth_measuring: bool = True

    def choice(self):
        return {"size": -(-self.size // 64) * 64, "dtype": "float16"}


class FakeEngine:
    """An engine for problems of at least `least`, whose configurations take these milliseconds; None does not fit."""

    launched = []
    """Every launch of any engine: problem, configuration, operands."""

    def __init__(self, name, milliseconds, least=0, costs=None):
        self.__name__, self.least = f"course.kernels.family.{name}", least
        self.offered = [
            Config(name, {"BLOCK": 16 << i, "SPLIT": False}, num_warps=4, num_stages=i + 1, cost=cost)
            for i, cost in enumerate(costs or range(len(milliseconds)))
        ]
        self.milliseconds = dict(zip(self.offered, milliseconds))

    def can_run(self, problem):
        return problem.size >= self.least

    def configs(self, problem):
        return self.offered

    def launch(self, problem, config, operands):
        self.launched.append((problem, config, operands))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """(the machine's file, the repository's): none of them exists yet."""
    monkeypatch.setattr(tuning, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tuning, "TUNED", tmp_path / "tuned")
    (tmp_path / "tuned").mkdir()
    tuning.known_choices.cache_clear()
    tuning.say.cache_clear()
    yield tmp_path / "cache" / f"{GPU}.json", tmp_path / "tuned" / f"{GPU}.json"
    tuning.known_choices.cache_clear()


@pytest.fixture
def gpu(files, monkeypatch):
    """A GPU that may be tuned on; the configurations that were measured on it, in words."""
    monkeypatch.delenv("COURSE_TUNE", raising=False)
    monkeypatch.setattr(tuning.runtime, "INTERPRET", False)
    monkeypatch.setattr(tuning.runtime, "gpu_name", lambda: GPU)
    monkeypatch.setattr(tuning, "FEW", 12)  # all that most of the tests' engines offer
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    measured = []

    def queued_milliseconds(launch):
        launch()
        (config,) = launch.args
        measured.append(str(config))
        milliseconds = MILLISECONDS[config]
        if milliseconds is None:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return milliseconds

    monkeypatch.setattr(tuning, "queued_milliseconds", queued_milliseconds)
    return measured


MILLISECONDS = {}
"""Of every configuration of the tests' engines."""


def engine(*args, **options):
    made = FakeEngine(*args, **options)
    MILLISECONDS.update(made.milliseconds)
    return made


def new_process():
    """What was read from the files is read again; new `Engines` remember no choices."""
    tuning.known_choices.cache_clear()
    tuning.say.cache_clear()


def choice_of(problem, engines="pointers"):
    """What a choice for `problem` is stored under."""
    return {**problem.choice(), "engines": engines}


def computed(engines, problem=None):
    """The configuration in which `engines` compute `problem`, Problem(50) by default."""
    problem = problem or Problem(50)
    engines.compute(problem, "operands")
    asked, config, operands = FakeEngine.launched[-1]
    assert (asked, operands) == (problem, "operands")
    return config


# -- The choice --------------------------------------------------------------------------------------------------------


def test_the_fastest_is_measured_once(gpu, capsys):
    pointers = engine("pointers", [3.0, 1.0, 2.0])
    engines = Engines("op", pointers)
    assert computed(engines) is pointers.offered[1] and len(gpu) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"tuning {CHOICE}: 1.0000 ms with pointers BLOCK=32 SPLIT=False num_warps=4 num_stages=2"
    )
    for size in (50, 64, 33):  # which share the choice
        assert computed(engines, Problem(size)) is pointers.offered[1]
    assert len(gpu) == 3
    computed(engines, Problem(65))
    assert len(gpu) == 6
    assert capsys.readouterr().err.count("ms with") == 1


def test_a_warm_call_asks_no_engine(gpu):
    pointers = engine("pointers", [3.0, 1.0])
    engines = Engines("op", pointers)
    computed(engines)
    pointers.can_run = pointers.configs = None
    assert computed(engines) is pointers.offered[1]


def test_the_first_that_can_run_computes(gpu):
    tma, pointers = engine("tma", [5.0, 4.0], least=40), engine("pointers", [1.0, 2.0])
    engines = Engines("op", tma, pointers)
    assert computed(engines) is tma.offered[1]
    assert computed(engines, Problem(39)) is pointers.offered[0]


def test_engines_that_compete(gpu):
    """All that can run are measured, in the order of their predicted costs."""
    tma, pointers = engine("tma", [5.0, 4.0], least=40, costs=[2, 4]), engine("pointers", [3.0, 6.0], costs=[3, 1])
    engines = Engines("op", tma, pointers, compete=True)
    assert computed(engines) is pointers.offered[0]
    expected = [pointers.offered[1], tma.offered[0], pointers.offered[0], tma.offered[1]]
    assert gpu == [str(config) for config in expected]


def test_what_does_not_fit_is_passed_over(gpu):
    pointers = engine("pointers", [None, 2.0, None, 3.0])
    assert computed(Engines("op", pointers)) is pointers.offered[1]


def test_others_take_the_place_of_what_does_not_fit(gpu, monkeypatch):
    monkeypatch.setattr(tuning, "FEW", 2)
    pointers = engine("pointers", [None, 3.0, None, 2.0, 1.0])
    assert computed(Engines("op", pointers)) is pointers.offered[3]
    assert gpu == [str(config) for config in pointers.offered[:4]]


def test_a_measurement_of_one_s_own(gpu):
    """All configurations by default, as the chapter on matrix products asks for."""
    pointers = engine("pointers", [3.0, None, 2.0, 1.0])
    assert tuning.measure("mine", pointers.offered, lambda config: None) is pointers.offered[3]
    assert gpu == [str(config) for config in pointers.offered]


def test_where_nothing_fits(gpu, files):
    """The error is Triton's, and nothing is remembered."""
    engines = Engines("op", engine("pointers", [None, None]))
    for _ in range(2):
        with pytest.raises(OutOfResources):
            computed(engines)
    assert not files[0].exists()


@pytest.mark.parametrize("few", [1, 2, 3])
def test_few_are_measured(gpu, monkeypatch, few):
    """The cheapest, by their predicted costs."""
    monkeypatch.setattr(tuning, "FEW", few)
    pointers = engine("pointers", [20.0 - i for i in range(20)], costs=[20 - i for i in range(20)])
    assert computed(Engines("op", pointers)) is pointers.offered[19]
    assert gpu == ([str(config) for config in pointers.offered[:-few - 1:-1]] if few > 1 else [])


def test_many_are_measured_in_a_session(gpu, monkeypatch, capsys):
    """Once in a session, whatever this machine has stored; and `advance` is called after each."""
    monkeypatch.setattr(tuning, "FEW", 2)
    pointers = engine("pointers", [20.0 - i for i in range(20)])
    engines, advances = Engines("op", pointers), []
    assert computed(engines) is pointers.offered[1] and len(gpu) == 2
    for session in 1, 2:
        gpu.clear()
        capsys.readouterr()
        with tuning.Session(lambda session=session: advances.append(session)) as thorough:
            assert [computed(engines), computed(engines, Problem(60))] == 2 * [pointers.offered[11]]  # of one name
        assert len(gpu) == advances.count(session) == tuning.MANY == 12
        assert thorough.measured == {CHOICE}
        assert capsys.readouterr().err == ""  # what `advance` shows is enough
        assert computed(engines) is pointers.offered[11]
    new_process()
    gpu.clear()
    assert str(computed(Engines("op", pointers))) == str(pointers.offered[11]) and not gpu


def test_a_session_measures_nothing_that_the_maintainers_have(gpu, files):
    pointers = engine("pointers", [3.0, 1.0, 2.0])
    tuning.remember(files[1], "op", choice_of(Problem(50)), pointers.offered[2])
    with tuning.Session() as thorough:
        assert str(computed(Engines("op", pointers))) == str(pointers.offered[2])
    assert not gpu and not thorough.measured


def test_a_session_ends_with_an_error(gpu, monkeypatch):
    pointers = engine("pointers", [None, None])
    with pytest.raises(OutOfResources), tuning.Session():
        computed(Engines("op", pointers))

    def can_be_alone():
        if taken := tuning.ALONE.acquire(timeout=1):
            tuning.ALONE.release()
        return taken

    assert tuning.SESSION.get() is None and ThreadPoolExecutor(1).submit(can_be_alone).result()


def test_what_would_be_measured_is_collected(gpu, files, monkeypatch):
    """All configurations are launched, nothing is chosen and nothing stored; what is stored is launched alone."""
    monkeypatch.setattr(tuning, "is_collecting", lambda: True)
    monkeypatch.setattr(tuning, "FEW", 2)
    pointers = engine("pointers", [3.0, 1.0, 2.0])
    engines = Engines("op", pointers)

    def collected():
        FakeEngine.launched.clear()
        engines.compute(Problem(50), "operands")
        return [str(config) for _, config, _ in FakeEngine.launched]

    assert collected() == [str(config) for config in pointers.offered[:2]]
    with tuning.Session() as thorough:
        assert collected() == [str(config) for config in pointers.offered]
    assert thorough.planned == {CHOICE: 3}
    tuning.remember(files[0], "op", choice_of(Problem(50)), pointers.offered[2])
    new_process()
    assert collected() == [str(pointers.offered[2])]
    assert not gpu and not engines.chosen


def test_a_small_problem_takes_the_first(gpu, files):
    pointers = engine("pointers", [3.0, 1.0], costs=[2, 1])
    assert computed(Engines("op", pointers), Problem(50, worth_measuring=False)) is pointers.offered[1]
    assert not gpu and not files[0].exists()


def test_the_only_one_is_not_measured(gpu, files):
    pointers = engine("pointers", [3.0])
    assert computed(Engines("op", pointers)) is pointers.offered[0]
    assert not gpu and not files[0].exists()


@pytest.mark.parametrize("why", ["interpreter", "capture", "COURSE_TUNE"])
def test_the_first_is_taken_where_nothing_can_be_measured(gpu, files, monkeypatch, why):
    if why == "interpreter":
        monkeypatch.setattr(tuning.runtime, "INTERPRET", True)
    elif why == "capture":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    else:
        monkeypatch.setenv("COURSE_TUNE", "0")
    pointers = engine("pointers", [3.0, 1.0], costs=[2, 1.5])
    engines = Engines("op", engine("tma", [1.0], least=100), pointers)
    assert computed(engines) is pointers.offered[1]
    assert not gpu and not files[0].exists()
    assert ((0, Problem(50)) in engines.chosen) == (why == "interpreter")


@pytest.mark.parametrize("why", ["capture", "COURSE_TUNE"])
def test_what_is_stored_needs_no_measurement(gpu, monkeypatch, why):
    pointers = engine("pointers", [3.0, 1.0])
    computed(Engines("op", pointers))
    if why == "capture":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    else:
        monkeypatch.setenv("COURSE_TUNE", "0")
    new_process()
    assert str(computed(Engines("op", pointers))) == str(pointers.offered[1])


def test_choices_are_not_remembered_without_end(gpu, monkeypatch):
    monkeypatch.setattr(tuning, "REMEMBERED", 3)
    engines = Engines("op", engine("pointers", [1.0]))
    for size in range(10):
        computed(engines, Problem(size))
        assert (0, Problem(size)) in engines.chosen and len(engines.chosen) <= 3


# -- The files ---------------------------------------------------------------------------------------------------------


def test_format(gpu, files):
    """Named fields, one choice a line, the version in the file."""
    pointers = engine("pointers", [3.0, 1.0])
    for op, size in (("op", 50), ("another", 100), ("op", 100)):
        computed(Engines(op, pointers), Problem(size))
    file, _ = files
    assert file.read_text() == (
        '{"version": 2, "choices": [\n'
        + ",\n".join(
            f'{{"op": "{op}", "problem": {{"size": {size}, "dtype": "float16", "engines": "pointers"}}, '
            '"engine": "pointers", "launch": {"BLOCK": 32, "SPLIT": false, "num_warps": 4, "num_stages": 2}}'
            for op, size in (("another", 128), ("op", 128), ("op", 64))
        )
        + "\n]}\n"
    )
    assert json.loads(file.read_text())["version"] == tuning.VERSION
    # written whole: nothing partial is left
    assert sorted(file.parent.iterdir()) == [file, file.with_name(f"{file.name}.lock")]


def test_another_process_finds_what_was_measured(gpu, capsys):
    pointers = engine("pointers", [3.0, 1.0])
    computed(Engines("op", pointers))
    capsys.readouterr()
    new_process()
    found = computed(Engines("op", pointers))
    assert (found.engine, found.options) == ("pointers", pointers.offered[1].options)
    assert found.blocks == {"BLOCK": 32, "SPLIT": False}
    assert len(gpu) == 2 and not capsys.readouterr().err


def test_the_repository_wins_over_the_machine(gpu, files):
    pointers = engine("pointers", [3.0, 1.0])
    for file, config in zip(files, pointers.offered):
        tuning.remember(file, "op", choice_of(Problem(50)), config)
    assert computed(Engines("op", pointers)).options == pointers.offered[1].options
    files[1].unlink()
    new_process()
    assert computed(Engines("op", pointers)).options == pointers.offered[0].options
    assert not gpu


def test_choices_for_one_problem_are_all_kept_once(files):
    """Problems of about one size share a name, and may be offered different configurations."""
    file, _ = files
    first, second = engine("pointers", [3.0, 1.0]).offered
    for config in (first, second, first):
        tuning.remember(file, "op", {"size": 1}, config)
        tuning.remember(file, "op", {"size": 2}, first)
    stored = [(entry["problem"]["size"], entry["launch"]["BLOCK"]) for entry in tuning.read_entries(file)]
    assert stored == [(1, 16), (1, 32), (2, 16)]


def test_what_two_processes_measured_is_kept(gpu, files):
    """Each reads the file again before it writes."""
    pointers = engine("pointers", [3.0, 1.0])
    ours = Engines("op", pointers)
    computed(ours)
    tuning.remember(files[0], "other", {"size": 1}, pointers.offered[0])  # meanwhile, by another process
    computed(ours, Problem(100))
    assert [entry["op"] for entry in tuning.read_entries(files[0])] == ["op", "op", "other"]


NOT_OFFERED = {
    "an engine of a later version": Config("blackwell", {"BLOCK": 64, "SPLIT": False}),
    "3 warps": Config("pointers", {"BLOCK": 16, "SPLIT": False}, num_warps=3),
    "a name of an earlier version": Config("pointers", {"BLOCK_M": 16, "SPLIT": False}),
    "a size as a float": Config("pointers", {"BLOCK": 16.0, "SPLIT": False}),
    "a size as a string": Config("pointers", {"BLOCK": "16", "SPLIT": False}),
}


@pytest.mark.parametrize("which", ["cache", "tuned"])
@pytest.mark.parametrize("kind", NOT_OFFERED)
def test_what_is_not_offered_is_ignored(gpu, files, which, kind, capsys):
    """With one line; what is measured instead is found by the next process."""
    file = files[which == "tuned"]
    tuning.remember(file, "op", choice_of(Problem(50)), NOT_OFFERED[kind])
    pointers = engine("pointers", [3.0, 1.0])
    assert computed(Engines("op", pointers)) is pointers.offered[1] and len(gpu) == 2
    assert capsys.readouterr().err.count(f"course: ignored {NOT_OFFERED[kind]}: not offered for {CHOICE}\n") == 1
    new_process()
    assert str(computed(Engines("op", pointers))) == str(pointers.offered[1]) and len(gpu) == 2
    assert not capsys.readouterr().err


@pytest.mark.parametrize("which", ["cache", "tuned"])
def test_only_the_repository_may_store_what_is_not_offered(gpu, files, which):
    file, by_hand = files[which == "tuned"], Config("pointers", {"BLOCK": 4, "SPLIT": False})
    tuning.remember(file, "op", choice_of(Problem(50)), by_hand)
    pointers = engine("pointers", [3.0, 1.0])
    assert str(computed(Engines("op", pointers))) == str(by_hand if which == "tuned" else pointers.offered[1])
    assert len(gpu) == (0 if which == "tuned" else 2)


@pytest.mark.parametrize("missing", ["num_warps", "num_stages", "BLOCK"])
def test_an_option_that_is_missing(gpu, files, missing):
    pointers = engine("pointers", [3.0, 1.0])
    tuning.remember(files[1], "op", choice_of(Problem(50)), pointers.offered[0])
    (entry,) = tuning.read_entries(files[1])
    del entry["launch"][missing]
    files[1].write_text(tuning.as_text([entry]))
    assert computed(Engines("op", pointers)) is pointers.offered[1] and len(gpu) == 2


def test_what_is_stored_may_be_beyond_the_twelve(gpu, files):
    """It was measured when other configurations were predicted best."""
    pointers = engine("pointers", [20.0 - i for i in range(20)])
    tuning.remember(files[1], "op", choice_of(Problem(50)), pointers.offered[19])
    assert str(computed(Engines("op", pointers))) == str(pointers.offered[19]) and not gpu


@pytest.mark.parametrize("compete", [False, True])
@pytest.mark.parametrize("order", [(50, 39), (39, 50)])
def test_problems_of_one_name_that_other_engines_can_run(gpu, compete, order):
    """Neither finds or overwrites the other's, whichever is measured first."""
    tma, pointers = engine("tma", [1.0, 0.5], least=40), engine("pointers", [3.0, 2.0])
    fastest = {50: tma.offered[1], 39: pointers.offered[1], 51: tma.offered[1]}
    engines = Engines("op", tma, pointers, compete=compete)
    for size in order:
        assert computed(engines, Problem(size)) is fastest[size]
    measured = len(gpu)
    new_process()
    engines = Engines("op", tma, pointers, compete=compete)
    for size in (*order, 51):
        assert str(computed(engines, Problem(size))) == str(fastest[size])
    assert len(gpu) == measured


def test_gpus_that_differ(gpu, monkeypatch):
    """Each has its own choices, and its own file."""
    pointers = engine("pointers", [3.0, 1.0])
    engines, current = Engines("op", pointers), 0
    monkeypatch.setattr(tuning.runtime, "SEVERAL", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(tuning.runtime, "gpu_name", lambda: f"gpu-{current}")
    for current, fastest in ((0, 1), (1, 0), (0, 1), (1, 0)):
        MILLISECONDS.update(zip(pointers.offered, ([3.0, 1.0], [1.0, 3.0])[current]))
        assert computed(engines) is pointers.offered[fastest]
    assert len(gpu) == 4
    assert sorted(file.name for file in tuning.CACHE.glob("*.json")) == ["gpu-0.json", "gpu-1.json"]


def test_first_calls_in_threads_are_measured_once(gpu, monkeypatch):
    pointers = engine("pointers", [3.0, 1.0])
    measuring, measure = [], tuning.measure

    def alone(*args):
        measuring.append("begun")
        assert len(measuring) == 1
        time.sleep(0.05)
        measuring.clear()
        return measure(*args)

    monkeypatch.setattr(tuning, "measure", alone)
    engines = Engines("op", pointers)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda size: engines.compute(Problem(size), "operands"), [50, 100] * 4))
    assert [config for _, config in engines.chosen.values()] == 2 * [pointers.offered[1]]
    assert len(gpu) == 4


FOREIGN = {
    "version 1": json.dumps({"matmul 1,2,3": {"BLOCK_M": 16, "num_stages": 3, "num_warps": 4}}),
    "version 3": '{"version": 3, "choices": {}}',
    "JSON": "[1, 2]",
    "no JSON": "\x00 {",
    "truncated": '{"version": 2, "choices": [\n{"op": "op", "problem": {"size": 64}, "engine": "poin',
    "deep": "[" * 100_000,
    "empty": "",
    "choices by name": '{"version": 2, "choices": {"op": 1}}',
    "a list of numbers": '{"version": 2, "choices": [1]}',
    "foreign fields": '{"version": 2, "choices": [{"op": "op", "problem": {"size": 64}, "config": {}}]}',
    "no launch": '{"version": 2, "choices": [{"op": "op", "problem": {}, "engine": "pointers", "launch": 4}]}',
}
OF_VERSION_2 = "expected choices of version 2, got "
OF_FIELDS = "expected choices of op: str, problem: dict, engine: str, launch: dict, got "
SAID = {
    "version 3": OF_VERSION_2 + "3",
    "choices by name": 'expected a list of choices, got {"op": 1}',
    "a list of numbers": OF_FIELDS + "1",
    "foreign fields": OF_FIELDS + '{"op": "op", "problem": {"size": 64}, "config": {}}',
    "no launch": OF_FIELDS + '{"op": "op", "problem": {}, "engine": "pointers", "launch": 4}',
}


@pytest.mark.parametrize("which", ["cache", "tuned"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_ignored_and_kept(gpu, files, which, kind, capsys):
    file = files[which == "tuned"]
    file.parent.mkdir(exist_ok=True)
    file.write_text(FOREIGN[kind])
    pointers = engine("pointers", [3.0, 1.0])
    engines = Engines("op", pointers)
    for size in (50, 100):
        assert computed(engines, Problem(size)) is pointers.offered[1]
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("tuning")]
    assert lines == [f"course: ignored {file}: {SAID.get(kind, OF_VERSION_2 + 'none')}"]
    assert len(tuning.read_entries(files[0])) == 2
    kept = file.with_name(f"{file.name}.old1") if which == "cache" else file
    assert kept.read_text() == FOREIGN[kind]


def test_every_foreign_file_is_kept(files):
    file, _ = files
    file.parent.mkdir()
    for number in (1, 2, 3):
        file.write_text(f"foreign {number}")
        tuning.remember(file, "op", {"size": number}, Config("pointers", {}))
    assert [file.with_name(f"{file.name}.old{n}").read_text() for n in (1, 2, 3)] == [
        "foreign 1", "foreign 2", "foreign 3",
    ]
    assert [entry["problem"] for entry in tuning.read_entries(file)] == [{"size": 3}]


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_all_that_is_stored_at_once_is_kept(files, workers):
    file, _ = files
    if workers == "threads":
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(store_five, [file] * 8, range(8)))
    else:
        code = "import sys, tests.test_tuning as t; t.store_five(t.Path(sys.argv[1]), int(sys.argv[2]))"
        started = [
            subprocess.Popen([sys.executable, "-c", code, str(file), str(n)], cwd=ROOT) for n in range(2)
        ]
        assert [process.wait() for process in started] == [0, 0]
    entries = tuning.read_entries(file)
    assert sorted({entry["problem"]["who"] for entry in entries}) == list(range(8 if workers == "threads" else 2))
    assert len(entries) == (40 if workers == "threads" else 10)
    assert sorted(file.parent.iterdir()) == [file, file.with_name(f"{file.name}.lock")]


def store_five(file, who):
    for number in range(5):
        tuning.remember(file, "op", {"who": who, "number": number}, Config("pointers", {"BLOCK": 16}))


# -- Folders that cannot be used ---------------------------------------------------------------------------------------


def lines_without_progress(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("tuning")]


@pytest.mark.parametrize("why", ["a file in the way", "disk full", "no locks", "locked", "no home", "unreadable"])
def test_what_cannot_be_stored_costs_one_line(gpu, files, monkeypatch, capsys, why):
    file, _ = files
    folder = file.parent

    def fail(*args, **kwargs):
        raise {"disk full": OSError(28, "No space left on device"), "no locks": NotImplementedError("no flock"),
               "unreadable": PermissionError(13, "Permission denied")}[why]

    said = f"course: choices are not stored in {folder}: "
    if why == "a file in the way":
        folder.write_text("not a folder")
    elif why == "disk full":
        monkeypatch.setattr(Path, "replace", fail)
    elif why == "no locks":
        monkeypatch.setattr(tuning.filelock, "FileLock", fail)
    elif why == "locked":
        folder.mkdir()
        monkeypatch.setattr(tuning, "PATIENCE_S", 0.01)
        held = filelock.FileLock(f"{file}.lock")
        held.acquire()
    elif why == "no home":
        monkeypatch.setattr(tuning, "CACHE", None)
        said = "course: choices are not stored: found no home, expected COURSE_CACHE to name a folder"
    else:
        folder.mkdir()
        file.write_text("")
        read_text = Path.read_text
        monkeypatch.setattr(Path, "read_text", lambda f, **kw: fail() if f == file else read_text(f, **kw))
    pointers = engine("pointers", [3.0, 1.0])
    engines = Engines("op", pointers)
    for size in (50, 100, 50):
        assert computed(engines, Problem(size)) is pointers.offered[1]
    assert len(gpu) == 4
    lines = lines_without_progress(capsys)
    assert len([line for line in lines if line.startswith(said)]) == 1
    assert len(lines) == 1 + (why in ("unreadable", "a file in the way"))
    if folder.is_dir():  # nothing partial is left
        assert {f.name for f in folder.iterdir()} <= {file.name, f"{file.name}.lock"}


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(gpu, files, capsys):
    files[0].parent.mkdir(mode=0o500)
    pointers = engine("pointers", [3.0, 1.0])
    assert computed(Engines("op", pointers)) is pointers.offered[1]
    assert len(lines_without_progress(capsys)) == 1


HOME = Path.home()


@pytest.mark.parametrize("value, folder", [
    (None, HOME / ".cache" / "triton-course"), ("", HOME / ".cache" / "triton-course"), ("~/c", HOME / "c"),
    ("/tmp/c", Path("/tmp/c")), ("c", Path("c")),
])
def test_where_choices_are_stored(value, folder, monkeypatch):
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("COURSE_CACHE", value)
    assert tuning.cache_folder() == folder


@pytest.mark.parametrize("value, folder", [(None, None), ("~/c", None), ("/tmp/c", Path("/tmp/c"))])
def test_a_user_without_a_home(value, folder, monkeypatch):
    """A container's, with an id that no user has."""

    def no_entry(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("COURSE_CACHE", value)
    assert tuning.cache_folder() == folder


# -- The repository's --------------------------------------------------------------------------------------------------


def test_the_repositorys_files_are_of_this_version():
    for file in tuning.TUNED.glob("*.json"):
        assert file.read_text() == tuning.as_text(tuning.read_entries(file))


def test_the_repositorys_choices_are_of_engines_that_there_are():
    """With each stands which engines there were to choose from, and what it is launched with."""
    all_engines = {engines.op: engines for engines in (avg_pool2d, conv2d, matmul, scaled_dot_product_attention)}
    for file in tuning.TUNED.glob("*.json"):
        for entry in tuning.read_entries(file):
            engines = all_engines[entry["op"]]
            able = entry["problem"]["engines"].split()
            assert entry["engine"] in able and [name for name in engines.by_name if name in able] == able
            assert len(able) == 1 or engines.compete
            assert entry["launch"]["num_warps"] in tuning.WARPS and entry["launch"]["num_stages"] >= 1


@pytest.mark.parametrize("size, engines, found", [
    ((197, 2304, 768), "tma pointers", "tma BLOCK_M=64 BLOCK_N=128 BLOCK_K=128"),  # found by hand, not offered
    ((1576, 768, 3072), "hopper tma pointers", ""),
])
def test_a_choice_of_the_repository_is_found(size, engines, found, gpu, monkeypatch):
    """As a ViT's linear layers on an H200 look theirs up."""
    monkeypatch.setattr(tuning, "TUNED", Path(tuning.__file__).parent / "tuned")
    for name, value in (("capability", (9, 0)), ("num_sms", 132), ("gpu_name", "nvidia-h200")):
        monkeypatch.setattr(tuning.runtime, name, lambda value=value: value)
    tuning.known_choices.cache_clear()
    (M, N, K), norm = size, engines == "tma pointers"
    problem = product_problem(
        (M, N), K, (N, 1), (K, 1), (1, K), None, torch.bfloat16, "ieee", None, norm, False, True
    )
    assert matmul.choice(problem)["engines"] == engines
    config, for_good = matmul.choose(problem, operands=None)
    assert for_good and found in str(config) and not gpu
    for engine in matmul.by_name.values():  # what they offer is that GPU's
        engine.configs.cache_clear()


# -- On a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_on_the_gpu(files, monkeypatch):
    """Real launches, measured: the one that sleeps for a quarter of the time is the fastest."""
    monkeypatch.delenv("COURSE_TUNE", raising=False)
    tuning.known_choices.cache_clear()

    class Sleeping(FakeEngine):
        def launch(self, problem, config, operands):
            self.launched.append((problem, config, operands))
            torch.cuda._sleep(self.milliseconds[config])

    sleeping = Sleeping("sleeping", [400_000, 100_000, 200_000])
    assert computed(Engines("op", sleeping)) is sleeping.offered[1]
    (stored,) = tuning.CACHE.glob("*.json")
    assert len(tuning.read_entries(stored)) == 1
