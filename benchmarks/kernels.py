"""Times each kernel beside its peers, over inputs that no cache holds, from CUDA graphs, once the results are right."""
import functools
import math
from collections.abc import Collection, Iterable

import torch

from benchmarks.cases import Case, byte_cases
from benchmarks.products import (
    CONVS, DEPTHWISE, GROUPED, attention, conv2d, conv2d_norm_add_relu, depthwise_conv2d, grouped_conv2d, linear,
    matmul, product_cases,
)
from benchmarks.session import Session, choose, said
from course.graphs import Captured
from course.precision import full_precision
from course.timing import copy_gbps, l2_bytes, matmul_tflops, rotations, time_in_turn

UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of rounding once."""

ROUNDINGS = 16
"""How many units an element may be off, relative to itself and to the mean square: operations done one by one
round two or three intermediate results, each of them up to five times its mean square."""

SECONDS = 0.4
"""For timing one case."""


def all_cases() -> list[Case]:
    return product_cases() + byte_cases()


def quick_cases() -> list[Case]:
    """One of each kind of kernel, in two sizes where size matters most."""
    sizes = [(2**24, "fp16"), (2**28, "fp16")]
    bytes_moved = [case for case in byte_cases(sizes) if case.kernel != "mul"]
    layer = CONVS[4]
    return bytes_moved + [
        matmul(4096), linear(197, 768, 3072), linear(197 * 64, 768, 3072), linear(197 * 64, 768, 3072, "gelu"),
        linear(197 * 64, 3072, 768, "residual"), conv2d(16, layer), conv2d_norm_add_relu(16, layer), attention(8, 197),
        grouped_conv2d(16, GROUPED[0]), depthwise_conv2d(16, DEPTHWISE[1]),
        attention(16, 1024, channels=128), attention(16, 1024, mask="causal"), attention(16, 1024, mask="boolean"),
    ]


def measure_limits() -> dict[str, float]:
    """What the hardware can do, by the operations that do nothing else."""
    bf16 = matmul_tflops(torch.bfloat16)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    tf32 = matmul_tflops(torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return {"copy_gbps": round(copy_gbps(), 1), "half_tflops": round(bf16, 1), "tf32_tflops": round(tf32, 1)}


def run(session: Session, cases: Iterable[Case], providers: Collection[str]) -> None:
    """Measures what the session's time allows; results are stored case by case."""
    torch.backends.cudnn.benchmark = True
    stored = session.results.cells()
    for cell, case in session.in_turn([(case.cell, case) for case in cases]):
        names = choose(["course", *case.peers, *(["inductor"] * case.inductor)], providers, stored.get(cell, []))
        session.add(*race(case, names, session.run["limits"]))


def functions(case: Case, names: Collection[str]) -> dict:
    """The named competitors as functions of the case's inputs."""
    torch.compiler.reset()  # each size compiled for itself, as if it were the only one
    peer = case.first_peer
    compiled = torch.compile(lambda *args: peer(*args), mode="max-autotune-no-cudagraphs", dynamic=False)
    every = {"course": case.ours, **case.peers, "inductor": compiled}
    return {name: every[name] for name in names}


@torch.no_grad()
def race(case: Case, names: Collection[str], limits: dict) -> tuple[list[dict], dict[tuple, str]]:
    """(a row for each competitor, what went wrong for the others by the row's key)."""
    first = case.inputs()
    with full_precision():
        exact = case.exact(*first)
    moved = case.moved(*first, exact.to(first[0].dtype))
    sets = [first, *(case.inputs() for _ in range(rotations(moved, l2_bytes()) - 1))]

    graphs, errors = {}, {}
    for name, function in functions(case, names).items():
        try:
            graph = Captured([functools.partial(function, *args) for args in sets])
            for out in graph.outputs:
                out.fill_(math.nan)  # so that an element that no kernel writes is seen
            graph.replay()
            wrong = problem(graph.outputs[0], exact, UNIT[case.dtype])
        except Exception as error:  # out of memory, not supported, not compiled: the others still run
            wrong = said(error)
        if wrong:
            errors[*case.cell, name] = wrong
        else:
            graphs[name] = graph
    del exact
    timings = time_in_turn({n: g.replay for n, g in graphs.items()}, calls_in_one=len(sets), budget_s=SECONDS)
    rate = limits["half_tflops" if case.dtype != "fp32" else "tf32_tflops"]
    limit = max(moved / limits["copy_gbps"] / 1e6, case.operations / rate / 1e9)
    rows = [
        {"kernel": case.kernel, "shape": case.shape, "dtype": case.dtype, "provider": name, "median_ms": t.median,
         "q20_ms": t.q20, "q80_ms": t.q80, "gbps": moved / t.median / 1e6, "tflops": case.operations / t.median / 1e9,
         "limit_ms": limit} for name, t in timings.items()
    ]
    return rows, errors


def problem(result: torch.Tensor, exact: torch.Tensor, unit: float) -> str | None:
    """What is wrong with `result`, or None: every element within ROUNDINGS units of the exact one, NaN nowhere."""
    if result.shape != exact.shape:
        return f"expected shape {tuple(exact.shape)}, got {tuple(result.shape)}"
    error = (result.to(exact.dtype) - exact).abs_()
    bound = exact.abs().add_(exact.square().mean().sqrt()).mul_(ROUNDINGS * unit)
    wrong = ~(error <= bound)
    if not wrong.any():
        return None
    worst = torch.where(wrong, error.nan_to_num(nan=math.inf), 0).max().item()
    return f"wrong result: {int(wrong.sum())} of {wrong.numel()} elements, by up to {worst:.3g}"
