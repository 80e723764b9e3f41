"""What is measured of the kernels that only move bytes, and what a measurement is made of.

A case is one operation on one size: our function and the peers', all called with the same arguments. The sizes go
from 1 MiB of input, which fits into any cache, to 1 GiB.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from course import kernels
from course.runtime import DEVICE
from course.timing import footprint

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MIB = 2**20
SIZES = [(size * MIB, "fp16") for size in (1, 4, 16, 64, 256, 1024)] + [(size * MIB, "fp32") for size in (16, 256)]
"""Bytes of input, dtype."""

IMAGE = (64, 112, 112)
"""What ResNet-18 normalises and pools: its stem's output, channels_last."""

FEATURES = (512, 7, 7)
"""What it takes the mean of."""


@dataclass(frozen=True)
class Case:
    """`ours(*inputs())` beside each of `peers`; `operations` counts additions, multiplications and functions of one
    number alike, and `moved(*arguments, result)` the bytes that have to be read and written.

    `reference`, by default the first peer, says what is right, called with the same numbers in higher precision. With
    `inductor`, the first peer is compiled as well, and races under that name.
    """

    kernel: str
    shape: str
    dtype: str
    inputs: Callable[[], tuple]
    ours: Callable[..., torch.Tensor]
    peers: Mapping[str, Callable[..., torch.Tensor]]
    operations: int
    moved: Callable[..., int] = footprint
    inductor: bool = False
    reference: Callable[..., torch.Tensor] | None = None

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.kernel, self.shape, self.dtype

    def exact(self, *args: torch.Tensor) -> torch.Tensor:
        """The result for the same numbers in higher precision; call it where TF32 is switched off."""
        wider = torch.float64 if self.dtype == "fp32" else torch.float32
        return (self.reference or self.first_peer)(*(t.to(wider) for t in args))

    @property
    def first_peer(self) -> Callable[..., torch.Tensor]:
        return next(iter(self.peers.values()))


def randn(*shape: int, dtype: str, channels_last: bool = False) -> torch.Tensor:
    x = torch.randn(shape, device=DEVICE, dtype=DTYPES[dtype])
    return x.to(memory_format=torch.channels_last) if channels_last else x


def times(*sizes: int) -> str:
    return "×".join(map(str, sizes))


def pointwise(kernel: str, n: int, dtype: str) -> Case:
    """add, mul, relu or gelu of `n` elements."""
    theirs = {"add": torch.add, "mul": torch.mul, "relu": torch.relu, "gelu": F.gelu}[kernel]
    operands = 2 if kernel in ("add", "mul") else 1
    return Case(
        kernel, str(n), dtype,
        inputs=lambda: tuple(randn(n, dtype=dtype) for _ in range(operands)),
        ours=getattr(kernels, kernel), peers={"aten": theirs}, inductor=True,
        operations=n * (5 if kernel == "gelu" else 1),  # x * 0.5 * (1 + erf(x / sqrt(2)))
    )


def softmax(rows: int, cols: int, dtype: str) -> Case:
    return Case(
        "softmax", times(rows, cols), dtype,
        inputs=lambda: (randn(rows, cols, dtype=dtype),),
        ours=kernels.softmax, peers={"aten": lambda x: F.softmax(x, dim=-1)}, inductor=True,
        operations=5 * rows * cols,  # maximum, difference, exp, sum, quotient
    )


def layer_norm(rows: int, cols: int, dtype: str) -> Case:
    return Case(
        "layer_norm", times(rows, cols), dtype,
        inputs=lambda: (randn(rows, cols, dtype=dtype), randn(cols, dtype=dtype), randn(cols, dtype=dtype)),
        ours=lambda x, weight, bias: kernels.layer_norm(x, (cols,), weight, bias),
        peers={"aten": lambda x, weight, bias: F.layer_norm(x, (cols,), weight, bias)}, inductor=True,
        operations=7 * rows * cols,  # two sums, difference, square, three for scale and shift
    )


def batch_norm(n: int, image: tuple[int, int, int], dtype: str) -> Case:
    """In inference, channels_last."""
    channels = image[0]

    def inputs():
        mean, weight, bias = (randn(channels, dtype=dtype) for _ in range(3))
        return randn(n, *image, dtype=dtype, channels_last=True), mean, mean.abs() + 0.5, weight, bias

    return Case(
        "batch_norm", times(n, *image), dtype, inputs,
        ours=kernels.batch_norm, peers={"aten": F.batch_norm}, inductor=True,
        operations=2 * n * channels * image[1] * image[2],  # a scale and a shift of each channel
    )


def pool(kernel: str, n: int, image: tuple[int, int, int], dtype: str) -> Case:
    """Pools of channels_last images: max 3x3 / 2 as in ResNet's stem, avg 2x2 / 2, adaptive_avg to one pixel."""
    channels, height, width = image
    args = {"max_pool2d": (3, 2, 1), "avg_pool2d": (2, 2), "adaptive_avg_pool2d": (1,)}[kernel]
    ours, theirs = getattr(kernels, kernel), getattr(F, kernel)
    windows = {"max_pool2d": 9 / 4, "avg_pool2d": 1, "adaptive_avg_pool2d": 1}[kernel]  # that an element is in
    return Case(
        kernel, times(n, *image), dtype,
        inputs=lambda: (randn(n, *image, dtype=dtype, channels_last=True),),
        ours=lambda x: ours(x, *args), peers={"aten": lambda x: theirs(x, *args)}, inductor=True,
        operations=int(windows * n * channels * height * width),
    )


def byte_cases(sizes=SIZES) -> list[Case]:
    """Every kernel that only moves bytes, over `sizes`."""
    cases = []
    for kernel in ("add", "mul", "relu", "gelu"):
        cases += [pointwise(kernel, size // itemsize(dtype), dtype) for size, dtype in sizes]
    cases += [softmax(size // (1024 * itemsize(dtype)), 1024, dtype) for size, dtype in sizes]
    cases += [layer_norm(size // (768 * itemsize(dtype)), 768, dtype) for size, dtype in sizes]
    cases += [batch_norm(images(size, IMAGE, dtype), IMAGE, dtype) for size, dtype in sizes]
    for kernel, image in (("max_pool2d", IMAGE), ("avg_pool2d", IMAGE), ("adaptive_avg_pool2d", FEATURES)):
        cases += [pool(kernel, images(size, image, dtype), image, dtype) for size, dtype in sizes]
    return cases


def itemsize(dtype: str) -> int:
    return DTYPES[dtype].itemsize


def images(size: int, image: tuple[int, int, int], dtype: str) -> int:
    """How many of them make about `size` bytes."""
    channels, height, width = image
    return max(1, round(size / (channels * height * width * itemsize(dtype))))
