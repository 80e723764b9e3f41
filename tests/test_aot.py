"""Every kernel and dtype compiles for GPUs that are not here, and the first configuration fits each."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course import kernels

ROOT = Path(__file__).parents[1]
OTHERS = ["sm_80", "sm_100", "gfx942"]
LEARNERS = ["sm_75", "sm_86", "sm_89", "sm_120"]
"""A T4 and GeForces: less shared memory, and the first without bfloat16 or TF32."""
KERNELS = ROOT / "course" / "kernels"
CASES = ROOT / "tests" / "aot"
KERNEL = re.compile(r"^def (\w+_kernel)\(", re.MULTILINE)
MODULES = {f"{path.parent.name}.{path.stem}" for path in CASES.glob("*/*.py") if path.stem != "__init__"}


def compile_for(target, *flags):
    done = subprocess.run(
        [sys.executable, "-m", "tests.aot.compile", target, *flags], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {case["case"].split()[0] for case in cases} == ({"layers"} if "--layers" in flags else MODULES)
    failed = [f"{case['case']}: {case['error']}" for case in cases if case["error"]]
    assert not failed, "\n".join(failed)
    return {kernel for case in cases for kernel in case["kernels"]}


def written() -> list[str]:
    """Every kernel of the package, as "family.file.kernel"."""
    return [
        f"{file.parent.name}.{file.stem}.{name}"
        for file in sorted(KERNELS.glob("*/*.py")) for name in KERNEL.findall(file.read_text())
    ]


def test_every_case_compiles():
    compiled = compile_for("sm_90", "--brief", "float16")  # whose kernels are bfloat16's
    assert compiled == set(written())


def test_names_of_kernels_are_unique():
    """A profile shows a kernel's name and not its file."""
    names = [kernel.rpartition(".")[2] for kernel in written()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("target", OTHERS)
def test_every_kernel_and_dtype_compiles(target):
    compile_for(target, "--brief")


@pytest.mark.parametrize("target", LEARNERS)
def test_every_kernel_compiles_for_learners(target):
    compile_for(target, "--brief", "--dtypes", "float16")


@pytest.mark.parametrize("target", ["sm_75", "sm_86"])  # the least shared memory, and the fewest multiprocessors
def test_every_fourth_layer_fits(target):
    compile_for(target, "--layers", "4", "--dtypes", "float16")


@pytest.mark.full
@pytest.mark.parametrize("target", [*OTHERS, *LEARNERS])
def test_every_case_compiles_for_the_others(target):
    compile_for(target)


@pytest.mark.full
@pytest.mark.parametrize("target", ["sm_90", *OTHERS, *LEARNERS])
def test_every_layer_fits(target):
    compile_for(target, "--layers")


@pytest.mark.full
def test_every_configuration_compiles():
    compile_for("sm_90", "--all")


def test_every_operation_is_covered():
    """Each public operation has cases of its own, or stands beside one that has them."""
    operations = {getattr(kernels, name).__module__.removeprefix("course.kernels.") for name in kernels.__all__}
    assert operations == MODULES
