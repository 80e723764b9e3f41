import ast
import os
import subprocess
import sys

import pytest
import torch

from course import runtime
from course.results import ROOT
from course.runtime import INTERPRET


def in_a_new_process(code, **environment):
    """What `code` prints in a process without the tests' environment."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=inherited | environment)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_user_decides():
    show = "from course import runtime; import triton; print(runtime.INTERPRET, triton.knobs.runtime.interpret)"
    assert in_a_new_process(show, TRITON_INTERPRET="1") == "True True"
    assert in_a_new_process(show, TRITON_INTERPRET="0") == "False False"


def test_without_a_gpu_kernels_are_interpreted():
    show = "from course import runtime; print(runtime.INTERPRET, runtime.DEVICE)"
    assert in_a_new_process(show, CUDA_VISIBLE_DEVICES="") == "True cpu"


def test_triton_imported_first_is_an_error():
    code = "import triton.language; import course"
    assert "import course first, or set TRITON_INTERPRET=1" in in_a_new_process(code, CUDA_VISIBLE_DEVICES="")
    assert in_a_new_process(f"{code}; print('fine')", CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1") == "fine"


@pytest.mark.skipif(not INTERPRET, reason="of the interpreter")
def test_the_interpreter_is_no_gpu():
    assert runtime.capability() == (0, 0) and runtime.num_sms() == 1


@pytest.mark.gpu
def test_the_gpu_has_a_file_name():
    assert runtime.gpu_name() and set(runtime.gpu_name()).isdisjoint(" /ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert runtime.num_sms() > 1


@pytest.mark.parametrize("capability, kib", [
    ((0, 0), 64), ((7, 5), 64), ((8, 0), 163), ((8, 6), 99), ((8, 7), 163), ((8, 9), 99), ((9, 0), 227), ((10, 0), 227),
    ((10, 3), 227), ((12, 0), 99),
])
def test_shared_memory(capability, kib, monkeypatch):
    """What the CUDA C++ Programming Guide gives a block at most, in its table of compute capabilities."""
    monkeypatch.setattr(runtime, "capability", lambda: capability)
    assert runtime.shared_memory() == kib * 1024


@pytest.mark.parametrize("capability, tensor_cores, fed_by_tma", [
    ((0, 0), True, False), ((7, 5), False, False), ((8, 0), True, False), ((8, 6), True, False), ((8, 9), True, False),
    ((9, 0), True, True), ((10, 0), True, True), ((12, 0), True, False),
])
def test_tensor_cores(capability, tensor_cores, fed_by_tma, set_capability):
    set_capability(*capability)
    assert (runtime.has_tensor_cores(), runtime.tma_feeds_tensor_cores()) == (tensor_cores, fed_by_tma)


def test_what_depends_on_the_gpu_is_remembered_for_each(monkeypatch):
    """Two that differ, of which now one and now the other is current; with one alone, nothing is asked."""
    current, asked = 0, []
    monkeypatch.setattr(runtime, "SEVERAL", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    @runtime.per_gpu
    def sms(factor):
        """Documented."""
        asked.append((current, factor))
        return factor * (132, 108)[current]

    for current in (0, 1, 0, 1):
        assert (sms(1), sms(2)) == [(132, 264), (108, 216)][current]
    assert asked == [(0, 1), (0, 2), (1, 1), (1, 2)] and sms.__doc__ == "Documented."
    sms.cache_clear()
    sms(1)
    assert asked[-1] == (1, 1) and len(asked) == 5


def test_a_process_that_sees_one_gpu_does_not_ask_which(monkeypatch):
    monkeypatch.setattr(runtime, "SEVERAL", False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1 / 0)
    assert runtime.per_gpu(lambda: 7)() == 7


def test_every_cache_of_what_depends_on_the_gpu_is_one_for_each_gpu():
    """In the kernels, what asks for the GPU's properties is under no `functools` cache."""
    for file in sorted((ROOT / "course").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or not node.decorator_list:
                continue
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            names = {ast.unparse(inner) for inner in ast.walk(node) if isinstance(inner, ast.Name | ast.Attribute)}
            of_the_gpu = names & {
                "runtime.num_sms", "runtime.capability", "runtime.shared_memory", "runtime.has_tensor_cores",
                "runtime.tma_feeds_tensor_cores", "pdl_options",
            }
            assert "cache" not in decorators or not of_the_gpu, f"{file}: {node.name} asks for {of_the_gpu}"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_properties_are_the_current_gpus():
    for gpu in (0, 1, 0):
        with torch.cuda.device(gpu):
            properties = torch.cuda.get_device_properties(gpu)
            assert runtime.num_sms() == properties.multi_processor_count
            assert runtime.capability() in ((properties.major, properties.minor), (0, 0))
