"""`roofline`, by its words."""
from course import lab
from course.results import Results
from tests.lab.drawn import drawn
from tests.lab.runs import RUN


def test_nothing_is_stored():
    assert "No result is stored for the kernels yet" in repr(lab.roofline(Results("kernels")))


def test_shares_of_the_limit():
    def row(kernel, gbps, tflops, provider="course"):
        return {"kernel": kernel, "shape": f"{gbps}", "dtype": "bf16", "provider": provider, "median_ms": 1.0,
                "q20_ms": 1.0, "q80_ms": 1.0, "gbps": gbps, "tflops": tflops, "limit_ms": 1.0}

    kernels = Results("kernels")
    kernels.add([row("add", 900.0, 0.1), row("add", 500.0, 0.05), row("matmul", 100.0, 80.0),
                 row("matmul", 100.0, 99.0, "aten")], RUN)
    text = drawn(lab.roofline(kernels))
    assert "add, sizes: 2, from 50% to 90% of the limit" in text and "matmul, sizes: 1, from 80% to 80%" in text
