"""PyTorch's idea of what a call may look like: its sample inputs of every operation (tests/kernels/opinfo.py)."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course import kernels
from tests.kernels.opinfo import NAMES, OWN

ROOT = Path(__file__).parents[2]


def test_every_public_operation_has_samples_or_is_our_own():
    assert not set(kernels.__all__) - {*NAMES.values(), *OWN}


def test_samples():
    pytest.importorskip("expecttest")  # PyTorch's tests import it, and PyTorch does not install it
    done = subprocess.run([sys.executable, "-m", "tests.kernels.opinfo"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    operations = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {operation["name"] for operation in operations} == set(NAMES.values()) & set(kernels.__all__)
    wrong = [line for operation in operations for line in operation["wrong"]]
    assert not wrong, f"{len(wrong)} samples:\n" + "\n".join(wrong[:20])
    assert all(operation["computed"] or operation["refused"] for operation in operations)
