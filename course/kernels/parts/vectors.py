"""Vectors of 16 bytes, the most that a thread loads or stores at once, and the bound that makes them possible."""
import triton
import triton.language as tl

VECTOR_BYTES = 16


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size`, a multiple of ALIGN, for masks such as `index < aligned(size, ALIGN)`.

    Dividing and multiplying again changes nothing but what the compiler knows: that of ALIGN neighbours all are inside
    or none is, so that a vector of them may be loaded under one mask.
    """
    return size // ALIGN * ALIGN
