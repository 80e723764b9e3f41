"""python -m benchmarks kernels | models | replaced | prepare | startup | calls | plots | readme | posts

    python -m benchmarks prepare compiled --budget 540            # compiles the models' peers, as many as fit
    python -m benchmarks models --compiled compiled               # then all side by side
    python -m benchmarks models --providers best                  # ours and each cell's best peer
    python -m benchmarks models --check                           # have ours become slower than the stored figures say?
"""
import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks import figures, report
from course import results, runtime
from course.files import write_whole

MEASURED = {
    "kernels": "kernels beside their peers",
    "models": "models beside their peers",
    "replaced": "models before and after replace_layers",
    "startup": "the first call of a model with nothing stored, in new processes with empty caches",
    "calls": "the CPU's time a call, and models called plainly",
}
"""The tables of results."""

POSTS = results.ROOT / "posts"


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures, and shows what was measured.")
    commands = top.add_subparsers(required=True, dest="command", metavar="command")
    for what, title in MEASURED.items():
        sub = commands.add_parser(what, help=f"measure {title}, and store the results")
        how = sub.add_mutually_exclusive_group()
        if what in ("kernels", "models", "replaced"):
            how.add_argument("--quick", action="store_true", help="few sizes, nothing compiled for long, nothing "
                             "stored")
        if what == "models":
            sub.add_argument("--compiled", type=Path, metavar="FOLDER", help="what `prepare` compiled there is not "
                             "compiled again")
            how.add_argument("--check", action="store_true", help="compare a few, beside peers in a CUDA graph, with "
                             "this GPU's stored figures: 1 where ours became 5 %% slower relative to the peer, 2 "
                             "without a GPU or such figures; nothing stored")
        sub.add_argument("--providers", nargs="+", default=["all"], metavar="NAME", help="who races: providers by "
                         "name; all; the peers; or best, ours beside the best peer stored (default: all)")
        limits(sub, "seconds after which nothing more is begun")
    sub = commands.add_parser("prepare", help="compile the models' peers, so that `models --compiled` need not")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--providers", nargs="+", default=["peers"], metavar="NAME", help="which of them (default: all)")
    sub.add_argument("--at-once", type=int, metavar="N", help="processes that compile at the same time (default: four "
                     "a GPU)")
    limits(sub, "seconds after which those that still compile are ended")
    commands.add_parser("plots", help="draw what is stored")
    commands.add_parser("readme", help="write the stored figures into README.md")
    commands.add_parser("posts", help="write the stored figures into posts/*.md, where they have changed")
    options = vars(top.parse_args(argv))
    command = options.pop("command")
    if command == "plots":
        return plots()
    if command == "readme":
        return readme()
    if command == "posts":
        return posts()
    if command == "prepare":
        return prepare_models(**options)
    if options.pop("check", False):
        return check_models()
    return measure(command, **options)


def limits(sub: argparse.ArgumentParser, budget: str) -> None:
    sub.add_argument("--only", nargs="+", metavar="NAME", help="what has one of these names, dtypes or sizes alone")
    sub.add_argument("--budget", type=float, default=float("inf"), metavar="S", help=f"{budget} (default: no limit)")


def measure(
    what: str, quick: bool = False, providers: Collection[str] = ("all",), only: Collection[str] | None = None,
    budget: float = float("inf"), compiled: Path | None = None,
) -> int:
    """Measures and prints; 1 if a result was wrong or could not be had. Without a GPU, prints what is stored."""
    if runtime.INTERPRET:
        return show_stored(what)
    from benchmarks import calls, kernels, models, replaced, startup
    from benchmarks.session import Session, in_a_line

    run = results.circumstances()
    if what == "kernels":
        run["limits"] = kernels.measure_limits()
    session = Session(what, run, None if quick else results.RESULTS / runtime.gpu_name(), budget)
    if what == "kernels":
        cases = kernels.quick_cases() if quick else kernels.all_cases()
        kernels.run(session, [case for case in cases if named(case.cell, only)], providers)
    elif what == "replaced":
        cells = replaced.QUICK_CELLS if quick else replaced.CELLS
        replaced.run(session, [cell for cell in cells if named(cell, only)], providers)
    elif what == "models":
        cells = models.QUICK_CELLS if quick else models.CELLS
        models.run(session, [cell for cell in cells if named(cell, only)], providers, quick, compiled)
    elif what == "startup":
        startup.run(session, [cell for cell in startup.CELLS if named(cell, only)], providers)
    else:
        calls.run(session, [case for case in calls.CASES if named(case.cell, only)], providers)
    print(report.as_text(session.measured))
    if session.measured.rows:
        print(results.described(run) + "".join(f", {name} {value}" for name, value in run.get("limits", {}).items()))
    if session.folder and session.results.rows:
        plots()
    for key, error in session.errors.items():
        print(f"{in_a_line(key)}: {error}")
    return 1 if session.errors else 0


def prepare_models(
    folder: Path, providers: Collection[str], at_once: int | None, only: Collection[str] | None, budget: float
) -> int:
    """Compiles the models' peers: see `benchmarks.prepare`. 2 without a GPU."""
    if runtime.INTERPRET:
        print("prepare: no GPU here, nothing was compiled", file=sys.stderr)
        return 2
    from benchmarks import models, prepare

    cells = [cell for cell in models.CELLS if named(cell, only)]
    return prepare.run(prepare.jobs(cells, providers, folder), folder, at_once, budget)


def check_models() -> int:
    """Compares a few models with the stored figures: see `benchmarks.check`."""
    from benchmarks.check import check

    return check()


def named(cell: tuple, only: Collection[str] | None) -> bool:
    return not only or any(str(part) in only for part in cell)


def show_stored(what: str) -> int:
    stored = results.read(what)
    if not stored.rows:
        print(f"No GPU here, and no {what} were measured yet.")
        return 0
    print(report.as_text(stored))
    print(f"No GPU here, nothing was timed: these figures are from {stored.source(stored.rows)}.")
    return 0


def plots() -> int:
    from benchmarks.plots import draw_all

    for gpu in results.gpus():
        for file in draw_all(results.read("kernels", gpu), results.read("models", gpu), results.RESULTS / gpu):
            print(file.relative_to(results.ROOT))
    return 0


def readme() -> int:
    text = report.README.read_text()
    write_whole(report.README, report.readme_with(text, report.readme_block()))
    return 0


def posts() -> int:
    for file in sorted(POSTS.glob("*.md")):
        text = file.read_text()
        if (new := figures.refreshed(text)) != text:
            write_whole(file, new)
            print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
