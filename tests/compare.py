"""How far a result may lie from the exact one, derived from the dtype and the sums behind it."""
import time

import pytest
import torch

from course import verify
from course.runtime import INTERPRET

UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of rounding once to nearest (u = eps / 2)."""

TF32 = 2.0**-11
"""The same for TF32's 10 bits of fraction."""

one_dtype = pytest.mark.parametrize("dtype", [torch.float16], ids=["float16"])
"""For what is the same in every dtype, as an operator's registration: not float32, which a forgotten dtype would be."""


def assert_accurate(
    got: torch.Tensor,
    exact: torch.Tensor,
    *,
    terms: int = 1,
    magnitude: torch.Tensor | float | None = None,
    input_rounding: float = 0.0,
    slack: float = 4.0,
) -> None:
    """`got` is `exact` (float64) up to one rounding to its dtype and the errors of a float32 sum.

    A sum of `terms` float32 products has an error of at most terms * u32 * magnitude, where `magnitude`
    is the sum of the absolute products (Higham, Accuracy and Stability of Numerical Algorithms, 3.1);
    the default takes |exact|. `input_rounding` is the relative error that each operand of a product brings
    in (TF32). `slack` covers second-order terms and the few ulps of exp, erf and rsqrt. NaN and infinities
    must stand where `exact` has them once rounded to the dtype.
    """
    assert got.shape == exact.shape, f"expected shape {tuple(exact.shape)}, got {tuple(got.shape)}"
    got64, exact = got.detach().cpu().double(), exact.detach().cpu().double()
    rounded = exact.to(got.dtype).double()  # where a finite value overflows the dtype, infinity is right
    finite = rounded.isfinite()
    torch.testing.assert_close(got64[~finite], rounded[~finite], rtol=0, atol=0, equal_nan=True)
    if magnitude is None:
        magnitude = exact.abs()
    magnitude = torch.as_tensor(magnitude, dtype=torch.float64).cpu().expand(exact.shape)
    # the interpreter truncates to bfloat16 where the hardware rounds
    unit = UNIT[got.dtype] * (2 if INTERPRET and got.dtype == torch.bfloat16 else 1)
    tiny = torch.finfo(got.dtype).smallest_normal * unit * 2  # half the step among subnormal numbers
    bound = unit * exact.abs() + (slack * terms * UNIT[torch.float32] + 2 * input_rounding) * magnitude + tiny
    error = (got64 - exact).abs()
    wrong = finite & ~(error <= bound)
    if wrong.any():
        first = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements out of bounds; first at {first}: "
            f"expected {exact[first]:.9g}, got {got64[first]:.9g}, "
            f"error {error[first]:.3g} over a bound of {bound[first]:.3g}"
        )


def assert_like_pytorch(got: torch.Tensor, want: torch.Tensor) -> None:
    """Same shape, dtype, device and memory format as PyTorch's own result."""
    assert (got.shape, got.dtype, got.device) == (want.shape, want.dtype, want.device)
    if got.numel() > 1:
        dims = [d for d in range(got.ndim) if got.shape[d] > 1]  # the stride of a size of 1 says nothing
        assert [got.stride(d) for d in dims] == [want.stride(d) for d in dims]


def assert_layers_like_pytorch(ours, theirs, images, capsys, but=()) -> None:
    """The output of every submodule whose name does not end with `but`; in the interpreter under 60 s."""
    names = [name for name, _ in ours.named_modules() if not name.endswith(but)]
    want = verify.record(theirs, names, images)
    start = time.perf_counter()
    got = verify.record(ours, names, images)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f" {seconds:.1f} s", end="")
    assert seconds < 60
    assert got.keys() == want.keys()
    for name in got:  # in the order in which they ran: the first to differ is named
        assert_close_to_original(name, got[name], want[name])


def assert_close_to_original(name, got, want) -> None:
    error, largest = (got - want).abs().max().item(), want.abs().max().item()
    cosine = torch.nn.functional.cosine_similarity(got.flatten().double(), want.flatten().double(), dim=0)
    assert error <= 1e-4 * largest and cosine >= 0.999999, f"{name}: {error:.3g} of {largest:.3g}, cosine {cosine:.9f}"
