"""Whether our models have become slower than the stored figures say.

Milliseconds depend on a GPU's clock, on its driver and on PyTorch, ours and a peer's alike. So what is compared is the
ratio of the two, measured in turn in one run, as CUDA graphs, beside the fastest peer that needs no torch.compile.
"""
import math
import sys
from collections.abc import Iterable, Sequence

from benchmarks import models
from benchmarks.compiled import is_compiled
from benchmarks.models import Cell
from benchmarks.session import Session, in_a_line
from course import results, runtime

TOLERATED = 0.05
"""By how much a ratio may exceed the stored one."""

CELLS = [
    Cell("vit-b16", "bf16", 1), Cell("vit-b16", "bf16", 16), Cell("resnet18", "fp16", 1), Cell("resnet18", "fp16", 16),
]


def check(cells: Sequence[Cell] = CELLS) -> int:
    """Measures `cells` and prints a line for each: our time / a peer's, the same of the stored figures, the change.

    0 if no ratio has grown by more than TOLERATED; 1 if one has, or could not be measured, or if a result was wrong; 2
    without a GPU, or without stored figures of this GPU, and then a line on stderr says so. Stores nothing.
    """
    if runtime.INTERPRET:
        print("check: no GPU here, nothing was measured", file=sys.stderr)
        return 2
    stored = results.read("models", runtime.gpu_name()).cells()
    peers = {cell: peer for cell in cells if (peer := peer_in_a_graph(stored.get(cell, [])))}
    if not peers:
        print(f"check: nothing is stored for {runtime.gpu_name()}, nothing was measured", file=sys.stderr)
        return 2
    session = Session("models", results.circumstances(), None, budget_s=math.inf)
    models.run(session, list(peers), {"course", *peers.values()})
    measured, failed = session.measured.cells(), bool(session.errors)
    for cell, peer in peers.items():
        now, before = ratio(measured.get(cell, []), peer), ratio(stored[cell], peer)
        change = now / before - 1
        slower = not change <= TOLERATED  # NaN, where one could not be measured, is no success
        failed |= slower
        print(f"{in_a_line(cell):19} ours / {peer}: {now:.3f}, stored {before:.3f}, change {change:+.1%}"
              + slower * f": more than {TOLERATED:+.0%}")
    print(results.described(session.run))
    return 1 if failed else 0


def peer_in_a_graph(rows: Iterable[dict]) -> str | None:
    """The fastest peer without torch.compile in a graph, in a cell that has ours in a graph as well."""
    rows = [row for row in rows if row["mode"] == "graph" and not is_compiled(row["provider"])]
    best = results.fastest(rows, results.is_peer)
    return best["provider"] if best and results.fastest(rows, results.is_ours) else None


def ratio(rows: Iterable[dict], peer: str) -> float:
    """Our time / the peer's, both in a graph; NaN if there is none of one of them."""
    ms = {row["provider"]: row["median_ms"] for row in rows if row["mode"] == "graph"}
    return ms.get("course", math.nan) / ms.get(peer, math.nan)
