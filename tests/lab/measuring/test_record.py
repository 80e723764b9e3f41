"""`record`: replayed, a call reads and writes the tensors that it was recorded with."""
import torch

from course import lab
from course.kernels import add, mul
from course.runtime import DEVICE


def test_it_goes_on_with_the_tensors_it_was_recorded_with():
    x, y = torch.zeros(4, device=DEVICE), torch.ones(4, device=DEVICE)
    calls = []

    def call():
        calls.append(1)
        return add(mul(x, y).view(2, 2), x.view(2, 2).T)

    graph = lab.record(call)
    (out,), before = graph.outputs, len(calls)
    x.copy_(torch.arange(4.0))
    graph.replay()
    assert out.tolist() == [[0, 3], [3, 6]] and graph.outputs[0] is out
    y.fill_(2)
    graph.replay()
    assert out.tolist() == [[0, 4], [5, 9]] and len(calls) == before


def test_changes_in_place_are_done_again():
    total = torch.zeros(2, device=DEVICE)
    graph = lab.record(lambda: total.add_(1))
    before = total.tolist()
    graph.replay()
    assert total.tolist() == [n + 1 for n in before]
