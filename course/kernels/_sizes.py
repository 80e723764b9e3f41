"""Arithmetic on sizes, before a launch.

Triton has functions of these names for both sides. Outside of a kernel they take 3 us, as long as an operator of
PyTorch's takes the CPU altogether.
"""


def cdiv(a: int, b: int) -> int:
    """How many parts of `b` cover `a`."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is not less than `n`; 0 for 0."""
    return 1 << (n - 1).bit_length() if n else 0
