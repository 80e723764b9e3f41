"""What the chapters and posts say of Triton's compiler, PyTorch and the measurements, where no cell of theirs shows it.

Kernels are compiled for GPUs that are not there: by this file as a program, in a process that interprets nothing.
"""
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
import triton
import triton.language as tl

from benchmarks.figures import value
from course.lab.pictures import gpu
from course.results import RESULTS, hardware

ROOT = Path(__file__).parents[1]
CAPABILITIES = (80, 90, 100)
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])


@triton.jit
def product(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a, b = tl.load(a_ptr + m[:, None] * K + k[None, :]), tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(out_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision=PRECISION))


@triton.jit
def masked_sum(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + lanes, mask=lanes < n), axis=0))


def compile_all() -> dict[str, str]:
    """The PTX of each kernel, or what the compiler says instead."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def ptx(kernel, capability, dtype, **constexprs):
        signature = {name: "constexpr" if name in constexprs else f"*{dtype}" if name.endswith("ptr") else "i32"
                     for name in kernel.arg_names}
        try:
            source = ASTSource(kernel, signature=signature, constexprs=constexprs)
            return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
        except triton.CompilationError as error:
            return str(error.__cause__ or error)

    found = {}
    for capability in CAPABILITIES:
        for dtype, K in itertools.product(("fp16", "bf16", "fp32"), (8, 16)):
            found[f"1x1x{K} {dtype} {capability}"] = ptx(
                product, capability, dtype, M=1, N=1, K=K, PRECISION="tf32" if dtype == "fp32" else "ieee"
            )
        for precision in ("tf32", "tf32x3"):
            found[f"{precision} {capability}"] = ptx(
                product, capability, "fp32", M=64, N=64, K=32, PRECISION=precision
            )
        found[f"masked {capability}"] = ptx(masked_sum, capability, "fp32", BLOCK=128)
    return found


@pytest.fixture(scope="module")
def compiled():
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_statements"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def prose(chapter):
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_a_dot_needs_sixteen_terms_and_one_row(compiled, dtype, capability):
    """Attention and Matrix product: of rows and columns one is enough, and it runs on tensor cores."""
    assert "at least 16 terms" in prose("attention") and "at least 16 (since Triton 3.8" in prose("matmul")
    assert "mma" in compiled[f"1x1x16 {dtype} {capability}"]
    short = compiled[f"1x1x8 {dtype} {capability}"]
    if dtype == "fp32" and TRITON >= (3, 8):
        assert "mma" in short
    else:
        assert "M >= 1, N >= 1 and K >= 16" in short


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_masked_lane_holds_0_today(compiled, capability):
    """Debugging, Softmax and Matrix product: without `other` nothing is promised, and the compiler puts 0 there."""
    ptx = compiled[f"masked {capability}"]
    (register,) = set(re.findall(r"@%p\d+ ld\.global\.b32 \{ (%r\d+) \}", ptx))
    assert re.search(rf"mov\.[ub]32\s+{register}, (0x0|0);", ptx.partition("ld.global")[0])
    for chapter in ("debugging", "softmax", "matmul"):
        assert re.search(r"nothing is promised", prose(chapter)), chapter


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_triton_rounds_to_tf32_only_where_it_multiplies_three_times(compiled, capability):
    """Precision: for "tf32" the factors go to the tensor cores as they are, which ignore the last 13 bits."""
    once, three_times = compiled[f"tf32 {capability}"], compiled[f"tf32x3 {capability}"]
    assert re.search(r"mma.*tf32", once) and "cvt.rna.tf32" not in once
    assert "cvt.rna.tf32" in three_times


@pytest.mark.gpu
def test_tensor_cores_cut_off_and_pytorch_rounds(ieee):
    """Precision: the imitation's two errors are those of `tl.dot` and of PyTorch."""
    torch.backends.cuda.matmul.allow_tf32 = True  # `ieee` puts it back
    u, v = torch.rand(2, 128, 128, device="cuda")
    sums, cut = u.double() @ v.double(), torch.empty_like(u)
    product[(1,)](u, v, cut, M=128, N=128, K=128, PRECISION="tf32", num_warps=8)
    by_triton, by_pytorch = ((got.double() - sums) / sums for got in (cut, u @ v))
    assert (by_triton < 0).all() and 5e-4 < by_triton.square().mean().sqrt() < 8e-4
    assert by_pytorch.square().mean().sqrt() < 1e-4 and by_pytorch.mean().abs() < 2e-5


def test_registers_of_the_whole_gpu():
    """Start here, How a GPU works, Memory and the roofline: one figure, in one unit."""
    registers = hardware()["multiprocessors"] * gpu.REGISTERS_KIB * 1024 / 1e6
    for post in ("how_a_gpu_works", "memory_and_roofline"):
        text = (ROOT / "posts" / f"{post}.md").read_text()
        figures = re.findall(r"([\d.]+)<!-- = hardware.multiprocessors \* 256 \* 1024 / 1e6 --> MB", text)
        assert figures and set(figures) == {f"{registers:.1f}"}, post
    cells = nbformat.read(ROOT / "notebooks" / "start_here.ipynb", as_version=4).cells
    printed = "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))
    assert f"registers of all multiprocessors:      {registers:.1f} MB" in printed


def test_a_large_matrix_product_is_one_figure():
    """In every stored output: hardware.json's, in bfloat16 or in TF32."""
    known = hardware()
    products = {f"{known[f'matmul_{kind}_tflops']}" for kind in ("bf16", "tf32")}
    found = {"A large matrix product: ([\\d,]+) TFLOP/s": set(), "Copying: ([\\d,]+) GB/s": set()}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                text = output.get("data", {}).get("text/plain", "")
                for pattern, figures in found.items():
                    figures.update(re.findall(pattern, text))
                assert not re.search(r" 0 (TFLOP|GB)/s", text), (path.stem, text)
    products_found, copies_found = found.values()
    assert products_found == products and copies_found == {f"{known['copy_gbps']:,}"}


def test_a_clock_that_does_not_wait_measures_the_launch():
    """Make it fast, the first question: what it reads is the CPU's time, a small part of the GPU's."""
    times = json.loads((RESULTS / "nvidia-h200" / "notebooks" / "make_it_fast_clocks.json").read_text())["microseconds"]
    assert times["perf_counter, not waiting"] < times["two events around it"] / 10
    quiz = prose("make_it_fast").partition("## Quiz")[2]
    assert quiz.index("**b) The time of the CPU, for the launches.**") < quiz.index("**2. ")


@pytest.mark.gpu
def test_a_clock_that_does_not_wait_measures_the_launch_here_too():
    a = torch.randn(8192, 8192, device="cuda")  # in float32 a product takes some 20 ms
    times = []
    for wait in (False, False, True):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        if wait:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    assert times[1] < times[2] / 5


def test_one_program_at_a_time_is_the_price_of_launches():
    """Vector add: the CPU's time for a launch from Python, 512 times, which Make it fast measures by itself."""
    each = 1e3 * value('notebook("vector_add_programs", 2**22, "1 program, 512 times").median_ms') / 512
    launches = json.loads((RESULTS / "nvidia-h200" / "notebooks" / "make_it_fast_launches.json").read_text())
    launch = launches["microseconds"]["its kernel, launched directly"]
    assert launch / 2 < each < 2 * launch


def test_separate_operations_are_slower_than_their_bytes():
    """Layer norm: a count of twelve passes is a lower bound, and PyTorch has another kernel for a broadcast operand."""
    bound = 12 * 2**16 * 768 * 2 / hardware()["copy_gbps"] / 1e6
    took = value('notebook("layer_norm_separate", 2**16, "separate operations").median_ms')
    assert 2 * bound < took
    source = Path(torch.__file__).parent / "include" / "ATen" / "native" / "cuda" / "CUDALoops.cuh"
    if not source.exists():
        pytest.skip("this PyTorch comes without its headers")
    body = source.read_text().partition("void gpu_kernel_impl_nocast(")[2].partition("\n}")[0]
    assert re.search(r"if \(contiguous\) \{\s*return launch_vectorized_kernel\(", body)
    assert "make_offset_calculator" in body and "launch_legacy_kernel" in body


if __name__ == "__main__":
    print(json.dumps(compile_all()))
