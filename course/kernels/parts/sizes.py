"""Arithmetic on sizes before a launch.

`triton.cdiv` and `triton.next_power_of_2` compute the same, for kernels as well, but take the CPU 3 us a call: as long
as a whole operator of PyTorch.
"""

INTERPRETER_BLOCK = 1 << 16
"""Elements of a block in the interpreter, whose time is proportional to the number of programs."""


def cdiv(a: int, b: int) -> int:
    """How many parts of `b` cover `a`."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is not less than `n`; 0 for 0."""
    return 1 << (n - 1).bit_length() if n else 0
