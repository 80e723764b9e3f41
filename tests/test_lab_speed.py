"""What the chapter on speed draws: timelines, times, profiles and the roofline, of figures made up here."""
import json
import os
import sys

import pytest
import torch

from course import lab
from course.kernels import add, mul
from course.lab import stored
from course.results import Results
from course.runtime import DEVICE

profile, timed = (sys.modules[f"course.lab.{name}"] for name in ("profile", "timed"))

RUN = {
    "gpu": "NVIDIA X", "driver": "1", "versions": {"torch": "2"}, "commit": "abc", "date": "2026-01-02T03:04:05+00:00",
    "limits": {"copy_gbps": 1000.0, "half_tflops": 100.0, "tf32_tflops": 50.0},
}  # fmt: skip


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    monkeypatch.setattr(stored, "INTERPRET", True)
    folder = tmp_path / "nvidia-x" / "notebooks"
    folder.mkdir(parents=True)
    return folder


def drawn(picture):
    picture.savefig(os.devnull, format="png")
    return repr(picture)


class TestTimeline:
    def test_words(self):
        ways = {"one by one": {"CPU": [(0, 5, "launch"), (5, 5, "launch")], "GPU": [(5, 2, "add"), (10, 3, "add")]},
                "at once": {"CPU": [(0, 6, "launch")], "GPU": [(6, 2, "add"), (8, 3, "add")]}}  # fmt: skip
        text = drawn(lab.draw_timeline(ways))
        assert "one by one: 13 µs; CPU busy 10 µs, boxes: 2; GPU busy 5 µs, boxes: 2" in text
        assert "at once: 11 µs" in text and "add: 5 | 5 µs\nlaunch" in text

    def test_what_takes_little_is_grey(self):
        kernels = [(i, 20 - i, f"kernel {i}") for i in range(12)]
        text = drawn(lab.draw_timeline({"a": {"GPU": kernels}}))
        assert "kernel 0: 20 µs" in text and "kernel 7" in text and "kernel 8" not in text
        assert text.endswith("launches, and what takes less")

    def test_nothing_to_draw(self):
        with pytest.raises(ValueError, match="draw_timeline: expected at least one box"):
            lab.draw_timeline({"a": {"CPU": [], "GPU": []}})


class TestTimed:
    @pytest.mark.parametrize("log", [True, False])
    def test_the_stored_times_are_drawn(self, results, log):
        times = {**RUN, "log": log, "microseconds": {"a": 1.5, "b": 2500.0, "c": 3e6}}
        (results / "t.json").write_text(json.dumps(times))
        text = drawn(lab.timed("t", None))
        assert text.startswith("a: 1.5 µs\nb: 2.5 ms\nc: 3 s\nNo GPU here: this is the stored result of the NVIDIA X")
        assert "no result is stored for `u`" in repr(lab.timed("u", None))

    def test_times_are_taken_and_stored_where_there_is_a_gpu(self, results, monkeypatch):
        monkeypatch.setattr(stored, "INTERPRET", False)
        monkeypatch.setattr(stored, "gpu_name", lambda: "nvidia-x")
        monkeypatch.setattr(timed, "circumstances", lambda: RUN)
        monkeypatch.setenv("COURSE_STORE", "1")
        assert "Measured on this NVIDIA X" in drawn(lab.timed("t", lambda: {"a": 7}))
        assert json.loads((results / "t.json").read_text())["microseconds"] == {"a": 7.0}


class TestProfile:
    events = [
        {"cat": "cpu_op", "name": "aten::add", "ts": 99.0, "dur": 9.0},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 101.0, "dur": 4.0},
        {"cat": "cuda_runtime", "name": "cudaStreamIsCapturing", "ts": 100.0, "dur": 1.0},
        {"cat": "cuda_driver", "name": "cuLaunchKernelEx", "ts": 108.0, "dur": 3.0},
        {"cat": "kernel", "name": "softmax_kernel", "ts": 112.5, "dur": 2.0},
        {"cat": "kernel", "name": "void at::native::add<4, Functor<float>>(int, float)", "ts": 106.0, "dur": 2.5},
        {"name": "process_name", "ph": "M"},
    ]  # fmt: skip

    def test_launches_and_kernels(self, results):
        lanes = profile.lanes(self.events)
        assert lanes == {"CPU": [[0.0, 4.0, "launch"], [7.0, 3.0, "launch"]],
                         "GPU": [[5.0, 2.5, "add"], [11.5, 2.0, "softmax_kernel"]]}  # fmt: skip
        (results / "p.json").write_text(json.dumps({**RUN, "ways": {"a model": lanes}}))
        text = drawn(lab.profile("p", None))
        assert "a model: 14 µs" in text and "NVIDIA X" in text and "add: 2 µs" in text

    def test_the_quickest_recording_counts(self, monkeypatch):
        slow = [{**event, "dur": 99.0} for event in self.events if "cat" in event]
        recordings = iter([slow, self.events, slow, slow, slow])
        monkeypatch.setattr(profile, "recorded", lambda call: next(recordings))
        assert profile.quickest(None) == profile.lanes(self.events)

    def test_a_profiler_that_sees_nothing(self):
        with pytest.raises(RuntimeError, match="saw nothing run on the GPU"):
            profile.lanes(self.events[:2])

    @pytest.mark.parametrize("name, shortened", [
        ("conv2d_kernel", "conv2d_kernel"),
        ("void (anonymous namespace)::softmax_warp_forward<float, 8>(float*)", "softmax_warp_forward"),
        ("void cutlass::Kernel2<cutlass_80_tensorop>(Params)", "Kernel2"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD"),
    ])  # fmt: skip
    def test_names(self, name, shortened):
        assert profile.short(name) == shortened

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        x = torch.ones(2**20, device="cuda")
        lanes = profile.lanes(profile.recorded(lambda: (x + 1).relu()))
        assert len(lanes["GPU"]) == 2 and len(lanes["CPU"]) == 2


class TestRoofline:
    def test_nothing_is_stored(self):
        assert "No result is stored for the kernels yet" in repr(lab.roofline(Results("kernels")))

    def test_shares_of_the_limit(self):
        def row(kernel, gbps, tflops, provider="course"):
            return {"kernel": kernel, "shape": f"{gbps}", "dtype": "bf16", "provider": provider, "median_ms": 1.0,
                    "q20_ms": 1.0, "q80_ms": 1.0, "gbps": gbps, "tflops": tflops, "limit_ms": 1.0}  # fmt: skip

        kernels = Results("kernels")
        kernels.add([row("add", 900.0, 0.1), row("add", 500.0, 0.05), row("matmul", 100.0, 80.0),
                     row("matmul", 100.0, 99.0, "aten")], RUN)  # fmt: skip
        text = drawn(lab.roofline(kernels))
        assert "add, sizes: 2, from 50% to 90% of the limit" in text and "matmul, sizes: 1, from 80% to 80%" in text


class TestRecord:
    def test_it_goes_on_with_the_tensors_it_was_recorded_with(self):
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

    def test_changes_in_place_are_done_again(self):
        total = torch.zeros(2, device=DEVICE)
        graph = lab.record(lambda: total.add_(1))
        before = total.tolist()
        graph.replay()
        assert total.tolist() == [n + 1 for n in before]
