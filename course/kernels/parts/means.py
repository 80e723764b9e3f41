"""The mean of a row, which is exact where the row's elements are equal.

The sum of n equal numbers c has more digits than float32 keeps, so that it is rounded, and a mean made of it misses c
by some units in the last place. Nothing but this error e is then left of x - mean, and a norm divides it by
sqrt(e**2 + eps): of such a row it makes numbers of up to 1, where zeros are right. Here what is left is averaged, too:

    m = sum(x) / n,    mean = m + sum(x - m) / n

For equal numbers the remainder c - m is exact (Sterbenz, 1974), and its mean errs by much less than a unit of c, so
that m and it give c. Any other mean, too, becomes as good as its last digit. It costs a subtraction and an addition an
element, and one sum a row, in registers. Relative to the row's first element instead of m, one sum would do, but digits
would be lost where that element is far from the others.

Sums of equal float16 or bfloat16 numbers are exact anyway while n times the digits of one fit into the 24 of float32.
"""
import triton
import triton.language as tl


@triton.jit
def row_means(x, inside, count, DTYPE: tl.constexpr):
    """The means along the last axis of `x`, in float32.

    x: in float32, converted from DTYPE, and 0 outside
    inside: which elements count, of x's shape or broadcastable
    count: how many they are in a row, at least 1, in float32
    """
    AXIS: tl.constexpr = len(x.shape) - 1
    total = tl.sum(x, axis=AXIS)
    mean = total / count
    if x.shape[AXIS] * 2 ** (DTYPE.fp_mantissa_width + 1) > 2**24:
        return mean + tl.sum(tl.where(inside, x - tl.expand_dims(mean, AXIS), 0.0), axis=AXIS) / count
    # the total of equal numbers is exact, but `/` on a GPU is not: it may be off by two units
    return tl.fma(tl.fma(-mean, count, total), 1.0 / count, mean)


@triton.jit
def mean_of_parts(means, counts, n):
    """The means of rows of `n` elements from the `means` of their parts, (rows, parts): (rows,) in float32.

    counts: elements of each part, 0 for a part that does not exist, broadcastable to means
    """
    mean = tl.sum(means * counts, axis=1) / n
    return mean + tl.sum((means - mean[:, None]) * counts, axis=1) / n
