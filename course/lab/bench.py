"""`bench`: times functions side by side on a GPU, or shows what the maintainers' GPU gave."""
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence

import torch

from course.lab.display import CARD, COLOURS, FAINT, INK, Markdown, Picture
from course.lab.speed import copy_bandwidth
from course.results import RESULTS, circumstances, described, write_whole
from course.runtime import INTERPRET, gpu_name
from course.timing import footprint, time_in_turn


def bench(
    name: str,
    functions: Mapping[str, Callable[..., torch.Tensor]],
    inputs: Callable[[int], tuple],
    sizes: Sequence[int],
    *,
    axis: str = "elements",
) -> Picture | Markdown:
    """Times every function on `inputs(size)` for each of `sizes`, and plots GB/s against the copy bandwidth.

    The results are compared before they are timed; AssertionError where they differ. The bytes are those of the tensors
    that go in and come out, each moved once. Without a GPU nothing is timed: the result stored under `name`
    in benchmarks/results is shown, and says where it is from. COURSE_STORE=1 in the environment stores a new one.
    """
    if INTERPRET:
        stored = sorted(RESULTS.glob(f"*/notebooks/{name}.json"))
        if not stored:
            return Markdown(f"*Nothing is timed in the interpreter, and no result is stored for `{name}` yet.*")
        return plot(json.loads(stored[0].read_text()), "No GPU here: this is the stored result of the")
    result = measure(name, functions, inputs, sizes, axis)
    if os.environ.get("COURSE_STORE") == "1":
        write_whole(RESULTS / gpu_name() / "notebooks" / f"{name}.json", json.dumps(result, indent=1) + "\n")
    return plot(result, "Measured on this")


def measure(name, functions, inputs, sizes, axis) -> dict:
    rows = []
    for size in sizes:
        torch.compiler.reset()  # so that torch.compile specialises for each size, as it does for the only one
        args = inputs(size)
        results = [function(*args) for function in functions.values()]
        for provider, got in zip(functions, results):
            torch.testing.assert_close(got, results[0], rtol=1e-2, atol=1e-3, msg=f"bench: {provider} differs, {size=}")
        moved = footprint(*(a for a in args if torch.is_tensor(a)), results[0])
        calls = {provider: functools.partial(function, *args) for provider, function in functions.items()}
        for provider, (median, q20, q80) in time_in_turn(calls, cold=True, budget_s=0.5).items():
            rows.append({"provider": provider, "size": size, "median_ms": median, "q20_ms": q20, "q80_ms": q80,
                         "gbps": moved / median / 1e6})  # fmt: skip
    return {"name": name, "axis": axis, **circumstances(), "copy_gbps": copy_bandwidth(), "rows": rows}


def plot(result: dict, origin: str) -> Picture:
    """GB/s over size, a line a provider, or bars where there is one size; the limit dashed."""
    rows, limit = result["rows"], result["copy_gbps"]
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    sizes = sorted({row["size"] for row in rows})
    source = f"{origin} {described(result)}; medians."
    table = [f"{row['provider']}, {row['size']:,} {result['axis']}: {row['median_ms']:.4f} ms, {row['gbps']:,.0f} GB/s"
             for row in rows]  # fmt: skip
    alt = "\n".join([*table, f"Copying: {limit:,.0f} GB/s.", source])
    bars = len(sizes) == 1
    height = 1.5 + 0.42 * len(providers) if bars else 4.2
    figure = Picture(9.0, height, alt)
    left = 0.22 if bars else 0.09
    axes = figure.add_axes((left, 0.95 / height, 0.96 - left, 1 - 1.3 / height), facecolor=CARD)
    if bars:
        for i, row in enumerate(rows):
            axes.barh(i, row["gbps"], color=COLOURS[i % len(COLOURS)], edgecolor=INK, linewidth=0.6)
            axes.text(row["gbps"] + limit * 0.01, i, f"{row['gbps']:,.0f}", va="center", color=INK, fontsize=9,
                      bbox=dict(facecolor=CARD, edgecolor="none", pad=0.5))  # fmt: skip
        axes.set_yticks(range(len(providers)), providers)
        axes.invert_yaxis()
        axes.set_xlim(0, limit * 1.12)
        axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        axes.set_xlabel("GB/s (dashed: copying)", color=INK)
    else:
        for i, provider in enumerate(providers):
            mine = [row for row in rows if row["provider"] == provider]
            x, y = [row["size"] for row in mine], [row["gbps"] for row in mine]
            axes.plot(x, y, color=INK, linewidth=2.8)  # an outline, so that light colours stand out
            axes.plot(x, y, "osD^vP*X"[i % 8] + "-", color=COLOURS[i % len(COLOURS)], linewidth=1.8, markersize=6.5,
                      markeredgecolor=INK, markeredgewidth=0.7, label=provider)  # fmt: skip
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1, label="copying")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(result["axis"], color=INK)
        axes.set_ylabel("GB/s", color=INK)
        axes.legend(facecolor=CARD, edgecolor=FAINT, labelcolor=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.02, 0.12 / height, source, color=INK, fontsize=7.5)
    return figure
