import pytest
import torch

from course.kernels import _arrivals
from course.kernels._arrivals import MOST, arrivals


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
    monkeypatch.setattr(_arrivals, "COUNTERS", 0)
    device = torch.device("cuda", torch.cuda.current_device())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counters = arrivals(5, device)
    counters.fill_(3)
    graph.replay()
    assert not counters.any()


@pytest.mark.gpu
def test_first_used_while_pytorch_warms_up_a_graph(monkeypatch):
    """PyTorch refuses memory that outlives the warm-up, unless it came from elsewhere."""
    monkeypatch.setattr(_arrivals, "_blocks", {})

    @torch.library.custom_op("course::count_for_test", mutates_args=())
    def count(x: torch.Tensor) -> torch.Tensor:
        return x + arrivals(5, x.device)[:5]

    count.register_fake(torch.empty_like)
    x = torch.arange(5, dtype=torch.int32, device="cuda")
    compiled = torch.compile(count, mode="reduce-overhead")
    for _ in range(4):
        assert torch.equal(compiled(x), x)
