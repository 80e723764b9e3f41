"""The layers of known models as they are called, one image and many at a time, whatever kernels they reach.

No two GPUs rank a layer's configurations alike: see `tests.aot.compile`.
"""
from collections.abc import Callable, Iterator
from functools import partial

import torch

from course.kernels import (
    adaptive_avg_pool2d, batch_norm, conv2d, group_norm, layer_norm, linear, matmul, max_pool2d,
    scaled_dot_product_attention, softmax, stem,
)

Case = tuple[str, Callable[[], object]]

CONVOLUTIONS = [  # channels, side, filters, kernel size, stride, padding, groups, images
    (64, 56, 64, 3, 1, 1, 1, (1, 16, 128)), (64, 56, 128, 3, 2, 1, 1, (1, 64)), (128, 28, 128, 3, 1, 1, 1, (1, 32)),
    (256, 14, 256, 3, 1, 1, 1, (1, 16, 256)), (512, 7, 512, 3, 1, 1, 1, (1, 8, 128)),  # ResNet-18
    (64, 56, 256, 1, 1, 0, 1, (1, 16)), (1024, 14, 2048, 1, 2, 0, 1, (8,)), (2048, 7, 512, 1, 1, 0, 1, (1, 64)),  # -50
    (128, 56, 128, 3, 1, 1, 32, (1, 16)), (1024, 7, 1024, 3, 1, 1, 32, (16,)),  # ResNeXt-50
    (96, 112, 96, 3, 2, 1, 96, (16,)), (96, 28, 576, 1, 1, 0, 1, (16,)),  # MobileNetV2
    (240, 28, 240, 5, 1, 2, 240, (1,)), (384, 14, 384, 7, 1, 3, 384, (16,)),  # EfficientNet-B0, ConvNeXt-Tiny
    (3, 224, 64, 7, 2, 3, 1, (1, 64)), (3, 224, 768, 16, 16, 0, 1, (1, 64)), (3, 32, 24, 3, 1, 1, 1, (512,)),
]

LINEARS = [  # rows, in_features, out_features, activation, residual
    (197, 768, 2304, None, False), (197, 768, 768, None, True), (197, 768, 3072, "gelu", False),
    (197, 3072, 768, None, True), (12_608, 768, 3072, "gelu", False), (12_608, 3072, 768, None, True),  # ViT-B/16
    (50_432, 768, 2304, None, False), (16, 2048, 1000, None, False), (1, 4096, 11_008, "silu", False),
    (3136, 96, 384, "gelu", False), (300, 100, 10, None, False),
]

HEADS = [  # images, heads, tokens, size, causal
    (1, 12, 197, 64, False), (64, 12, 197, 64, False), (16, 12, 1024, 64, True), (16, 12, 1024, 128, False),
    (4, 16, 4096, 128, True), (64, 3, 49, 32, False), (2, 8, 1500, 256, False), (1, 1, 17, 16, True),
]


def cases(dtype: torch.dtype) -> Iterator[Case]:
    def empty(*shape: int, last: bool = False) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last if last else torch.contiguous_format)

    for channels, side, filters, kernel_size, stride, padding, groups, batches in CONVOLUTIONS:
        weight, bias = empty(filters, channels // groups, kernel_size, kernel_size), empty(filters)
        for images in batches:
            for last in (True, False):
                x = empty(images, channels, side, side, last=last)
                label = f"conv2d {tuple(x.shape)}, {tuple(weight.shape)}{' channels_last' if last else ''}"
                yield label, partial(conv2d, x, weight, bias, stride, padding, 1, groups, activation="relu")
    for rows, inputs, outputs, activation, residual in LINEARS:
        added = empty(rows, outputs) if residual else None
        operands = empty(rows, inputs), empty(outputs, inputs), empty(outputs)
        yield f"linear {rows}, {inputs}, {outputs}", partial(linear, *operands, activation=activation, residual=added)
    for images, heads, tokens, size, causal in HEADS:
        qkv = empty(images, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
        yield f"attention {tuple(qkv.shape[1:])}", partial(scaled_dot_product_attention, *qkv, is_causal=causal)
    square, batch = empty(4096, 4096), empty(96, 197, 64)
    yield "matmul 4096", partial(matmul, square, square)
    yield "matmul 96, 197", partial(matmul, batch, batch.mT)
    for images in (1, 64):
        x, parameters = empty(images, 64, 112, 112, last=True), empty(2, 768)
        yield f"stem {images}", partial(stem, empty(images, 3, 224, 224), empty(64, 7, 8, 4), empty(64))
        yield f"max_pool2d {images}", partial(max_pool2d, x, 3, 2, 1)
        yield f"adaptive_avg_pool2d {images}", partial(adaptive_avg_pool2d, x[..., :7, :7], 1)
        yield f"batch_norm {images}", partial(batch_norm, x, *empty(2, 64), training=True)
        yield f"group_norm {images}", partial(group_norm, x, 32)
        yield f"layer_norm {images}", partial(layer_norm, empty(197 * images, 768), (768,), *parameters)
        yield f"softmax {images}", partial(softmax, empty(images, 50_257))
