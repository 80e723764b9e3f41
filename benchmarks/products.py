"""What is measured of the kernels on tensor cores: the layers of ViT-B/16 and ResNet-18, and square matrices."""
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.cases import Case, randn, times
from course import kernels
from course.timing import footprint

BATCHES = (1, 8, 16, 64, 256)
CONV_BATCHES = (1, 16, 256)

TOKENS = 197
"""Of an image in ViT-B/16: 14 x 14 patches and the class token."""

LINEARS = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
"""ViT-B/16's layers, in and out: q, k and v; attention's output; the MLP's two."""

CONVS = [  # channels in, out, size of the filter, stride, height and width of the input
    (3, 64, 7, 2, 224),
    (64, 64, 3, 1, 56),
    (64, 128, 3, 2, 56), (64, 128, 1, 2, 56), (128, 128, 3, 1, 28),
    (128, 256, 3, 2, 28), (128, 256, 1, 2, 28), (256, 256, 3, 1, 14),
    (256, 512, 3, 2, 14), (256, 512, 1, 2, 14), (512, 512, 3, 1, 7),
]
"""ResNet-18's layers."""

GROUPED = [  # channels, groups, size of the filter, stride, height and width of the input
    (128, 32, 3, 1, 56), (256, 32, 3, 2, 56), (256, 32, 3, 1, 28), (512, 32, 3, 2, 28), (512, 32, 3, 1, 14),
    (1024, 32, 3, 2, 14), (1024, 32, 3, 1, 7),
]
"""ResNeXt-50's (32x4d)."""

DEPTHWISE = [  # channels, size of the filter, stride, height and width of the input
    *((c, 3, 1, hw) for c, hw in ((32, 112), (144, 56), (192, 28), (384, 14), (576, 14), (960, 7))),
    *((c, 3, 2, hw) for c, hw in ((96, 112), (144, 56), (192, 28), (576, 14))),
    *((c, 3, stride, hw) for c, stride, hw in ((240, 2, 28), (480, 1, 14), (1152, 1, 7))),
    *((c, 5, stride, hw) for c, stride, hw in ((144, 2, 56), (240, 1, 28), (480, 1, 14), (672, 1, 14), (672, 2, 14),
                                               (1152, 1, 7))),
    *((c, 7, 1, hw) for c, hw in ((96, 56), (192, 28), (384, 14), (768, 7))),
]
"""MobileNetV2's, EfficientNet-B0's that it does not have as well, and ConvNeXt's."""

GROUPED_BATCHES = (1, 16, 128)

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def matmul(n: int) -> Case:
    return Case(
        "matmul", times(n, n, n), "bf16",
        inputs=lambda: (randn(n, n, dtype="bf16"), randn(n, n, dtype="bf16")),
        ours=kernels.matmul, peers={"cublas": torch.matmul}, operations=2 * n**3,
    )


def linear(rows: int, k: int, n: int, then: str = "") -> Case:
    """A layer from k to n features, with its bias; `then` is "", "gelu" or "residual"."""

    def inputs():
        # as after initialisation: results of about 1, whatever k
        weight, bias = randn(n, k, dtype="bf16") * k**-0.5, randn(n, dtype="bf16")
        return randn(rows, k, dtype="bf16"), weight, bias, *([randn(rows, n, dtype="bf16")] * (then == "residual"))

    ours, theirs = {
        "": (kernels.linear, F.linear),
        "gelu": (lambda x, w, b: kernels.linear(x, w, b, activation="gelu"), lambda x, w, b: F.gelu(F.linear(x, w, b))),
        "residual": (lambda x, w, b, r: kernels.linear(x, w, b, residual=r), lambda x, w, b, r: F.linear(x, w, b) + r),
    }[then]
    return Case(
        "_".join(filter(None, ("linear", then))), f"{rows}×{k}→{n}", "bf16", inputs,
        ours=ours, peers={"cublas": theirs}, inductor=bool(then), operations=2 * rows * k * n,
    )


def conv2d(batch: int, layer: tuple[int, int, int, int, int]) -> Case:
    """One layer, bare: no bias, nothing after it."""
    c, k, size, stride, hw = layer

    def moved(x, weight, out):
        read = x[:, :, ::stride, ::stride] if size == 1 else x  # the others' pixels are in some filter's window
        return footprint(read, weight, out)

    return Case(
        "conv2d", conv_shape(batch, layer), "fp16",
        inputs=lambda: conv_inputs(batch, layer),
        ours=lambda x, w: kernels.conv2d(x, w, None, stride, size // 2),
        peers={"cudnn": lambda x, w: F.conv2d(x, w, None, stride, size // 2)},
        operations=conv_operations(batch, layer), moved=moved,
    )


def grouped_conv2d(batch: int, layer: tuple[int, int, int, int, int], kernel: str = "conv2d_grouped") -> Case:
    """One layer in groups, of as many filters as channels, bare."""
    c, groups, size, stride, hw = layer
    how = {"stride": stride, "padding": size // 2, "groups": groups}

    def inputs():
        weight = randn(c, c // groups, size, size, dtype="fp16", channels_last=True) * (c // groups * size**2) ** -0.5
        return randn(batch, c, hw, hw, dtype="fp16", channels_last=True), weight

    shape = f"{times(batch, c, hw, hw)} {size}×{size}" + f"/{stride}" * (stride > 1)
    return Case(
        kernel, shape, "fp16", inputs,
        ours=lambda x, w: kernels.conv2d(x, w, **how), peers={"cudnn": lambda x, w: F.conv2d(x, w, **how)},
        operations=2 * batch * (hw // stride) ** 2 * c * (c // groups) * size**2,
    )


def depthwise_conv2d(batch: int, layer: tuple[int, int, int, int]) -> Case:
    """One layer in which each channel has a filter of its own, bare."""
    c, size, stride, hw = layer
    return grouped_conv2d(batch, (c, c, size, stride, hw), "conv2d_depthwise")


def conv2d_norm_add_relu(batch: int, layer: tuple[int, int, int, int, int]) -> Case:
    """The end of a basic block: convolution, batch norm, the shortcut added, ReLU. Ours has the norm folded in."""
    c, k, size, stride, hw = layer

    def inputs():
        x, weight = conv_inputs(batch, layer)
        mean, scale, shift = (randn(k, dtype="fp16") for _ in range(3))
        var = randn(k, dtype="fp16").abs() + 0.5
        folding = scale.float() * torch.rsqrt(var.float() + 1e-5)
        folded = (weight.float() * folding.view(-1, 1, 1, 1)).to(weight.dtype, memory_format=torch.channels_last)
        bias = (shift.float() - mean.float() * folding).to(weight.dtype)
        residual = randn(batch, k, hw // stride, hw // stride, dtype="fp16", channels_last=True)
        return x, weight, residual, mean, var, scale, shift, folded, bias

    def theirs(x, weight, residual, mean, var, scale, shift, folded, bias):
        y = F.conv2d(x, weight, None, stride, size // 2)
        return F.relu(F.batch_norm(y, mean, var, scale, shift) + residual)

    def ours(x, weight, residual, mean, var, scale, shift, folded, bias):
        return kernels.conv2d(x, folded, bias, stride, size // 2, activation="relu", residual=residual)

    def moved(x, weight, residual, mean, var, scale, shift, folded, bias, out):
        return footprint(x, folded, bias, residual, out)

    return Case(
        "conv2d_norm_add_relu", conv_shape(batch, layer), "fp16", inputs, ours, {"cudnn": theirs},
        operations=conv_operations(batch, layer), moved=moved,
    )


def conv_shape(batch, layer):
    c, k, size, stride, hw = layer
    return f"{times(batch, c, hw, hw)}→{k} {size}×{size}" + f"/{stride}" * (stride > 1)


def conv_inputs(batch, layer):
    c, k, size, stride, hw = layer
    weight = randn(k, c, size, size, dtype="fp16", channels_last=True) * (c * size**2) ** -0.5
    return randn(batch, c, hw, hw, dtype="fp16", channels_last=True), weight


def conv_operations(batch, layer):
    c, k, size, stride, hw = layer
    return 2 * batch * (hw // stride) ** 2 * k * c * size**2


def attention(batch: int, tokens: int, heads: int = 12, channels: int = 64, mask: str = "") -> Case:
    """Without a mask, or with a "causal" one, or with a "boolean" or "additive" one (tokens, tokens) in memory."""
    in_memory = mask in ("boolean", "additive")
    options = {"is_causal": True} if mask == "causal" else {}
    theirs = functools.partial(F.scaled_dot_product_attention, **options)

    def inputs():
        q, k, v = (randn(batch, heads, tokens, channels, dtype="bf16") for _ in range(3))
        bias = randn(tokens, tokens, dtype="bf16")
        return (q, k, v, *((bias > -0.5 if mask == "boolean" else bias,) if in_memory else ()))

    def exactly(q, k, v, *masks):
        """Image by image: the whole batch's weights in float32 would not fit."""
        masks = [m.bool() if mask == "boolean" else m for m in masks]
        with sdpa_kernel(SDPBackend.MATH):
            return torch.stack([theirs(*qkv, *masks) for qkv in zip(q, k, v)])

    kind = "_masked" if in_memory else "_causal" if mask else "_wide" if channels > 64 else ""
    shape = times(batch, heads, tokens, channels)
    return Case(
        f"attention{kind}", f"{shape} {mask}" if in_memory else shape, "bf16", inputs,
        ours=functools.partial(kernels.scaled_dot_product_attention, **options),
        peers={name: restricted(theirs, backend) for name, backend in SDPA.items()},
        operations=4 * batch * heads * tokens**2 * channels // (2 if mask == "causal" else 1),
        reference=exactly,
    )


def restricted(function: Callable, backend: SDPBackend) -> Callable:
    """`function` with this backend of PyTorch's attention, or an error where it does not take the inputs."""

    def call(*args):
        with sdpa_kernel(backend):
            return function(*args)

    return call


def product_cases() -> list[Case]:
    cases = [matmul(n) for n in (2048, 4096, 8192)]
    cases += [linear(TOKENS * batch, *layer) for layer in LINEARS for batch in BATCHES]
    cases += [linear(TOKENS * batch, 768, 3072, "gelu") for batch in BATCHES]
    cases += [linear(TOKENS * batch, k, 768, "residual") for k in (768, 3072) for batch in BATCHES]
    cases += [conv2d(batch, layer) for layer in CONVS for batch in CONV_BATCHES]
    cases += [grouped_conv2d(batch, layer) for layer in GROUPED for batch in GROUPED_BATCHES]
    cases += [depthwise_conv2d(batch, layer) for layer in DEPTHWISE for batch in GROUPED_BATCHES]
    blocks = [layer for layer in CONVS if layer[0] == layer[1]]
    cases += [conv2d_norm_add_relu(batch, layer) for layer in blocks for batch in CONV_BATCHES]
    cases += [attention(batch, tokens) for tokens in (TOKENS, 1024) for batch in (1, 8, 64, 256)]
    cases += [attention(16, 1024, channels=128), attention(4, 4096, heads=16, channels=128)]
    cases += [attention(16, 1024, channels=channels, mask="causal") for channels in (64, 128)]
    cases += [attention(4, 4096, heads=16, channels=channels, mask="causal") for channels in (64, 128)]
    cases += [attention(16, 1024, channels=channels, mask=mask) for channels in (64, 128)
              for mask in ("boolean", "additive")]
    return cases
