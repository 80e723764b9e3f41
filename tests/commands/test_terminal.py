"""Ctrl-C, closed pipes, encodings, log files: what only a process shows."""
import os
import shutil
import signal

import pytest

from course.commands.terminal import IN_ASCII
from tests.commands.processes import run, start

RAISE = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
"""A module during whose import Ctrl-C is pressed."""


@pytest.mark.parametrize("module, command", [
    ("torch", "--version"), ("triton", "doctor"), ("safetensors", "classify vit photo.png"),
    ("tqdm", "evaluate vit --images {folder}"), ("transformers", "verify vit --images {folder}"),
])
def test_ctrl_c_while_something_is_imported(module, command, tmp_path, digit_files):
    (tmp_path / f"{module}.py").write_text(RAISE)
    arguments = command.format(folder=digit_files[0].parent).split()
    done = run(*arguments, stubs=tmp_path)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr.splitlines()[-1] == "course: interrupted" and "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [
    # as extension modules turn it into another error
    "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    raise ValueError from None",
    # as dataclasses and named tuples are made: Python then ends by the signal, whatever is returned
    "exec('os.kill(os.getpid(), signal.SIGINT); time.sleep(60)')",
])
def test_ctrl_c_at_unusual_places(code, tmp_path):
    (tmp_path / "safetensors.py").write_text(f"import os, signal, time\n{code}\n")
    done = run("classify", "vit", "photo.png", stubs=tmp_path)
    assert done.returncode == 130 and done.stderr.endswith("course: interrupted\n")


def test_ctrl_c_between_images(tmp_path, digit_files):
    waiting = tmp_path / "fifo.png"
    os.mkfifo(waiting)  # opening it waits for a writer
    process = start("classify", "vit", digit_files[0], waiting, "--batch", 1)
    lines = [process.stdout.readline() for _ in range(6)]  # they come as soon as they are known
    assert lines[0] == f"{digit_files[0]}\n" and f" {digit_files[0].name[0]}\n" in lines[1]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[1:] == ["course: interrupted"]


def test_a_reader_that_has_read_enough(digit_files):
    """As `| head -1`: the command ends quietly, and computes nothing more."""
    process = start("classify", "vit", *digit_files, "missing.png", "--batch", 1)
    assert process.stdout.readline() == f"{digit_files[0]}\n"
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert len(err.splitlines()) == 1 and "missing" not in err  # what was loaded


def test_signs_that_an_encoding_lacks():
    done = run("doctor", PYTHONIOENCODING="ascii")
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    assert done.stdout.startswith("+ machine")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_an_encoding_lacks(encoding, tmp_path, digit_files):
    for name in ("Küche.png", os.fsdecode(b"caf\xe9.png")):  # the second is not UTF-8
        shutil.copy(digit_files[0], tmp_path / name)
    done = run("classify", "vit", tmp_path, "--topk", 1, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stdout.count(f"%  {digit_files[0].name[0]}\n") == 2, done.stderr
    assert ("Küche" if encoding == "utf-8" else "K\\xfcche") in done.stdout and "caf\\udce9" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_encoding_prints_every_sign(encoding):
    text = "".join(IN_ASCII) + "\udce9"
    printed = text.encode(encoding, "course.in_ascii").decode(encoding)
    assert printed.endswith("\\udce9") and "?" not in printed
    if encoding == "ascii":
        assert printed == "".join(IN_ASCII.values()) + "\\udce9"


@pytest.mark.parametrize("model", ["vit", "resnet18"])
def test_a_log_file_holds_no_bars(model, digit_files):
    done = run("verify", model, "--images", digit_files[0].parent)
    assert done.returncode == 0
    [loaded] = done.stderr.splitlines()
    assert loaded.startswith(f"{model}: ") and "\r" not in done.stderr


def test_imports_that_are_not_needed(digit_files):
    """Each of them takes seconds."""
    done = run("classify", "vit", digit_files[0], PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "course.commands.images" in imported
    assert not imported & {"transformers", "torchvision", "sklearn", "scipy", "matplotlib", "course.originals"}
