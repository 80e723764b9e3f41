import pytest
import torch

from course.graphs import Captured
from course.kernels import add

pytestmark = pytest.mark.gpu


def test_a_replay_computes_all_calls_anew():
    x, y = torch.randn(2, 1000, device="cuda")
    calls = []

    def doubled():
        calls.append("doubled")
        return add(x, x)

    captured = Captured([doubled, lambda: add(x, y)])
    assert len(calls) == 3  # twice to warm up, once to capture
    x.fill_(3)
    y.fill_(1)
    for output in captured.outputs:
        output.fill_(float("nan"))
    captured.replay()
    assert [output.unique().tolist() for output in captured.outputs] == [[6], [4]]
    assert len(calls) == 3  # a replay runs no Python


def test_a_graph_keeps_what_its_calls_refer_to():
    def make():
        x = torch.full((1 << 20,), 2.0, device="cuda")
        return Captured([lambda: add(x, x)])

    captured = make()
    torch.full((1 << 20,), float("nan"), device="cuda")  # where x would have been
    captured.replay()
    assert (captured.outputs[0] == 4).all()
