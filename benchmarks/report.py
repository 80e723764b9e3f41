"""The results as text: for a terminal, and the table in README.md between its two markers."""
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import geometric_mean

from benchmarks import startup
from course.results import ROOT, Race, Results, fastest, is_ours, is_peer, median, read, table

README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: written by `python -m benchmarks readme` -->", "<!-- end of benchmarks -->"

HEADLINE_GPU = "nvidia-h200"
BATCHES = (1, 8, 16, 64, 256)
MODELS = {
    ("vit-b16", "bf16"): "ViT-B/16, bf16",
    ("resnet18", "fp16"): "ResNet-18, fp16",
    ("resnet18", "tf32"): "ResNet-18, TF32",
}
BIG_MIB = 64
MOVERS = (
    "add", "mul", "relu", "gelu", "softmax", "layer_norm", "batch_norm", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d",
)
"""The kernels that only move bytes."""

GROUPS = (
    ("matmul, and ViT-B/16's linear layers", "cuBLAS", ("matmul", "linear")),
    ("linear + GELU, linear + residual", "cuBLAS and the separate operation", ("linear_gelu", "linear_residual")),
    ("ResNet-18's convolutions, bare", "cuDNN", ("conv2d",)),
    ("ResNeXt-50's in groups, bare", "cuDNN", ("conv2d_grouped",)),
    ("depthwise ones of MobileNetV2, EfficientNet-B0 and ConvNeXt, bare", "cuDNN", ("conv2d_depthwise",)),
    ("conv2d + batch norm + residual + ReLU", "cuDNN and the separate operations", ("conv2d_norm_add_relu",)),
    ("attention, heads of 64, no mask: 197 and 1,024 tokens", "the fastest SDPA backend", ("attention",)),
    ("attention, heads of 128, causal or masked: 1,024 and 4,096 tokens", "the fastest SDPA backend",
     ("attention_wide", "attention_causal", "attention_masked")),
)
"""Lines of README's table: title, peer, kernels. What is in none of them has a line of its own."""

NOTHING = "No measurements are stored yet."


def as_text(results: Results) -> str:
    """A line a cell: ours, the best peer, and how they compare; of `startup`, a line a row."""
    texts = {
        "models": models_text, "kernels": kernels_text, "replaced": replaced_text, "startup": startup_text,
        "calls": calls_text,
    }
    return texts[results.what](results)


def models_text(results: Results) -> str:
    lines, races = [], results.races()
    for cell, rows in results.cells().items():
        ours, theirs = ([r["peak_mib"] for r in rows if wanted(r)] for wanted in (of_ours, called_as_it_is))
        times = ms(find(rows, "course", "eager")), ms(find(rows, "course", "graph"))
        ratio = f"{races[cell].ratio:.2f}" if cell in races else ""
        memory = (f"{min(mib):.0f}" if mib else "" for mib in (ours, theirs))
        lines.append((*cell, *times, *peer(fastest(rows, is_peer)), ratio, *memory))
    header = ("model", "dtype", "batch", "ours ms", "in a graph", "best peer", "ms", "ratio", "our MiB", "eager MiB")
    return table(header, lines)


def of_ours(row: dict) -> bool:
    return is_ours(row["provider"])


def called_as_it_is(row: dict) -> bool:
    """A peer without torch.compile and without a graph."""
    return is_peer(row["provider"]) and not row["provider"].endswith("-compile") and row["mode"] == "eager"


def kernels_text(results: Results) -> str:
    lines, races = [], results.races()
    for cell, rows in results.cells().items():
        ours = find(rows, "course")
        figures = (f"{ours['gbps']:.0f}", f"{ours['tflops']:.1f}", f"{limit_share(ours):.0%}") if ours else ("",) * 3
        ratio = f"{races[cell].ratio:.2f}" if cell in races else ""
        lines.append((*cell, ms(ours), *figures, *peer(fastest(rows, is_peer)), ratio))
    header = ("kernel", "shape", "dtype", "ours ms", "GB/s", "TFLOP/s", "of limit", "best peer", "ms", "ratio")
    return table(header, lines)


def startup_text(results: Results) -> str:
    lines = [(*results.key(row), f"{row['seconds']:.1f}", f"{row['cpu_s']:.0f}", ms(row)) for row in results.rows]
    return table(("model", "dtype", "batch", "provider", "seconds", "CPU seconds", "then ms"), lines)


def calls_text(results: Results) -> str:
    lines, races = [], results.races()
    for cell, rows in results.cells().items():
        theirs = fastest(rows, is_peer)
        ratio = f"{races[cell].ratio:.2f}" if cell in races else ""
        ours, plain, peers = map(us, (find(rows, "course"), find(rows, "course-plain"), theirs))
        lines.append((*cell, ours, plain, theirs["provider"] if theirs else "", peers, ratio))
    return table(("kernel", "shape", "dtype", "ours µs", "our model µs", "peer", "µs", "ratio"), lines)


def replaced_text(results: Results) -> str:
    lines, races = [], results.races()
    for cell, rows in results.cells().items():
        times = {(row["provider"], row["layout"]): ms(row) for row in rows}
        by_layout = (
            times.get((provider, layout), "") for layout in ("contiguous", "channels_last")
            for provider in ("course", "torch")
        )
        race = races.get(cell)
        lowest = f"{race.best['q20_ms'] / race.ours['q80_ms']:.2f}" if race else ""
        lines.append((*cell, *by_layout, f"{race.ratio:.2f}" if race else "", lowest))
    header = ("model", "batch", "ours NCHW ms", "torch", "ours channels_last", "torch", "best ratio", "q20 / q80")
    return table(header, lines)


def find(rows: Iterable[dict], provider: str, mode: str | None = None) -> dict | None:
    return next((row for row in rows if row["provider"] == provider and row.get("mode") == mode), None)


def peer(row: dict | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    return row["provider"] + (f" ({row['mode']})" if "mode" in row else ""), ms(row)


def ms(row: dict | None) -> str:
    return f"{row['median_ms']:.3g}" if row else ""


def us(row: dict | None) -> str:
    """A row's time in microseconds."""
    if row is None:
        return ""
    time = 1e3 * median(row)
    return f"{time:.1f}" if time < 100 else f"{time:,.0f}"


def limit_share(row: dict) -> float:
    """How much of the hardware's limit a kernel reaches."""
    return row["limit_ms"] / row["median_ms"]


def readme_block(root: Path | None = None) -> str:
    """What stands between the markers in README.md for the results stored under `root`."""
    models, kernels, starts, calls = (
        read(what, HEADLINE_GPU, root) for what in ("models", "kernels", "startup", "calls")
    )
    parts = [models_table(models)] if models.races() else []
    parts += [kernels_table(kernels)] if kernels.races() else []
    parts += [startup_table(starts)] if starts.rows else []
    parts += [calls_table(calls)] if calls.races() else []
    return "\n\n".join(parts) or NOTHING


def models_table(models: Results) -> str:
    """Ratio and milliseconds of each model and batch size; marks say where a comparison is not all it should be.

    A ratio is in bold where the best peer ran compiled as well: where it did not, a better one might have won.
    """
    races, cells = models.races(), models.cells()
    lines = [
        "| best peer's time ÷ ours (ours) | " + " | ".join(f"B={batch}" for batch in BATCHES) + " |",
        "|---|" + "---|" * len(BATCHES),
    ]
    marks = set()
    for (model, dtype), title in MODELS.items():
        shown = []
        for batch in BATCHES:
            cell = model, dtype, batch
            if race := races.get(cell):
                compiled = ran_compiled(race, cells[cell])
                mark = "" if race.one_run else "†"
                mark += "" if compiled else "‡"
                marks |= set(mark)
                ratio = f"**{race.ratio:.2f}**" if compiled else f"{race.ratio:.2f}"
                shown.append(f"{ratio}{mark} ({ms(race.ours)} ms)")
            else:
                shown.append("–")
        lines.append(f"| {title} | {' | '.join(shown)} |")
    exceptions = {
        "†": "† the peer ran at another time. ",
        "‡": "‡ the best peer has not run compiled here, and might then be faster. ",
    }
    note = (
        "Medians; the peer is the fastest of transformers, timm and torchvision, called as they are, through "
        "`torch.compile` in max-autotune and inside CUDA graphs, in turn with ours in one process. "
        + slower_in_a_graph(models) + "".join(text for mark, text in exceptions.items() if mark in marks)
        + f"{models.source(models.rows)}."
    )
    return "\n".join([*lines, "", note])


def ran_compiled(race: Race, rows: Iterable[dict]) -> bool:
    """Whether the best peer of a race ran through torch.compile too, in the same cell, whose rows are `rows`."""
    name = race.best["provider"].removesuffix("-compile")
    return any(row["provider"] == f"{name}-compile" for row in rows)


def slower_in_a_graph(models: Results) -> str:
    """A sentence on the peer whose graph loses most against its call, where one does: while a graph is captured, a
    model may take another path, and only the faster of the two is a fair peer."""
    lost = {}
    for (model, dtype, batch), rows in models.cells().items():
        for row in rows:
            graph = find(rows, row["provider"], "graph")
            if is_peer(row["provider"]) and row["mode"] == "eager" and graph and median(graph) > 1.1 * median(row):
                images = f"{batch} image{'s' * (batch > 1)} of {MODELS.get((model, dtype), model)}"
                lost[median(graph) / median(row)] = (
                    f"Captured in a graph, {row['provider']} takes another path than when it is called, and a slower "
                    f"one ({ms(graph)} against {ms(row)} ms with {images}): each peer's faster form counts. "
                )
    return lost[max(lost)] if lost else ""


def kernels_table(kernels: Results) -> str:
    """Geometric mean and worst case of each group of kernels."""
    lines = ["| kernels | against | geometric mean | lowest |", "|---|---|---|---|"]
    races = kernels.races()

    def line(title: str, against: str, ratio: Callable[[dict, float], float], wanted: Callable[[dict], bool]):
        found = [ratio(race.ours, race.ratio) for race in races.values() if wanted(race.ours)]
        if found:
            lines.append(f"| {title} | {against} | {geometric_mean(found):.2f} | {min(found):.2f} |")

    def by_time(row, ratio):
        return ratio

    movers = [name for name in MOVERS if any(cell[0] == name for cell in races)]
    compiled = any(row["provider"] == "inductor" for row in kernels.rows)
    line(f"{', '.join(movers)}: {BIG_MIB} MiB or more", "the copy bandwidth", lambda row, _: limit_share(row),
         lambda row: row["kernel"] in movers and moved_mib(row) >= BIG_MIB)
    line("the same, every size", "the better of ATen and Inductor" if compiled else "ATen", by_time,
         lambda row: row["kernel"] in movers)
    grouped = {name for *_, names in GROUPS for name in names}
    others = dict.fromkeys(kernel for kernel, *_ in races if kernel not in grouped and kernel not in MOVERS)
    for title, against, names in (*GROUPS, *((name, peers_of(kernels, name), (name,)) for name in others)):
        line(title, against, by_time, lambda row, names=names: row["kernel"] in names)
    apart = sum(not race.one_run for race in races.values())
    note = f" In {apart} of {len(races)} cases the best peer was measured at another time." if apart else ""
    return "\n".join([*lines, "", f"Above 1, ours is faster.{note} {kernels.source(kernels.rows)}."])


def peers_of(kernels: Results, kernel: str) -> str:
    """All that raced against ours on a kernel."""
    return ", ".join(dict.fromkeys(
        row["provider"] for row in kernels.rows if row["kernel"] == kernel and is_peer(row["provider"])
    ))


def startup_table(starts: Results) -> str:
    """A line for each model and first batch size: what a first call takes, and how fast the model is then."""
    cells = starts.cells()
    lines = [
        "| from a loaded model to its first logits | ours | the speed then, of fully tuned | full tuning, CPU time "
        "| another batch size | `torch.compile` | max-autotune |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, dtype, batch), rows in cells.items():
        first, tuned = find(rows, "course"), find(rows, "course-tuned")
        if first is None:
            continue
        other = find(cells.get((model, dtype, startup.NEXT[batch]), ()), "course-next")
        lines.append("| " + " | ".join((
            f"{startup.TITLES[model]}, {dtype}, B={batch}",
            seconds(first),
            f"{median(tuned) / median(first):.2f}" if tuned else "–",
            f"{seconds(tuned)}, {tuned['cpu_s']:.0f} s" if tuned else "–",
            f"{seconds(other)} (B={startup.NEXT[batch]})" if other else "–",
            seconds(find(rows, "torch-compile")), seconds(find(rows, "torch-max-autotune")),
        )) + " |")
    note = "No choice stored and every cache empty, kernels are compiled meanwhile; each in a process of its own"
    return "\n".join([*lines, "", f"{note}. {starts.source(starts.rows)}."])


def seconds(row: dict | None) -> str:
    return f"{row['seconds']:.1f} s" if row else "–"


def calls_table(calls: Results) -> str:
    """A line for each operation and model: what a call costs, ours and a peer's."""
    lines = ["| a call, µs | ours | PyTorch |", "|---|---|---|"]
    for (kernel, shape, dtype), race in calls.races().items():
        lines.append(f"| {startup.TITLES.get(kernel, kernel)}, {shape}, {dtype} | {us(race.ours)} | {us(race.best)} |")
    note = (
        "Medians, without gradients and without a graph: of an operation, the CPU's time; of a model, what a user "
        "waits for, with its layers replaced and as timm and torchvision have it"
    )
    return "\n".join([*lines, "", f"{note}. {calls.source(calls.rows)}."])


def moved_mib(row: dict) -> float:
    """MiB read and written, which a row says by its rate and its time."""
    return row["gbps"] * row["median_ms"] * 1e6 / 2**20


def readme_with(text: str, block: str) -> str:
    """A README's text with another block. Raises ValueError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected a line {BEGIN} and, below it, a line {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"
