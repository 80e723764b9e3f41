"""What a call of conv2d asks for, and what it returns: PyTorch's sizes and memory format."""
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton

from course import runtime
from course.kernels.parts.activation import ACTIVATIONS
from course.kernels.parts.checks import pair
from course.kernels.parts.images import suggest_memory_format
from course.kernels.parts.sizes import next_power_of_2
from course.kernels.parts.tf32 import round_to_tf32

FEW_CHANNELS = 8
"""At most so many are spread, where TMA cannot read pixels of so few bytes."""

SMALL = 2**24
"""Multiply-adds of a problem that computes faster than measuring it would pay off."""


class ConvolutionEpilogue(NamedTuple):
    """What finishes the sums, and where: one argument of the kernels through pointers. None stands for nothing."""

    bias: torch.Tensor | None
    """(K,), contiguous"""
    residual: torch.Tensor | None
    """(N, K, P, Q)"""
    residual_strides: tuple[int, ...] | None
    out: torch.Tensor
    """(N, K, P, Q)"""
    out_strides: tuple[int, ...]
    activation: triton.JITFunction | None
    rounding: triton.JITFunction | None
    """`round_to_tf32` where the next layer multiplies the result as TF32"""


class Convolution(NamedTuple):
    """Images x (N, channels, H, W) under filters (K, C, R, S), to a result (N, K, P, Q).

    `channels` is C * groups. Only the windows that `few_channels` makes have fewer channels than their filters, which
    are filled up with zeros. Strides are in elements, and in the order of the dimensions.
    """

    N: int
    channels: int
    H: int
    W: int
    K: int
    C: int
    R: int
    S: int
    P: int
    Q: int
    x_strides: tuple[int, ...]
    residual_strides: tuple[int, ...] | None
    """None without a residual"""
    memory_format: torch.memory_format
    """the result's"""
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """at the top, the bottom, the left and the right"""
    dilation: tuple[int, int]
    groups: int
    activation: str | None
    dtype: torch.dtype
    precision: str
    """of float32: "ieee"; "tf32", for which the operands are rounded; or "tf32_operands", where x and the filters hold
    TF32 numbers already"""
    tf32_result: bool
    """whether the result is to hold TF32 numbers, for the next layer"""
    aligned: bool
    """whether x and the filters begin at multiples of 16 bytes"""
    residual_aligned: bool
    """whether the residual does; True without one"""

    @property
    def result(self) -> tuple[int, int, int, int]:
        return self.N, self.K, self.P, self.Q

    def epilogue(
        self, bias: torch.Tensor | None, residual: torch.Tensor | None, out: torch.Tensor
    ) -> ConvolutionEpilogue:
        activation = ACTIVATIONS[self.activation]
        return ConvolutionEpilogue(
            bias, residual, self.residual_strides, out, self.out_strides, activation, self.rounding
        )

    @property
    def out_strides(self) -> tuple[int, int, int, int]:
        _, K, P, Q = self.result
        last = self.memory_format == torch.channels_last
        return (K * P * Q, 1, Q * K, K) if last else (K * P * Q, P * Q, Q, 1)

    @property
    def rounding(self) -> triton.JITFunction | None:
        """What the result is rounded with, beside its dtype."""
        return round_to_tf32 if self.tf32_result else None

    @property
    def n_pixels(self) -> int:
        """Pixels of the result, in all images."""
        return self.N * self.P * self.Q

    @property
    def group_filters(self) -> int:
        """Filters of a group."""
        return self.K // self.groups

    @property
    def x_channels_last(self) -> bool:
        """Whether channels of x lie closer together than its columns."""
        return self.x_strides[1] <= self.x_strides[3]

    @property
    def out_channels_last(self) -> bool:
        """The same of the result."""
        return self.out_strides[1] <= self.out_strides[3]

    @property
    def x_without_gaps(self) -> bool:
        """Whether one step leads from each pixel of an image of x to the next, and no element stands for several."""
        return pixel_step((self.H, self.W), self.x_strides) is not None and min(self.x_strides) > 0

    @property
    def on_tensor_cores(self) -> bool:
        """Whether tensor cores multiply these numbers on this GPU."""
        return (self.dtype != torch.float32 or self.precision != "ieee") and runtime.has_tensor_cores()

    @property
    def tma_reads(self) -> bool:
        """Whether TMA can read images and filters as they are, 64 bytes or more at a time."""
        itemsize = self.dtype.itemsize
        pixels = whole_pixels((self.N, self.H, self.W), self.x_strides, itemsize)
        return self.aligned and pixels and self.C * itemsize % 64 == 0

    @property
    def tma_writes(self) -> bool:
        """Whether TMA can write the result, and read the residual."""
        strides = [self.out_strides] + ([] if self.residual_strides is None else [self.residual_strides])
        return self.residual_aligned and all(
            whole_pixels((self.N, self.P, self.Q), s, self.dtype.itemsize) for s in strides
        )

    @property
    def layout(self) -> str:
        """How x and the result lie in memory: in "pixels" that TMA can read and write (x, if it has few channels, once
        these are spread), or else by their innermost dimension."""
        if self.tma_writes and (self.tma_reads or self.channels <= FEW_CHANNELS):
            return "pixels"
        x, out = ("channels_last" if last else "contiguous" for last in (self.x_channels_last, self.out_channels_last))
        return (x if x == out else f"{x} to {out}") + " with gaps" * (not self.x_without_gaps)

    @property
    def worth_measuring(self) -> bool:
        return self.n_pixels * self.K * self.C * self.R * self.S >= SMALL

    def choice(self) -> dict[str, int | str]:
        """`layout` and `precision` are among the fields because they decide between engines."""
        p = self.as_single_pixels()
        pairs = {"stride": p.stride, "padding": p.padding[::2], "dilation": p.dilation}
        return {
            "N": next_power_of_2(p.N), "C": p.C, "H": p.H, "W": p.W, "K": p.K, "P": p.P, "Q": p.Q, "R": p.R, "S": p.S,
            **{name: f"{high}x{wide}" for name, (high, wide) in pairs.items()}, "groups": p.groups,
            "dtype": str(p.dtype).removeprefix("torch."), "precision": p.precision.removesuffix("_operands"),
            "layout": self.layout,
        }

    def as_single_pixels(self) -> "Convolution":
        """The same with images of one pixel each, and so many more of them, if filters of one tap see no more.

        The pixels of x, of the residual and of the result must lie one after the other for that.
        """
        one_tap = self.R * self.S * max(self.stride) == 1 and max(self.padding) == 0
        images = [(self.channels, self.x_strides), (self.K, self.out_strides)]
        if self.residual_strides is not None:
            images.append((self.K, self.residual_strides))
        if not one_tap or not all(is_channels_last((self.N, c, self.H, self.W), s) for c, s in images):
            return self
        return self._replace(
            N=self.n_pixels, H=1, W=1, P=1, Q=1, x_strides=(self.channels, 1, 1, 1),
            residual_strides=None if self.residual_strides is None else (self.K, 1, 1, 1),
        )


def pixel_step(size: tuple[int, int], strides: tuple[int, ...]) -> int | None:
    """The step from pixel to pixel, from the end of a row to the next as well; None where there is no one step."""
    height, width = size
    if width == 1:
        return strides[2]
    return strides[3] if height == 1 or strides[2] == width * strides[3] else None


def whole_pixels(sizes: tuple[int, int, int], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether the channels of each pixel of so many images, rows and columns lie side by side, and TMA can step from
    pixel to pixel: by multiples of 16 bytes."""
    steps = [strides[d] * itemsize for d, size in zip((0, 2, 3), sizes) if size > 1]
    return strides[1] == 1 and all(step > 0 and step % 16 == 0 for step in steps)


def is_channels_last(shape: tuple[int, int, int, int], strides: tuple[int, ...]) -> bool:
    """Whether the tensor is contiguous in the order images, rows, columns, channels."""
    step = 1
    for d in (1, 3, 2, 0):
        if shape[d] > 1 and strides[d] != step:
            return False
        step *= shape[d]
    return True


@functools.lru_cache(maxsize=4096)
def convolution_problem(
    x_shape: tuple[int, ...], x_strides: tuple[int, ...], weight_shape: tuple[int, ...],
    weight_strides: tuple[int, ...], residual_strides: tuple[int, ...] | None, stride: tuple[int, int],
    padding: tuple[int, int, int, int], dilation: tuple[int, int], groups: int, activation: str | None,
    dtype: torch.dtype, precision: str, tf32_result: bool, aligned: bool, residual_aligned: bool,
) -> Convolution:
    """The problem of tensors with these shapes and strides."""
    N, K, P, Q = result_shape(x_shape, weight_shape, stride, padding, dilation)
    memory_format = result_format(x_shape, x_strides, weight_shape, weight_strides)
    return Convolution(
        N, *x_shape[1:], K, *weight_shape[1:], P, Q, x_strides, residual_strides, memory_format, stride, padding,
        dilation, groups, activation, dtype, precision, tf32_result, aligned, residual_aligned,
    )


def pad_sides(
    padding: int | tuple[int, int] | str, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int, int]:
    """Zeros at the top, the bottom, the left and the right."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if max(stride) > 1:
            raise ValueError(f"conv2d: expected stride 1 for padding='same', got {stride}")
        high, wide = (d * (k - 1) for d, k in zip(dilation, kernel_size))
        return high // 2, high - high // 2, wide // 2, wide - wide // 2
    if isinstance(padding, str):
        raise ValueError(f"conv2d: expected padding to be 'same', 'valid' or integers, got {padding!r}")
    high, wide = pair("conv2d", "padding", padding)
    return high, high, wide, wide


def result_shape(
    x_shape: Sequence[int], weight_shape: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """(N, K, P, Q) for x (N, C, H, W); a size of 0 or less is that of an image smaller than the filter."""
    (N, _, H, W), (K, C, R, S) = x_shape, weight_shape
    P = (H + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    return N, K if C else 0, P, Q  # PyTorch's rule: no channels in, no channels out


def result_format(
    x_shape: Sequence[int], x_strides: Sequence[int], weight_shape: Sequence[int], weight_strides: Sequence[int]
) -> torch.memory_format:
    """channels_last if x or the filters are, as with cuDNN (and with PyTorch on the CPU)."""
    formats = suggest_memory_format(x_shape, x_strides), suggest_memory_format(weight_shape, weight_strides)
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format
