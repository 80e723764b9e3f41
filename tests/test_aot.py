"""Every kernel and dtype compiles for GPUs that are not here, and some configuration fits each."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.stem for path in (ROOT / "tests" / "aot").glob("*.py")} - {"__init__", "compile"}
OTHERS = ["sm_80", "sm_100", "gfx942"]
KERNELS = ROOT / "course" / "kernels"
KERNEL = re.compile(r"^def (\w+_kernel)\(", re.MULTILINE)


def compile_for(target, *flags):
    done = subprocess.run(
        [sys.executable, "-m", "tests.aot.compile", target, *flags], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {case["case"].split()[0] for case in cases} == MODULES
    failed = [f"{case['case']}: {case['error']}" for case in cases if case["error"]]
    assert not failed, "\n".join(failed)
    return {kernel for case in cases for kernel in case["kernels"]}


def test_every_case_compiles():
    compiled = compile_for("sm_90", "--brief", "float16")  # whose kernels are bfloat16's
    written = {name for file in KERNELS.glob("*.py") for name in KERNEL.findall(file.read_text())}
    assert compiled == written


@pytest.mark.parametrize("target", OTHERS)
def test_every_kernel_and_dtype_compiles(target):
    compile_for(target, "--brief")


@pytest.mark.full
@pytest.mark.parametrize("target", OTHERS)
def test_every_case_compiles_for_the_others(target):
    compile_for(target)


@pytest.mark.full
def test_every_configuration_compiles():
    compile_for("sm_90", "--all")


def test_every_kernel_is_covered():
    kernels = {path.stem for path in KERNELS.glob("[a-z]*.py")}
    assert kernels == MODULES
