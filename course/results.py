"""What was measured, where and when: benchmarks/results/<gpu>/<table>.csv, and .json with the circumstances.

The .json holds the rows of the .csv, each with the date of the run that measured it, and for each of these runs the
GPU, driver, versions, commit and the hardware's limits; those of the last run stand at the top.

    models = read("models")
    for cell, race in models.races().items():       # cell: ("vit-b16", "bf16", 1)
        print(*cell, race.ours["median_ms"], race.best["provider"], race.ratio)
"""
import csv
import datetime
import importlib.metadata
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from course import runtime
from course.files import write_whole

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

TIMES = ("median_ms", "q20_ms", "q80_ms")

COLUMNS = {
    "models": ("model", "dtype", "batch", "provider", "mode", *TIMES, "peak_mib"),
    "kernels": ("kernel", "shape", "dtype", "provider", *TIMES, "gbps", "tflops", "limit_ms"),
    "replaced": ("model", "batch", "provider", "layout", *TIMES),
    "startup": ("model", "dtype", "batch", "provider", "seconds", "cpu_s", *TIMES),
    "calls": ("kernel", "shape", "dtype", "provider", *TIMES),
}
"""Each table's; those of `startup` and `calls` are explained in benchmarks/startup.py and benchmarks/calls.py."""

CELL = {what: columns[: columns.index("provider")] for what, columns in COLUMNS.items()}
"""The columns that say what was measured; the providers in one cell compete."""

KEY = {what: (*cell, "provider") for what, cell in CELL.items()} | {
    "models": (*CELL["models"], "provider", "mode"), "replaced": (*CELL["replaced"], "provider", "layout"),
}
"""The columns that tell rows apart."""

PACKAGES = ("torch", "triton", "transformers", "timm", "torchvision")


class Race(NamedTuple):
    """Our fastest row of a cell, and the fastest peer's."""

    ours: dict
    best: dict

    @property
    def ratio(self) -> float:
        """Above 1 where we are faster."""
        return self.best["median_ms"] / self.ours["median_ms"]

    @property
    def one_run(self) -> bool:
        """Whether both were measured in turn, in one process; otherwise the ratio holds only roughly."""
        return self.best["measured"] == self.ours["measured"]


@dataclass
class Results:
    """The rows of one table, and the runs that measured them, by date."""

    what: str
    rows: list[dict] = field(default_factory=list)
    runs: dict[str, dict] = field(default_factory=dict)

    @property
    def last(self) -> dict:
        """The circumstances of the last run."""
        return self.runs[max(self.runs)]

    def source(self, rows: Iterable[dict]) -> str:
        """Where these of the rows are from, in a line: the runs that measured them."""
        return described(*(self.runs[date] for date in sorted({row["measured"] for row in rows})))

    def key(self, row: dict) -> tuple:
        return tuple(row[column] for column in KEY[self.what])

    def cells(self) -> dict[tuple, list[dict]]:
        """The rows by what they measure, in the order in which that first appeared."""
        cells: dict[tuple, list[dict]] = {}
        for row in self.rows:
            cells.setdefault(tuple(row[column] for column in CELL[self.what]), []).append(row)
        return cells

    def races(self) -> dict[tuple, Race]:
        """Ours beside the best peer, in each cell that has both. Peers of any run count: a fast one that is left out of
        the last run still counts."""
        races = {}
        for cell, rows in self.cells().items():
            ours, best = fastest(rows, is_ours), fastest(rows, is_peer)
            if ours and best:
                races[cell] = Race(ours, best)
        return races

    def add(self, rows: Iterable[dict], run: dict, failed: Iterable[tuple] = ()) -> None:
        """Puts `rows`, measured in `run`, in place of older ones; what failed this time loses its older figure."""
        rows = [{**{c: rounded(row[c]) for c in COLUMNS[self.what]}, "measured": run["date"]} for row in rows]
        table = {self.key(row): row for row in self.rows}
        table.update({self.key(row): row for row in rows})
        for key in failed:
            table.pop(key, None)
        self.rows = list(table.values())
        self.runs[run["date"]] = run
        used = {row["measured"] for row in self.rows}
        self.runs = {date: run for date, run in self.runs.items() if date in used}

    def save(self, folder: Path) -> None:
        """Writes both files, each whole or not at all."""
        rows = [row for cell in self.cells().values() for row in cell]
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS[self.what], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        last = max(self.runs, default=None)
        earlier = [run for date, run in self.runs.items() if date != last]
        about = {**self.runs.get(last, {}), "earlier": earlier, "rows": rows}
        write_whole(folder / f"{self.what}.csv", table.getvalue())
        write_whole(folder / f"{self.what}.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def median(row: dict) -> float:
    return row["median_ms"]


def fastest(rows: Iterable[dict], wanted: Callable[[str], bool]) -> dict | None:
    """The fastest row of a provider that is `wanted`."""
    return min((row for row in rows if wanted(row["provider"])), key=median, default=None)


def is_ours(provider: str) -> bool:
    """Whether a provider is this course at its best; `course-plain` is ours too, but runs for comparison alone."""
    return provider == "course"


def is_peer(provider: str) -> bool:
    return provider.partition("-")[0] != "course"


def rounded(value):
    """Five significant digits: more would be noise."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def gpus(root: Path | None = None) -> list[str]:
    """The GPUs that results are stored for, as `runtime.gpu_name()` writes them."""
    return sorted({file.parent.name for file in (root or RESULTS).glob("*/*.csv")})


def read(what: str, gpu: str | None = None, root: Path | None = None) -> Results:
    """The stored table `what`, one of COLUMNS, of `gpu`; empty if there is none.

    By default of this machine's GPU, or on a machine without one, or with one that was never measured, of the
    first that was.
    """
    root = root or RESULTS
    if gpu is None:
        here = None if runtime.INTERPRET else runtime.gpu_name()
        measured = [name for name in gpus(root) if (root / name / f"{what}.json").exists()]
        gpu = here if here in measured else next(iter(measured), "")
    file = root / gpu / f"{what}.json"
    if not file.is_file():
        return Results(what)
    about = json.loads(file.read_text(encoding="utf-8"))
    rows, earlier = about.pop("rows"), about.pop("earlier")
    return Results(what, rows, {run["date"]: run for run in (*earlier, about) if run})


def hardware(gpu: str = "nvidia-h200") -> dict:
    """What was measured of a GPU itself: `multiprocessors`, `copy_gbps`, `matmul_bf16_tflops`, `matmul_tf32_tflops`.

    The last two are what "a large matrix product" means in every chapter and post: PyTorch's, of two 8192 x 8192.
    """
    return json.loads((RESULTS / gpu / "hardware.json").read_text(encoding="utf-8"))


def hardware_of(run: dict) -> dict:
    """`hardware` of the GPU of a run or a stored result; {} where nothing is stored of it."""
    gpu = runtime.file_name(run["gpu"])
    return hardware(gpu) if (RESULTS / gpu / "hardware.json").exists() else {}


def circumstances() -> dict:
    """Where, when and with what something is measured now. The commit may come in the environment, as COMMIT."""
    versions = {name: _version(name) for name in PACKAGES}
    versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
        "versions": versions,
        "commit": os.environ.get("COMMIT") or _said("git", "describe", "--always", "--dirty"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def described(*runs: dict) -> str:
    """One or more runs in one line, for a caption: what they ran on, and the commits that they measured."""
    machines, commits = {}, {}
    for run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
        machines[f"{run['gpu']}, driver {run['driver']}, {versions}"] = True
        commits[f"{run['commit']}, {run['date'][:10]}"] = True
    return f"{' and '.join(machines)}; commit {' and '.join(commits)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text in columns, numbers to the right."""
    rows = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    right = [all(row[i][:1] in "0123456789-" for row in rows[1:]) for i in range(len(header))]
    lines = ["  ".join(f"{cell:{'>' if r else '<'}{w}}" for cell, w, r in zip(row, widths, right)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
