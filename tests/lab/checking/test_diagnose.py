"""Patterns of errors, and the words that explain them."""
import pytest
import torch

from course.lab.checking.diagnose import Evidence, across, meaning
from course.lab.checking.guarded import Guarded
from course.lab.checking.report import CaseResult
from course.lab.checking.usage import PyTorchWork, Usage, Used

INF = float("inf")


def evidence(got, wanted, faults=None):
    unwritten = got == -12345.0
    return Evidence(
        name="8 × 10", got=got, wanted=wanted, wrong=unwritten | ((got - wanted).abs() > 1e-4) | (got.isnan()),
        unwritten=unwritten, guard_writes=[], faults=faults or {}, inputs={}, changed=[],
    )


@pytest.fixture
def rows():
    return torch.softmax(torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), -1)


def own(rows):
    """A number for each row."""
    return torch.linspace(0.5, 2.0, len(rows))[:, None]


@pytest.mark.parametrize("spoil, words", [
    (lambda y: y * own(y), "a number of its own, which multiplies it"),
    (lambda y: y + own(y), "a number of its own, which is added to it"),
    (lambda y: y.where(torch.ones_like(y).tril().bool(), torch.tensor(-12345.0)), "right of the diagonal is missing"),
    (lambda y: y * INF, "Infinity where a finite number belongs"),
    (lambda y: y * float("nan"), "although every load stayed in its tensor"),
])
def test_patterns(rows, spoil, words):
    (said,) = meaning(evidence(spoil(rows), rows))
    assert words in said


def test_what_a_causal_mask_should_hide(rows):
    (said,) = meaning(evidence(rows, rows.tril()))
    assert "a row sees columns that it must not" in said


def test_nan_from_a_load_outside_of_its_tensor(rows):
    says = meaning(evidence(rows * float("nan"), rows, faults={"load": "Program 0 read 1 element past the end of x"}))
    assert "a load brought in memory that is not the tensor's" in says[1]


def test_nearly_right_in_float32_and_in_float16(rows):
    said = []
    for dtype in torch.float32, torch.float16:
        e = evidence(rows + 3e-4, rows)
        e.inputs["x"] = torch.ones(3, dtype=dtype)
        said += meaning(e)
    assert "a small term is missing" in said[0] and "rounds too early" in said[1]


@pytest.mark.parametrize("failed, says", [
    ({"3 × 5", "2 × 7"}, 1), ({"3 × 5", "2 × 7", "3 × 8, no padding"}, 0), ({"1 × 1"}, 0), (set(), 0),
    ({"3 × 5", "2 × 7", "1 × 1"}, 1), ({"3 × 5"}, 0), ({"transposed 2 × 3"}, 0),
])
def test_what_only_padding_breaks(failed, says):
    sizes = {"3 × 5": 15, "2 × 7": 14, "3 × 8, no padding": 24, "1 × 1": 1, "transposed 2 × 3": 6}
    results = []
    for name, size in sizes.items():
        usage = Usage([], Guarded("out", torch.zeros(size), "cpu", filled=False))
        usage.masked = "no padding" not in name and name != "1 × 1"
        results.append(CaseResult(name, "wrong" * (name in failed), used=Used(usage, PyTorchWork([], 1))))
    assert len(across(results)) == says
    results[0].memory_fault = True
    assert not across(results)


def test_one_factor_for_all_rows_says_nothing_of_rows(rows):
    assert not any("of its own" in said for said in meaning(evidence(rows * 3, rows)))


@pytest.mark.parametrize("right, words", [
    (lambda y: y[:1], "Only the first image is right"),
    (lambda y: y[:, :1], "Only the first channel is right"),
    (lambda y: y[:, :, :1], "Only the first row is right"),
    (lambda y: y[..., :1], "Only the first column is right"),
    (lambda y: y[..., 1:-1, 1:-1], "Only the edges of the images are wrong"),
])
def test_images(right, words):
    wanted = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(1))
    right(noise).zero_()
    (said,) = meaning(evidence(wanted + noise, wanted))
    assert words in said
