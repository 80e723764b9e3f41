"""The order in which programs compute the tiles of a matrix."""
import triton
import triton.language as tl


@triton.jit
def grouped_tile(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(row, column) of tile number `tile` among the tiles of an (M, N) matrix.

    Numbers go down a column of GROUP_M tiles before they go on to the next column of tiles. Programs that run at the
    same time then cover a square rather than a strip, and find the rows of the left operand and the columns of the
    right one that they share in the L2 cache.
    """
    group_size = GROUP_M * tl.cdiv(N, BLOCK_N)
    first_m = tile // group_size * GROUP_M
    rows = tl.minimum(tl.cdiv(M, BLOCK_M) - first_m, GROUP_M)
    return first_m + tile % group_size % rows, tile % group_size // rows
