import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from course.kernels.parts import arrivals as module
from course.kernels.parts.arrivals import MOST, arrivals


def test_zeros(device):
    counters = arrivals(5, device)
    assert counters.dtype == torch.int32 and counters.numel() >= 5 and not counters.any()


@pytest.mark.gpu
def test_who_shares_counters():
    device = torch.device("cuda", torch.cuda.current_device())
    eager = arrivals(5, device)
    assert arrivals(MOST, device).data_ptr() == eager.data_ptr()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        assert arrivals(5, device).data_ptr() != eager.data_ptr()
    captured = []
    for _ in range(2):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            captured += [arrivals(5, device), arrivals(40, device)]
            torch.ones(1, device=device)  # a graph of nothing would be warned about
    starts = sorted(t.data_ptr() for t in captured)
    assert all(b - a >= 5 * 4 for a, b in zip(starts, starts[1:]))
    assert eager.data_ptr() not in starts
    assert not any(t.any() for t in captured)


@pytest.mark.gpu
def test_when_there_are_no_more(monkeypatch):
    """A captured launch then clears its own, at every replay."""
    monkeypatch.setattr(module, "COUNTERS", 0)
    device = torch.device("cuda", torch.cuda.current_device())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counters = arrivals(5, device)
    counters.fill_(3)
    graph.replay()
    assert not counters.any()


@pytest.mark.gpu
def test_first_used_while_pytorch_warms_up_a_graph(monkeypatch):
    """PyTorch refuses memory that outlives the warm-up, unless another thread allocated it."""
    monkeypatch.setattr(module, "_blocks", {})

    @torch.library.custom_op("course::count_for_test", mutates_args=())
    def count(x: torch.Tensor) -> torch.Tensor:
        return x + arrivals(5, x.device)[:5]

    count.register_fake(torch.empty_like)
    x = torch.arange(5, dtype=torch.int32, device="cuda")
    compiled = torch.compile(count, mode="reduce-overhead")
    for _ in range(4):
        assert torch.equal(compiled(x), x)


def test_first_used_by_several_threads(device, monkeypatch):
    """All have the one block's counters."""
    monkeypatch.setattr(module, "_blocks", {})
    begin = threading.Barrier(8)

    def first(number):
        begin.wait()
        return arrivals(5, device)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(first, range(8)))
    assert len({t.data_ptr() for t in found}) == 1 and len(module._blocks) == 1


@pytest.mark.gpu
def test_first_used_while_another_thread_captures(monkeypatch):
    monkeypatch.setattr(module, "_blocks", {})
    device = torch.device("cuda", torch.cuda.current_device())
    x, graph = torch.zeros(5, device=device), torch.cuda.CUDAGraph()
    with ThreadPoolExecutor(1) as other, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        x += 1
        counters = other.submit(arrivals, 5, device).result()
    graph.replay()
    assert (x == 1).all() and not counters.any()
