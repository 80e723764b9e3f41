import pytest
import torch

from course.kernels import relu
from course.replay.launches import NotKept
from course.replay.recording import Recorder, forgo, holds_while, made_anew
from course.runtime import DEVICE


def recorded(function, *inputs):
    recorder = Recorder(list(inputs))
    with recorder:
        result = function(*inputs)
    return recorder, result


def run(recording, *inputs):
    return recording.run(list(inputs), [t.data_ptr() for t in inputs], torch.cuda.current_stream().cuda_stream
                         if DEVICE.type == "cuda" else 0)


def test_what_pytorch_computes_between_launches_is_computed_again(again):
    def function(x, y):
        z = relu(x.T.contiguous())
        z.mul_(2)
        halves = torch.split(z + y, 2)
        return relu(halves[1]), relu(torch.empty_like(y).copy_(y).T)

    x, y = torch.randn(3, 4, device=DEVICE), torch.randn(4, 3, device=DEVICE)
    recorder, result = recorded(function, x, y)
    recording = recorder.recording(result)
    x, y = torch.randn(3, 4, device=DEVICE), torch.randn(4, 3, device=DEVICE)
    got = run(recording, x, y)
    torch.testing.assert_close(got, (((x.T.relu() * 2) + y)[2:].relu(), y.relu().T))
    assert len(again) == 3


ELSEWHERE = torch.randn(4, device=DEVICE)


@pytest.mark.parametrize("function, reason", [
    (lambda x: relu(x * x.sum().item()), "_local_scalar_dense.* is not the same each time"),
    (lambda x: relu(torch.rand_like(x)), "rand_like.* is not the same each time|no kernel gets input number 0"),
    (lambda x: relu(x[x > 0]), "is not the same each time"),
    (lambda x: relu(ELSEWHERE), "of unknown origin is a tensor \\(4,\\)"),
    (lambda x: relu(x + ELSEWHERE), "of unknown origin"),
    (lambda x: relu(torch.cat([x, x])), "tensors in a list or by name"),
    (lambda x: [relu(x)][1:] or None, "the result is a NoneType"),
    (lambda x: relu(x.view(torch.int32).add(1).view(torch.float32)), "seen as one of another dtype"),
    (lambda x: (relu(x), x.view(2, 2))[1], "the result is a view of an input"),
    (lambda x: (relu(x), torch.empty_like(x))[1], "no kernel writes the result"),
    (lambda x: [relu(x)], "the result is a list"),
])
@pytest.mark.usefixtures("again")
def test_what_cannot_be_kept_is_not(function, reason):
    recorder, result = recorded(function, torch.randn(4, device=DEVICE))
    with pytest.raises(NotKept, match=reason):
        recorder.recording(result)


@pytest.mark.usefixtures("again")
def test_an_input_that_no_kernel_gets_may_have_been_read():
    x, y = torch.randn(4, device=DEVICE), torch.randn(4, device=DEVICE)
    recorder, result = recorded(lambda x, y: relu(x), x, y)
    with pytest.raises(NotKept, match="no kernel gets input number 1"):
        recorder.recording(result)


@pytest.mark.usefixtures("again")
def test_views_of_one_tensor_are_told_apart():
    x = torch.randn(2, 4, device=DEVICE)
    recorder, result = recorded(lambda a, b: (relu(b), relu(a)), *x)
    recording = recorder.recording(result)
    a, b = torch.randn(4, device=DEVICE), torch.randn(4, device=DEVICE)
    torch.testing.assert_close(run(recording, a, b), (b.relu(), a.relu()))


@pytest.mark.usefixtures("again")
def test_a_part_of_an_input():
    recorder, result = recorded(lambda x: relu(x[1:]), torch.randn(5, device=DEVICE))
    x = torch.randn(9, device=DEVICE)[2:7]
    torch.testing.assert_close(run(recorder.recording(result), x), x[1:].relu())


@pytest.mark.usefixtures("again")
def test_of_parts_of_one_memory_it_is_not_known_whose_part_one_is():
    x = torch.randn(10, device=DEVICE)
    recorder, result = recorded(lambda a, b: (relu(a[1:]), relu(b)), x[:4], x[4:])
    with pytest.raises(NotKept, match="of unknown origin"):
        recorder.recording(result)


@pytest.mark.usefixtures("again")
def test_what_is_made_anew_is_asked_for_each_time():
    made = []

    def make(n):
        made.append(torch.full((n,), float(len(made)), device=DEVICE))
        return made[-1]

    recorder, result = recorded(lambda x: (relu(x), relu(made_anew(make, 4))), torch.randn(4, device=DEVICE))
    recording = recorder.recording(result)
    assert run(recording, torch.randn(4, device=DEVICE))[1].tolist() == [1.0] * 4
    assert run(recording, torch.randn(4, device=DEVICE))[1].tolist() == [2.0] * 4
    assert len(made) == 3


@pytest.mark.usefixtures("again")
def test_a_call_may_be_left_for_another_time():
    recorder, result = recorded(lambda x: (forgo("not yet"), relu(x))[1], torch.randn(4, device=DEVICE))
    assert recorder.later
    with pytest.raises(NotKept, match="not yet"):
        recorder.recording(result)
    recorder, result = recorded(lambda x: (holds_while(bool), relu(x))[1], torch.randn(4, device=DEVICE))
    assert recorder.recording(result).condition is bool and not recorder.later
    forgo("nothing is recorded here")
    holds_while(bool)
    assert made_anew(len, "abc") == 3


def test_an_error_of_the_recorder_is_not_the_callers(again, monkeypatch):
    monkeypatch.setattr("course.replay.recording.Launch", lambda *args: 1 // 0)
    recorder, result = recorded(relu, torch.ones(4, device=DEVICE))
    assert result.tolist() == [1.0] * 4
    with pytest.raises(NotKept, match="division"):
        recorder.recording(result)


def test_an_error_of_the_call_is_the_callers(again):
    with pytest.raises(ZeroDivisionError):
        recorded(lambda x: relu(x) / (1 // 0), torch.randn(4, device=DEVICE))
    relu(torch.randn(4, device=DEVICE))  # recording has ended: this call is not observed
