"""What becomes of the sums of a convolution through pointers, while they are still in registers.

    out[n, k, p, q] = activation(sums[n, k, p, q] + bias[k] + residual[n, k, p, q])

All in float32, and rounded once.
"""
import triton
import triton.language as tl

from course.kernels.convolution.tile import along, image_offset


@triton.jit
def result_pointers(ptr, strides, n, p, q, k, PIXEL_DIM: tl.constexpr):
    """Where a tensor of the result's shape holds the pixels n, p, q and the channels k."""
    pixels = along(image_offset(n, p, q, strides), PIXEL_DIM)
    return ptr + pixels + along(k.to(tl.int64) * strides[1], 1 - PIXEL_DIM)


@triton.jit
def finished(acc, epilogue, residual_ptrs, inside):
    """What `epilogue` makes of the sums `acc`, to which the bias was added. `residual_ptrs` are used if there is one.
    """
    if epilogue.residual is not None:
        acc += tl.load(residual_ptrs, mask=inside).to(tl.float32)
    if epilogue.activation is not None:
        acc = epilogue.activation(acc)
    if epilogue.rounding is not None:
        acc = epilogue.rounding(acc)
    return acc


@triton.jit
def store_result(acc, epilogue, n, p, q, pixel_inside, k, k_inside, PIXEL_DIM: tl.constexpr):
    """Stores what `epilogue` makes of the sums `acc` at the pixels n, p, q and the channels k."""
    inside = along(pixel_inside, PIXEL_DIM) & along(k_inside, 1 - PIXEL_DIM)
    if epilogue.bias is not None:
        acc += along(tl.load(epilogue.bias + k, mask=k_inside).to(tl.float32), 1 - PIXEL_DIM)
    residual_ptrs = None
    if epilogue.residual is not None:
        residual_ptrs = result_pointers(epilogue.residual, epilogue.residual_strides, n, p, q, k, PIXEL_DIM)
    acc = finished(acc, epilogue, residual_ptrs, inside)
    tl.store(result_pointers(epilogue.out, epilogue.out_strides, n, p, q, k, PIXEL_DIM), acc, mask=inside)
