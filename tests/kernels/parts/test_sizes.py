import hypothesis
import hypothesis.strategies as st
import triton

from course.kernels.parts.sizes import cdiv, next_power_of_2


@hypothesis.given(st.integers(-(2**40), 2**40), st.integers(1, 2**40))
def test_cdiv_is_triton_s(a, b):
    assert cdiv(a, b) == triton.cdiv(a, b)


@hypothesis.given(st.one_of(st.integers(0, 2**12), st.integers(0, 2**40)))
def test_next_power_of_2_is_triton_s(n):
    assert next_power_of_2(n) == triton.next_power_of_2(n)
