import subprocess
import sys
import types

import pytest
import torch

from course import runtime
from course.__main__ import main
from course.commands import doctor
from course.runtime import INTERPRET


def test_this_machine(capsys):
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert code == ("→" in out)  # something to repair, a missing package for instance
    assert "is right" in out and ("interpreter" if INTERPRET else "on the GPU") in out


@pytest.mark.parametrize("error, words", [(None, "a first kernel failed: "), (AssertionError(), "AssertionError\n")])
def test_a_machine_where_nothing_runs(error, words, monkeypatch, capsys):
    def fail(x, y):
        raise error

    if error is None:
        monkeypatch.setattr(runtime, "DEVICE", torch.device("cuda:99"))
    else:
        monkeypatch.setattr(doctor, "add", fail)
    assert main(["doctor"]) == 1
    assert words in capsys.readouterr().out


def test_no_gpu_and_no_interpreter(monkeypatch, capsys):
    """TRITON_INTERPRET=0 on a machine without a GPU: nothing runs, and nothing says that it does."""
    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(runtime, "DEVICE", torch.device("cuda:127"))  # which no machine has
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(doctor, "add", lambda x, y: pytest.fail("launched"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "TRITON_INTERPRET=0 is set" in out and "→ unset TRITON_INTERPRET" in out
    assert "kernels run on the CPU" not in out and "is right" not in out


def report(capability, monkeypatch, capsys):
    """What the doctor says of a GPU of this compute capability, and its exit code."""
    properties = types.SimpleNamespace(name="NVIDIA GPU", multi_processor_count=40, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(runtime, "capability", lambda: capability)
    monkeypatch.setattr(doctor, "PACKAGES", ("torch",))
    monkeypatch.setattr(doctor, "add", torch.add)
    monkeypatch.setenv("CC", sys.executable)
    code = main(["doctor"])
    return capsys.readouterr().out, code


@pytest.mark.parametrize("capability, kib, without", [
    ((7, 5), 64, ["bfloat16", "TF32", "products on tensor cores", "FP8", "TMA", "wgmma"]),
    ((8, 0), 163, ["FP8", "TMA", "wgmma"]),
    ((8, 6), 99, ["FP8", "TMA", "wgmma"]),
    ((8, 9), 99, ["TMA", "wgmma"]),
    ((9, 0), 227, []),
    ((10, 0), 227, ["wgmma"]),
    ((12, 0), 99, ["tensor cores that TMA feeds", "wgmma"]),
])
def test_what_a_gpu_lacks(capability, kib, without, monkeypatch, capsys):
    out, code = report(capability, monkeypatch, capsys)
    assert "{}.{}, with {} KiB".format(*capability, kib) in out
    lines = (line for line in out.splitlines() if line.startswith("- without"))
    assert [line.split(None, 2)[2].split(",")[0] for line in lines] == without
    assert code == 0 and "→" not in out, "nothing that could be repaired"
    assert "products on tensor cores, in Triton since 8.0: right, and slow" in out or capability >= (8, 0)


def test_a_gpu_that_is_too_old(monkeypatch, capsys):
    out, code = report((7, 0), monkeypatch, capsys)
    assert code == 1 and "→ set TRITON_INTERPRET=1: kernels are tested from 7.5 on" in out


def test_it_needs_no_model():
    """It is for machines on which the other commands' imports may fail."""
    code = ("import sys; from course.__main__ import main; main(['doctor']); "
            "print(*[name for name in sys.modules if name.partition('.')[0] in ('course', 'transformers', 'sklearn')])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    assert "course.commands.doctor" in loaded
    assert not loaded & {"transformers", "sklearn", "course.nn", "course.vit", "course.commands.models"}
