"""python -m benchmarks kernels | models | replaced | plots | readme | posts

    python -m benchmarks models --providers peers --budget 540    # the peers, as many as fit in nine minutes
    python -m benchmarks models --providers best                  # then ours and each cell's best peer, side by side
    python -m benchmarks models --check                           # have ours become slower than the stored figures say?
"""
import argparse
import sys
from collections.abc import Collection

from benchmarks import figures, report
from course import results, runtime
from course.files import write_whole

POSTS = results.ROOT / "posts"


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures, and shows what was measured.")
    commands = top.add_subparsers(required=True, dest="command", metavar="command")
    for what in ("kernels", "models", "replaced"):
        sub = commands.add_parser(what, help=f"measure {what} beside their peers, and store the results")
        how = sub.add_mutually_exclusive_group()
        how.add_argument("--quick", action="store_true", help="few sizes, nothing compiled for long, nothing stored")
        if what == "models":
            how.add_argument("--check", action="store_true", help="compare a few, beside peers in a CUDA graph, with "
                             "this GPU's stored figures: 1 where ours became 5 %% slower relative to the peer, 2 "
                             "without a GPU or such figures; nothing stored")
        sub.add_argument("--providers", nargs="+", default=["all"], metavar="NAME", help="who races: providers by "
                         "name; all; the peers; or best, ours beside the best peer stored (default: all)")
        sub.add_argument("--only", nargs="+", metavar="NAME", help=f"{what} of these names, dtypes or sizes alone")
        sub.add_argument("--budget", type=float, default=float("inf"), metavar="S", help="seconds after which nothing "
                         "more is begun (default: no limit)")
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
    if options.pop("check", False):
        return check_models()
    return measure(command, **options)


def measure(
    what: str, quick: bool = False, providers: Collection[str] = ("all",), only: Collection[str] | None = None,
    budget: float = float("inf"),
) -> int:
    """Measures and prints; 1 if a result was wrong or could not be had. Without a GPU, prints what is stored."""
    if runtime.INTERPRET:
        return show_stored(what)
    from benchmarks import kernels, models, replaced
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
    else:
        cells = models.QUICK_CELLS if quick else models.CELLS
        models.run(session, [cell for cell in cells if named(cell, only)], providers, compiled=not quick)
    print(report.as_text(session.measured))
    if session.measured.rows:
        print(results.described(run) + "".join(f", {name} {value}" for name, value in run.get("limits", {}).items()))
    if session.folder and session.results.rows:
        plots()
    for key, error in session.errors.items():
        print(f"{in_a_line(key)}: {error}")
    return 1 if session.errors else 0


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
