"""`bench`: times functions side by side on a GPU, or shows what was stored."""
import functools
from collections.abc import Callable, Mapping, Sequence

import torch

from course.lab.measuring.speed import copy_bandwidth, matmul_rate
from course.lab.measuring.stored import show
from course.lab.pictures.drawing import bars, caption, curve, legend, style_axes
from course.lab.pictures.markdown import Markdown
from course.lab.pictures.palette import CARD, INK
from course.lab.pictures.picture import WIDTH, Picture
from course.precision import matmul_precision
from course.results import circumstances, described, hardware_of
from course.timing import footprint, time_in_turn


def bench(
    name: str,
    functions: Mapping[str, Callable[..., torch.Tensor]],
    inputs: Callable[[int], tuple],
    sizes: Sequence[int],
    *,
    axis: str = "elements",
    operations: Callable[..., int] | None = None,
    atol: float = 1e-3,
) -> Picture | Markdown:
    """Times every function on `inputs(size)` for each of `sizes`, and plots GB/s against the copy bandwidth.

    With `operations`, which counts those of one call from the same inputs (a multiplication and an addition are two),
    it plots TFLOP/s instead, against a large matrix product in the dtype of the first tensor. Both limits are those
    that are stored of this GPU in hardware.json, so that every plot has the same; of another GPU they are measured.

    The results are compared before they are timed; AssertionError where they differ by more than 2 % of themselves and,
    whichever is more, `atol` or 2 % of their mean: in half precision they may be rounded at other places. The
    bytes are those of the tensors that go in and come out, each moved once. Without a GPU nothing is timed: the result
    stored under `name` in benchmarks/results is shown, with where it is from. COURSE_STORE=1 in the environment
    stores a new one.
    """
    return show(name, lambda: measured_rates(name, functions, inputs, sizes, axis, operations, atol), plot)


def measured_rates(name, functions, inputs, sizes, axis, operations, atol) -> dict:
    rows, limit = [], {}
    for size in sizes:
        torch.compiler.reset()  # so that torch.compile specialises for each size, as it does for the only one
        args = inputs(size)
        results = [function(*args) for function in functions.values()]
        most = max(atol, 2e-2 * results[0].float().abs().mean().item())
        for provider, got in zip(functions, results):
            torch.testing.assert_close(got, results[0], rtol=2e-2, atol=most, msg=f"bench: {provider} differs, {size=}")
        tensors = [a for a in args if torch.is_tensor(a)]
        moved = footprint(*tensors, results[0])
        if operations:
            limit = {"matmul_tflops": matmul_rate(tensors[0].dtype), "product": product_kind(tensors[0].dtype)}
        calls = {provider: functools.partial(function, *args) for provider, function in functions.items()}
        for provider, (median, q20, q80) in time_in_turn(calls, cold=True, budget_s=0.5).items():
            row = {"provider": provider, "size": size, "median_ms": median, "q20_ms": q20, "q80_ms": q80,
                   "gbps": moved / median / 1e6}
            rows.append(row | {"tflops": operations(*args) / median / 1e9} if operations else row)
    return {"name": name, "axis": axis, **circumstances(), "copy_gbps": copy_bandwidth(), **limit, "rows": rows}


def product_kind(dtype: torch.dtype) -> str:
    """Of a large matrix product with operands in `dtype`, whose figure in hardware.json is its limit. The tensor cores
    have one rate for both formats of 16 bits."""
    if dtype != torch.float32:
        return "bf16"
    return "tf32" if matmul_precision(dtype) == "tf32" else "fp32"


def in_digits(rate: float) -> str:
    """Without decimals, but two digits of what is below 10: 1,024; 57; 3.6; 0.4."""
    return f"{rate:,.0f}" if rate >= 9.5 else f"{rate:.2g}"


def plot(result: dict, origin: str) -> Picture:
    """The rate over size, a line a provider, or bars where there is one size; the limit dashed, unless it is so far
    away that it would leave them no room: then it is named."""
    rows, stored = result["rows"], hardware_of(result)
    if "matmul_tflops" in result:
        rate, unit, limited = "tflops", "TFLOP/s", "a large matrix product"
        limit = stored.get(f"matmul_{result['product']}_tflops", result["matmul_tflops"])
    else:
        rate, unit, limited = "gbps", "GB/s", "copying"
        limit = stored.get("copy_gbps", result["copy_gbps"])
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    sizes = sorted({row["size"] for row in rows})
    source = f"{origin} {described(result)}; medians."
    table = [f"{row['provider']}, {size_label(row['size'], result['axis'])}: "
             f"{row['median_ms']:.4f} ms, {in_digits(row[rate])} {unit}" for row in rows]
    alt = "\n".join([*table, f"{limited.capitalize()}: {limit:,.0f} {unit}.", source])
    most = max(row[rate] for row in rows)
    far = limit > 4 * most
    one_size = len(sizes) == 1
    height = 1.5 + 0.42 * len(providers) if one_size else 4.2
    figure = Picture(WIDTH, height, alt)
    left = max(0.22, 0.04 + 0.0076 * max(map(len, providers))) if one_size else 0.09
    axes = figure.add_axes((left, 0.95 / height, 0.96 - left, 1 - 1.3 / height))
    if one_size:
        room = most if far else max(most, limit)
        bars(axes, {row["provider"]: row[rate] for row in rows})
        for i, row in enumerate(rows):
            axes.text(row[rate] + room * 0.01, i, in_digits(row[rate]), va="center", color=INK, fontsize=9,
                      bbox=dict(facecolor=CARD, edgecolor="none", pad=0.5))
        axes.set_xlim(0, 1.12 * room)
        if not far:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1)
        axes.set_xlabel(f"{unit} ({limited}: {limit:,.0f})" if far else f"{unit} (dashed: {limited})")
    else:
        for i, provider in enumerate(providers):
            mine = [row for row in rows if row["provider"] == provider]
            curve(axes, [row["size"] for row in mine], [row[rate] for row in mine], i, provider)
        if far:
            axes.plot([], [], color=INK, linestyle="--", linewidth=1, label=f"{limited}, far above: {limit:,.0f}")
        else:
            axes.axhline(limit, color=INK, linestyle="--", linewidth=1, label=limited)
        axes.set_xscale("log", base=2)
        if max(sizes) <= 1024:
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(xlabel=result["axis"], ylabel=unit)
        legend(axes, fontsize=9)
    style_axes(axes)
    caption(figure, source)
    return figure


def size_label(size: int, axis: str) -> str:
    """A noun in the plural stands after its number, `64 images`; any other name before it, `BLOCK 64`."""
    first = axis.split()[0]
    return f"{size:,} {axis}" if first.endswith("s") and "_" not in first else f"{axis} {size:,}"
