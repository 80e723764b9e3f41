"""`profile`: what is made of torch.profiler's events."""
import json

import pytest
import torch

from course import lab
from course.lab.measuring import profile
from tests.lab.drawn import drawn
from tests.lab.runs import RUN


EVENTS = [
    {"cat": "cpu_op", "name": "aten::add", "ts": 99.0, "dur": 9.0},
    {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 101.0, "dur": 4.0},
    {"cat": "cuda_runtime", "name": "cudaStreamIsCapturing", "ts": 100.0, "dur": 1.0},
    {"cat": "cuda_driver", "name": "cuLaunchKernelEx", "ts": 108.0, "dur": 3.0},
    {"cat": "kernel", "name": "softmax_kernel", "ts": 112.5, "dur": 2.0},
    {"cat": "kernel", "name": "void at::native::add<4, Functor<float>>(int, float)", "ts": 106.0, "dur": 2.5},
    {"name": "process_name", "ph": "M"},
]


def test_launches_and_kernels(stored_results):
    lanes = profile.lanes(EVENTS)
    assert lanes == {"CPU": [[0.0, 4.0, "launch"], [7.0, 3.0, "launch"]],
                     "GPU": [[5.0, 2.5, "add"], [11.5, 2.0, "softmax_kernel"]]}
    (stored_results / "p.json").write_text(json.dumps({**RUN, "ways": {"a model": lanes}}))
    text = drawn(lab.profile("p", None))
    assert "a model: 14 µs" in text and "NVIDIA X" in text and "add: 2 µs" in text


def test_the_quickest_recording_counts(monkeypatch):
    slow = [{**event, "dur": 99.0} for event in EVENTS if "cat" in event]
    recordings = iter([slow, EVENTS, slow, slow, slow])
    monkeypatch.setattr(profile, "recorded", lambda call: next(recordings))
    assert profile.quickest(None) == profile.lanes(EVENTS)


def test_a_profiler_that_sees_nothing():
    with pytest.raises(RuntimeError, match="saw nothing run on the GPU"):
        profile.lanes(EVENTS[:2])


@pytest.mark.parametrize("name, shortened", [
    ("conv2d_kernel", "conv2d_kernel"),
    ("void (anonymous namespace)::softmax_warp_forward<float, 8>(float*)", "softmax_warp_forward"),
    ("void cutlass::Kernel2<cutlass_80_tensorop>(Params)", "Kernel2"),
    ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD"),
])
def test_names(name, shortened):
    assert profile.short(name) == shortened


@pytest.mark.gpu
def test_on_a_gpu():
    x = torch.ones(2**20, device="cuda")
    lanes = profile.lanes(profile.recorded(lambda: (x + 1).relu()))
    assert len(lanes["GPU"]) == 2 and len(lanes["CPU"]) == 2
