"""Means of whole small images with innermost channels, such as those of 7 x 7 at the end of a ResNet.

    y[n, c] = 1 / length * sum_l x[n, l, c]

A thread that takes the pixels one after the other waits for memory several times, which does not pay for an image so
small. Here a program asks for all pixels of 64 channels at once, and adds them up when they are there: for 334 images
of 512 channels in float16 an H200 takes 6.0 us, and 11.1 us in a loop.
"""
import torch
import triton
import triton.language as tl

from course import runtime
from course.kernels.parts.pdl import pdl_launch_dependents, pdl_options, pdl_wait
from course.kernels.parts.sizes import cdiv, next_power_of_2
from course.kernels.pools.problem import SMALL_IMAGE, WindowMeans, one_row
from course.tuning import Config

CHANNELS = 64
THREAD_BYTES = 256  # that a thread has asked for at once: 64 registers
RESIDENT = 32  # programs that a multiprocessor has at a time


@triton.jit
def image_means_kernel(
    x_ptr, y_ptr, C, stride_n, stride_l, LENGTH: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_L: tl.constexpr, PDL: tl.constexpr,
):
    """BLOCK_C channels of one image of x (N, LENGTH, C), channels contiguous, and of y (N, C), contiguous.

    BLOCK_L covers LENGTH; strides: of the image and of the pixel in x
    """
    c_tiles = tl.cdiv(C, BLOCK_C)
    n = (tl.program_id(0) // c_tiles).to(tl.int64)  # int64, as tensors pass 2**31 elements
    channels = tl.program_id(0) % c_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    pixels = tl.arange(0, BLOCK_L)
    inside = (pixels < LENGTH)[:, None] & (channels < C)[None, :]

    pdl_wait(PDL)
    first = x_ptr + n * stride_n + pixels.to(tl.int64) * stride_l
    x = tl.load(first[:, None] + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    pdl_launch_dependents(PDL)
    tl.store(y_ptr + n * C + channels, tl.sum(x, axis=0) / LENGTH, mask=channels < C)


def can_run(problem: WindowMeans) -> bool:
    """Small images with innermost channels."""
    row = one_row(problem)
    return row is not None and row.divisor is None and row.x_strides[1] == 1 and row.x_shape[3] <= SMALL_IMAGE


def configs(problem: WindowMeans) -> list[Config]:
    """One configuration."""
    n, c, h, w = problem.x_shape
    block_c, block_l = min(next_power_of_2(c), CHANNELS), next_power_of_2(h * w)
    # while all programs run at once, there is room for twice the threads: 3 % faster on an H200 with 334 images in
    # float16, and 3 % slower with 1,337
    at_once = n * cdiv(c, block_c) <= RESIDENT * runtime.num_sms()
    share = THREAD_BYTES // 2 if at_once else THREAD_BYTES
    num_warps = max(block_c * block_l * problem.dtype.itemsize // (32 * share), 1)
    return [Config("image_means", {"BLOCK_C": block_c, "BLOCK_L": block_l}, num_warps)]


def launch(problem: WindowMeans, config: Config, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Writes the means of the images of x to y, which is contiguous: the two `operands`."""
    n, c, h, w = problem.x_shape
    stride_n, _, _, stride_w = problem.x_strides
    image_means_kernel[(n * cdiv(c, config.blocks["BLOCK_C"]),)](
        *operands, c, stride_n, stride_w, LENGTH=h * w,
        **config.blocks, num_warps=config.num_warps, **pdl_options(),
    )
