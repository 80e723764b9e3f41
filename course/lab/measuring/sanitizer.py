"""`sanitize`: a program under NVIDIA's compute-sanitizer, or what it reported on the maintainers' GPU."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from course.lab.measuring.stored import show
from course.lab.pictures.markdown import Markdown
from course.results import circumstances, described

SECONDS = 300

SHOWN = 12
"""Lines of a long report that a notebook shows: the same line of the kernel is reported for every thread."""


def sanitize(name: str, program: str, tool: str = "memcheck") -> Markdown:
    """What compute-sanitizer's `tool` says of `program`, the text of a Python file that is run in a process of its own.

    PyTorch is told to ask CUDA for each tensor, instead of cutting tensors out of larger pieces of memory, in which the
    sanitizer does not see them. Without a GPU, or without the sanitizer, the report stored under `name` is shown.
    """
    sanitizer = find_sanitizer()
    lacking = "" if sanitizer else "No compute-sanitizer here (it comes with the CUDA toolkit)"

    def measure():
        return {**circumstances(), "report": run([sanitizer, "--tool", tool], program)}

    return show(name, measure, draw_report, lacking)


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is: on the path, in a CUDA toolkit, or in the wheel nvidia-cuda-sanitizer-api."""
    packages = Path(torch.__file__).parents[1]
    found = [*Path("/usr/local").glob("cuda*/bin/compute-sanitizer"), *packages.glob("nvidia/*/bin/compute-sanitizer")]
    return shutil.which("compute-sanitizer") or next(map(str, found), None)


def run(command: list[str], program: str) -> list[str]:
    """The lines that compute-sanitizer, and not the program, wrote."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8")
        command = [*command, "--show-backtrace", "no", "--target-processes", "application-only", sys.executable, file]
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=SECONDS)
    return [line for line in done.stdout.splitlines() if line.startswith("=========")]


def draw_report(result: dict, origin: str) -> Markdown:
    lines = result["report"]
    if len(lines) > 2 * SHOWN:
        lines = [*lines[:SHOWN], f"… {len(lines) - SHOWN - 2} more lines", *lines[-2:]]
    report = "\n".join(lines)
    return Markdown(f"```text\n{report}\n```\n\n{origin} {described(result)}.")
