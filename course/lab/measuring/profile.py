"""`profile`: which kernels a call launches, when each runs, and when the CPU launched it."""
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from course.lab.measuring.stored import show
from course.lab.pictures.drawing import caption
from course.lab.pictures.markdown import Markdown
from course.lab.pictures.picture import Picture
from course.lab.pictures.timeline import draw_timeline
from course.results import circumstances, described

ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
ON_CPU = {"cuda_runtime", "cuda_driver"}
"""The categories of torch.profiler's events: work of the GPU, and calls of CUDA."""


def profile(name: str, calls: Callable[[], Mapping[str, Callable[[], object]]]) -> Picture | Markdown:
    """Draws each function that `calls` returns as torch.profiler sees it: launches on the CPU, kernels on the GPU.

    `calls` runs on a GPU only; its functions are called a few times first, and the quickest of five recordings is
    drawn, since others may be using the GPU. Without a GPU the timeline stored under `name` in benchmarks/results is
    drawn; COURSE_STORE=1 in the environment stores a new one. The profiler itself slows the CPU down.
    """

    def measure():
        return {**circumstances(), "ways": {way: quickest(call) for way, call in calls().items()}}

    return show(name, measure, draw_profile)


def quickest(call: Callable[[], object]) -> dict[str, list[list]]:
    recordings = [lanes(recorded(call)) for _ in range(5)]
    return min(recordings, key=lambda recording: max(start + duration for start, duration, _ in recording["GPU"]))


def recorded(call: Callable[[], object]) -> list[dict]:
    """The events of one call of `call`, as torch.profiler exports them."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        call()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return json.loads(file.read_text(encoding="utf-8"))["traceEvents"]


def lanes(events: list[dict]) -> dict[str, list[list]]:
    """[start, duration, name] of each launch and each kernel, in microseconds since the first of them."""
    launches = [e for e in events if e.get("cat") in ON_CPU and "Launch" in e["name"]]
    kernels = [e for e in events if e.get("cat") in ON_GPU]
    if not kernels:
        raise RuntimeError("profile: the profiler saw nothing run on the GPU")
    first = min(e["ts"] for e in [*launches, *kernels])

    def boxes(found, name):
        return [[round(e["ts"] - first, 3), e["dur"], name(e["name"])] for e in sorted(found, key=lambda e: e["ts"])]

    return {"CPU": boxes(launches, lambda _: "launch"), "GPU": boxes(kernels, short)}


def short(kernel: str) -> str:
    """A kernel's name without what C++ puts around it."""
    kernel = re.sub(r"\(anonymous namespace\)::|<unnamed>::", "", kernel.removeprefix("void "))
    return re.sub(r"[<(].*", "", kernel).rpartition("::")[2].strip()[:40]


def draw_profile(result: dict, origin: str) -> Picture:
    figure = draw_timeline(result["ways"], below=0.3)
    source = f"{origin} {described(result)}."
    figure.alt += f"\n{source}"
    caption(figure, source)
    return figure
