import os

os.environ.setdefault("COURSE_TUNE", "0")  # tests draw random shapes: each takes its kernel's own guess

import course  # noqa: F401  before Triton

import tempfile
from pathlib import Path

import filelock
import hypothesis
import pytest
import torch

from course import runtime
from course.precision import full_precision
from course.runtime import DEVICE, INTERPRET

hypothesis.settings.register_profile("course", deadline=None, max_examples=25)
hypothesis.settings.load_profile("course")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU: compiled kernels, TF32, tensors past 2**31 elements")
    config.addinivalue_line("markers", "full: too slow for every run; `make test-full` adds it")
    if hasattr(config, "workerinput"):  # several workers share the cores
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if INTERPRET and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return DEVICE


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def fresh_inputs(request):
    """Other random inputs every time; a failing test prints its seed, and SEED=… brings it back."""
    seed = int(os.environ.get("SEED", torch.seed() % 2**32))
    torch.manual_seed(seed)
    print(f"SEED={seed}")


@pytest.fixture
def set_capability(monkeypatch):
    """Until the test's end the GPU has the compute capability that this is called with."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(runtime, "capability", lambda: (major, minor))
        runtime.has_tensor_cores.cache_clear()

    yield pretend
    monkeypatch.undo()
    runtime.has_tensor_cores.cache_clear()


@pytest.fixture(autouse=True)
def nan_filled_outputs():
    """`torch.empty` fills its result with NaN, so that an element no kernel wrote cannot pass."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def whole_gpu():
    """The GPU's memory for one test of all parallel ones: for tensors of gigabytes."""
    with filelock.FileLock(Path(tempfile.gettempdir()) / "course-tests-whole-gpu.lock"):
        yield
        torch.cuda.empty_cache()


@pytest.fixture
def ieee():
    """Float32 products in full precision, whatever the machine allows."""
    with full_precision():
        yield
