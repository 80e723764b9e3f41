"""A run as `course.results.circumstances` describes it, with made-up values."""


RUN = {
    "gpu": "NVIDIA X", "driver": "1", "versions": {"torch": "2"}, "commit": "abc", "date": "2026-01-02T03:04:05+00:00",
    "limits": {"copy_gbps": 1000.0, "half_tflops": 100.0, "tf32_tflops": 50.0},
}
