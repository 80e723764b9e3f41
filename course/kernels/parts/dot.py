"""A product of two blocks on tensor cores."""
import triton
import triton.language as tl

from course.kernels.parts.tf32 import INTERPRETED, round_to_tf32


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b for a (M, K) and b (K, N), accumulated in float32; None for acc stands for zeros.

    PRECISION matters to float32 alone: "ieee"; "tf32", for which a and b are rounded here; or "tf32_operands", where
    they hold TF32 numbers already. The interpreter would multiply the raw bits of bfloat16 numbers, so there a and b
    are converted to float32 first: exactly, and as tensor cores do.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if PRECISION == "tf32" and a.dtype == tl.float32:
        a = round_to_tf32(a)
        b = round_to_tf32(b)
    return tl.dot(a, b, acc, input_precision="ieee" if PRECISION == "ieee" else "tf32")
