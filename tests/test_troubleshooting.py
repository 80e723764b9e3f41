"""posts/troubleshooting.md: the errors it quotes, made on purpose, say what it quotes.

Kernels with a mistake in them are compiled for a GPU that is not there: by this file as a program, in a process that
interprets nothing. The other tests run here. What only another machine could show is marked in the post, with a source.
"""
import contextlib
import faulthandler
import functools
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
import xdist.plugin
from triton.language.extra import cuda, libdevice
from triton.runtime.errors import OutOfResources

from course.kernels import matmul, relu
from course.kernels.parts import checks

ROOT = Path(__file__).parents[1]
POST = " ".join((ROOT / "posts" / "troubleshooting.md").read_text().split())
INTERPRET = triton.knobs.runtime.interpret
SCALE = 2.0

TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
interpreted = pytest.mark.skipif(not INTERPRET, reason="what the interpreter says")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")


def quoted(words: str, message: str) -> None:
    """The post has `words`, and `message` says them; … stands for what differs from case to case."""
    assert words in POST
    assert re.search(re.escape(words).replace("…", ".*"), " ".join(message.split())), message


def chain(error: BaseException | None) -> str:
    """All that a traceback prints of an error: its own words and those of what caused it."""
    return f"{chain(error.__cause__ or error.__context__)} {type(error).__name__}: {error}" if error else ""


def helper(x):
    return x


@triton.jit
def odd_range(x_ptr, n):
    tl.store(x_ptr + tl.arange(0, 100), 0.0)


@triton.jit
def range_of_an_argument(x_ptr, n):
    tl.store(x_ptr + tl.arange(0, n), 0.0)


@triton.jit
def zeros_of_an_argument(x_ptr, n):
    tl.store(x_ptr, tl.sum(tl.zeros((n,), tl.float32), 0))


@triton.jit
def two_lengths(x_ptr, n):
    tl.store(x_ptr + tl.arange(0, 4), tl.arange(0, 4) + tl.arange(0, 8))


@triton.jit
def a_global(x_ptr, n):
    tl.store(x_ptr, SCALE)


@triton.jit
def integer_that_becomes_a_float(x_ptr, n):
    acc = 0
    for i in range(4):
        acc += tl.load(x_ptr + i)
    tl.store(x_ptr, acc)


@triton.jit
def scalar_or_block(x_ptr, n):
    if n > 3:
        y = 1.0
    else:
        y = tl.arange(0, 4)
    tl.store(x_ptr, y)


@triton.jit
def leaves_a_loop(x_ptr, n):
    while True:
        break
    tl.store(x_ptr, 1.0)


@triton.jit
def list_comprehension(x_ptr, n):
    ones = [1.0 for _ in range(3)]
    tl.store(x_ptr, ones[0])


@triton.jit
def if_of_a_block(x_ptr, n):
    if tl.load(x_ptr + tl.arange(0, 4)) > 0:
        tl.store(x_ptr, 1.0)


@triton.jit
def takes_an_element(x_ptr, n):
    x = tl.load(x_ptr + tl.arange(0, 4))
    tl.store(x_ptr, x[2])


@triton.jit
def replaces_an_element(x_ptr, n):
    x = tl.load(x_ptr + tl.arange(0, 4))
    x[2] = 0.0
    tl.store(x_ptr + tl.arange(0, 4), x)


@triton.jit
def short_sums(x_ptr, n):
    x = tl.load(x_ptr + tl.arange(0, 16)[:, None] * 4 + tl.arange(0, 4)[None, :])
    tl.store(x_ptr + tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :], tl.dot(x, x.T))


@triton.jit
def calls_python(x_ptr, n):
    tl.store(x_ptr, helper(tl.load(x_ptr)))


@triton.jit
def product(a_ptr, b_ptr, c_ptr, n, SIDE: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr):
    rows, terms = tl.arange(0, SIDE), tl.arange(0, STEP)
    a_ptrs = a_ptr + rows[:, None] * n + terms[None, :]
    b_ptrs = b_ptr + terms[:, None] * SIDE + rows[None, :]
    acc = tl.zeros((SIDE, SIDE), tl.float32)
    for _ in range(0, n, STEP):
        acc = tl.dot(tl.load(a_ptrs), tl.load(b_ptrs), acc, input_precision=PRECISION)
        a_ptrs += STEP
        b_ptrs += STEP * SIDE
    tl.store(c_ptr + rows[:, None] * SIDE + rows[None, :], acc)


REFUSED_BY_BOTH = [
    (odd_range, "arange's range must be a power of 2"),
    (range_of_an_argument, "arange's arguments must be of type tl.constexpr"),
    (zeros_of_an_argument, "Shape element 0 must have type `constexpr[int]`"),
    (two_lengths, "Cannot make_shape_compatible: incompatible dimensions"),
    (takes_an_element, "unsupported tensor index"),
    (replaces_an_element, "__setitem__ is not supported"),
]
REFUSED_BY_THE_COMPILER = [
    (a_global, "Cannot access global variable … from within @jit'ed function"),
    (integer_that_becomes_a_float, "Loop-carried variable … has initial type … but is re-assigned to …"),
    (scalar_or_block, "Mismatched type for y between then block (fp32) and else block"),
    (leaves_a_loop, "unsupported AST node type: Break"),
    (list_comprehension, "only tuple comprehensions are supported"),
    (if_of_a_block, "Boolean value of Tensor with more than one value is ambiguous"),
    (short_sums, "Input shapes should have M >= 1, N >= 1 and K >= "),
    (calls_python, "Unsupported function referenced"),
]
MISTAKES = [*REFUSED_BY_BOTH, *REFUSED_BY_THE_COMPILER]


each_mistake = pytest.mark.parametrize("kernel, words", MISTAKES, ids=[kernel.fn.__name__ for kernel, _ in MISTAKES])


def compile_all() -> dict[str, object]:
    """What the compiler, or Triton without a GPU, says to each."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def compiled(kernel, dtype, constexprs, capability=90, **options):
        signature = {name: "constexpr" if name in constexprs else dtype if name.endswith("ptr") else "i32"
                     for name in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name not in constexprs}
        source = ASTSource(kernel, signature=signature, constexprs=constexprs, attrs=aligned)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    def said(call):
        try:
            call()
        except Exception as error:
            return chain(error)
        return "nothing"

    found = {kernel.fn.__name__: said(functools.partial(compiled, kernel, "*fp32", {})) for kernel, _ in MISTAKES}
    found["no grid"] = said(lambda: odd_range(None, 4))
    found["no kernel"] = said(lambda: tl.arange(0, 4))
    tiles = {"SIDE": 128, "STEP": 64, "PRECISION": None}
    found["eight stages"] = compiled(product, "*fp16", tiles, num_stages=8).metadata.shared
    for dtype, precision, capability in [
        ("fp32", None, 90), ("fp32", "tf32", 90), ("fp32", "ieee", 90), ("fp16", None, 90), ("fp16", None, 75),
    ]:
        kernel = compiled(product, f"*{dtype}", {"SIDE": 16, "STEP": 16, "PRECISION": precision}, capability)
        found[f"tensor cores: {dtype}, {precision}, {capability}"] = "mma" in kernel.asm["ptx"]
    found["switches"] = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    return found


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_troubleshooting"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@each_mistake
def test_what_the_compiler_says(found, kernel, words):
    quoted(words, found[kernel.fn.__name__])


@interpreted
@each_mistake
def test_what_the_interpreter_takes(kernel, words):
    x = torch.ones(256, dtype=torch.int32 if kernel is two_lengths else torch.float32)
    refused = any(kernel is other for other, _ in REFUSED_BY_BOTH)
    with pytest.raises(Exception) if refused else contextlib.nullcontext():
        kernel[(1,)](x, 5)


@interpreted
@pytest.mark.parametrize("kernel, words", [
    (takes_an_element, "'int' object is not iterable"),
    (replaces_an_element, "'tensor' object does not support item assignment"),
], ids=["takes", "replaces"])
def test_what_the_interpreter_says_of_elements(kernel, words):
    with pytest.raises(Exception) as error:
        kernel[(1,)](torch.ones(4), 4)
    quoted(words, chain(error.value))


def test_launches(found):
    quoted("Cannot call @triton.jit'd outside of the scope of a kernel", found["no grid"])
    quoted("Did you forget to add @triton.jit ?", found["no kernel"])


@interpreted
def test_a_grid_is_a_tuple():
    with pytest.raises(TypeError) as error:
        calls_python[8](torch.ones(1), 1)
    quoted("object of type 'int' has no len()", str(error.value))


def test_shared_memory(found):
    message = str(OutOfResources(found["eight stages"], 227 * 1024, "shared memory"))
    quoted(" ".join(message.split()), message)


def test_tensor_cores(found):
    used = {name.partition(": ")[2] for name, value in found.items() if name.startswith("tensor cores") and value}
    assert used == {"fp32, None, 90", "fp32, tf32, 90", "fp16, None, 90"}
    assert found["switches"] == [False, True]


@triton.autotune([triton.Config({"BLOCK": 4}), triton.Config({"BLOCK": 8})], key=[])
@triton.jit
def tuned(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), 0.0)


@without_gpu
def test_no_driver():
    with pytest.raises(RuntimeError) as error:
        tuned[(1,)](torch.ones(8))
    quoted("0 active drivers ([]). There should only be one.", str(error.value))


@triton.jit
def assembly(x_ptr):
    x = tl.load(x_ptr + tl.arange(0, 4))
    y = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(x_ptr + tl.arange(0, 4), y)


@triton.jit
def library(x_ptr):
    x = tl.load(x_ptr + tl.arange(0, 4))
    tl.store(x_ptr + tl.arange(0, 4), libdevice.tanh(x))


@triton.jit
def dependent_launch(x_ptr):
    cuda.gdc_wait()


@triton.jit
def counted(x_ptr, n):
    for i in range(n):
        tl.store(x_ptr + i, 0.0)


@interpreted
@pytest.mark.parametrize("kernel, args, words", [
    (assembly, (), "inline_asm not supported in interpreter mode"),
    (library, (), "cannot convert None of type <class 'NoneType'> to tensor"),
    (dependent_launch, (), "Did you forget to add @triton.jit ?"),
    pytest.param(counted, (4,), "only 0-dimensional arrays can be converted to Python scalars",
                 marks=pytest.mark.skipif(TRITON >= (3, 7), reason="repaired in Triton 3.7")),
], ids=["assembly", "libdevice", "dependent launch", "range"])
def test_what_the_interpreter_lacks(kernel, args, words):
    with pytest.raises(Exception) as error:
        kernel[(1,)](torch.ones(4), *args)
    quoted(words, chain(error.value))


@triton.jit
def twice(x_ptr, out_ptr, WIDE: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, 4))
    if WIDE:
        x = x.to(tl.float32)
    tl.store(out_ptr + tl.arange(0, 4), x + x)


@interpreted
def test_bfloat16_is_added_as_bits():
    x = torch.tensor([1.0, 1.5, 1.75, -2.0], dtype=torch.bfloat16)
    out = torch.zeros_like(x)
    twice[(1,)](x, out, WIDE=False)
    assert out[0] > 1e38 and out[1].isinf() and out[2].isnan()
    assert "bfloat16 gives numbers like 10³⁸, inf or NaN" in POST
    twice[(1,)](x, out, WIDE=True)
    assert torch.equal(out, x + x)
    twice[(1,)](torch.full((4,), 0.5 + 2**-9 + 2**-10), out, WIDE=True)
    assert (out == 1).all()  # cut off, not rounded to 1 + 2**-7


@triton.jit
def sum_and_maximum(x_ptr, out_ptr):
    x = tl.load(x_ptr + tl.arange(0, 4), mask=tl.arange(0, 4) < 2)
    tl.store(out_ptr, tl.sum(x, 0))
    tl.store(out_ptr + 1, tl.max(x, 0))


@triton.jit
def large_offset(out_ptr):
    tl.store(out_ptr, (tl.program_id(0) + 65536) * 65536)


@interpreted
def test_what_the_interpreter_forgives():
    out = torch.zeros(2)
    sum_and_maximum[(1,)](torch.tensor([-1.0, -2.0, 5.0, 5.0]), out)
    assert out.tolist() == [-3, 0]  # masked lanes hold 0: the sum is right, the maximum is not
    offset = torch.ones(1, dtype=torch.int64)
    large_offset[(1,)](offset)
    assert offset.item() == 0


@triton.jit
def far_away(x_ptr):
    tl.store(x_ptr + (1 << 40), 1.0)


@interpreted
def test_a_stray_access_ends_the_process():
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        far_away[(1,)](torch.zeros(4))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV and "*Segmentation fault*" in POST


def test_triton_before_course(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError) as error:
        runpy.run_path(str(ROOT / "course" / "runtime.py"))
    quoted(str(error.value), str(error.value))


def test_course_is_not_installed():
    done = subprocess.run([sys.executable, "-S", "-I", "-c", "import course"], capture_output=True, text=True)
    quoted("ModuleNotFoundError: No module named 'course'", done.stderr)


def test_torch_and_torchvision_do_not_fit():
    with pytest.raises(RuntimeError) as error:  # what torchvision does first, where its library was not loaded
        torch.library.register_fake("torchvision_of_another_place::nms")(lambda: None)
    assert str(error.value) == "operator torchvision_of_another_place::nms does not exist"
    assert "operator torchvision::nms does not exist" in POST


@without_gpu
def test_what_pytorch_says_without_a_gpu(monkeypatch):
    if torch.version.cuda:
        with pytest.raises(RuntimeError) as error:
            torch.zeros(1, device="cuda")
        quoted("Found no NVIDIA driver on your system", str(error.value))
    monkeypatch.delattr(torch._C, "_cuda_getDeviceCount", raising=False)  # as in a build without CUDA
    with pytest.raises(AssertionError) as error:
        torch.zeros(1, device="cuda")
    quoted("Torch not compiled with CUDA enabled", str(error.value))


@pytest.mark.parametrize("number, words", [
    (700, "an illegal memory access was encountered"), (900, "operation not permitted when stream is capturing"),
])
def test_what_cuda_says(number, words):
    if not torch.version.cuda:
        pytest.skip("not a CUDA build of PyTorch")
    quoted(words, torch._C._cudart.cudaGetErrorString(torch._C._cudart.cudaError(number)))


def test_a_gpu_newer_than_triton(tmp_path):
    (tmp_path / "empty.ptx").write_text(".version 8.0\n.target sm_90\n.address_size 64\n")
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    done = subprocess.run([ptxas, "--gpu-name", "sm_999", tmp_path / "empty.ptx"], capture_output=True, text=True)
    quoted("Value 'sm_…' is not defined for option 'gpu-name'", done.stderr + done.stdout)


def test_no_c_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError) as error:
        triton.runtime.build._build("x", "x.c", "/nowhere", (), (), (), ())
    quoted("Failed to find C compiler", str(error.value))


@pytest.mark.parametrize("python, words", [
    ("case $1 in -c) exit 1;; *) echo Python 3.9.2;; esac", "course needs Python 3.11 or later"),
    ("case $1 in -m) exit 1;; esac", "python3 -m venv failed"),
], ids=["old", "no venv"])
def test_what_make_says(tmp_path, python, words):
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["make", "-s", "demo", f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/python"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode != 0
    quoted(words, done.stdout + done.stderr)


@pytest.mark.parametrize("call, words", [
    (lambda: relu(torch.ones(3, requires_grad=True)), "requires a gradient and this kernel has no backward"),
    (lambda: matmul(torch.ones(3, 3), torch.ones(3, 3).half()),
     "expected other in torch.float32 as input, got torch.float16"),
], ids=["gradient", "dtype"])
def test_what_the_kernels_refuse(call, words):
    with torch.enable_grad(), pytest.raises((TypeError, ValueError)) as error:
        call()
    quoted(words, str(error.value))


def test_a_tensor_in_the_cpu_s_memory(monkeypatch):
    monkeypatch.setattr(checks, "INTERPRET", False)
    with pytest.raises(ValueError) as error:
        checks.check_device("relu", "input", torch.ones(3))
    quoted("expected input on a GPU, got cpu", str(error.value))


def test_workers(monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "2")
    assert xdist.plugin.pytest_xdist_auto_num_workers(None) == 2 and "PYTEST_XDIST_AUTO_NUM_WORKERS=2 make test" in POST


def test_what_was_not_tried_has_a_source():
    paragraphs = re.split(r"\n\n|\n(?=- |\d\. )", (ROOT / "posts" / "troubleshooting.md").read_text())
    marked = [paragraph for paragraph in paragraphs if "**(documented)**" in paragraph]
    assert len(marked) > 5
    assert [paragraph for paragraph in marked[1:] if "](https://" not in paragraph] == []


if __name__ == "__main__":
    print(json.dumps(compile_all()))
