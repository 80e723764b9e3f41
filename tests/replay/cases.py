"""Calls of every operation, with other numbers each time: name -> device -> (function, arguments, by name)."""
import torch

from course.kernels import (
    adaptive_avg_pool2d, add, avg_pool2d, batch_norm, conv2d, gelu, group_norm, layer_norm, leaky_relu, linear,
    linear_with_statistics, matmul, max_pool2d, mul, patchify, relu, row_statistics, scaled_dot_product_attention, silu,
    softmax, stem,
)
from course.kernels.convolution.stem import stem_weight
from course.kernels.products.row_statistics import PART

r = torch.randn
LAST = torch.channels_last


def last(*shape):
    return r(shape).to(memory_format=LAST)


def qkv(batch=2, tokens=5, heads=3, size=8):
    """Three views of one projection."""
    return r(batch, tokens, 3 * heads * size).unflatten(-1, (3, heads, size)).permute(2, 0, 3, 1, 4).unbind()


def norm_parameters(channels):
    return r(channels), r(channels).abs(), r(channels), r(channels)


WIDE = PART.value  # a row of whole parts, of whose statistics every number is written

CASES = {
    "add": lambda: (add, (r(4, 5), r(4, 5)), {}),
    "add, broadcast": lambda: (add, (r(4, 5), r(5)), {"alpha": 2.5}),
    "add, a number": lambda: (add, (r(4, 5), 2.0), {}),
    "add, float16": lambda: (add, (r(3, 7).half(), r(3, 7).half()), {}),
    "mul, sliced": lambda: (mul, (r(8, 10)[::2, 1:6], r(5, 4).T), {}),
    "relu": lambda: (relu, (r(4, 5),), {}),
    "relu, in place": lambda: (relu, (r(4, 5), True), {}),
    "silu, in place": lambda: (silu, (r(5, 4).T,), {"inplace": True}),
    "leaky_relu": lambda: (leaky_relu, (r(4, 5), 0.2), {}),
    "gelu": lambda: (gelu, (r(4, 5),), {"approximate": "tanh"}),
    "softmax": lambda: (softmax, (r(4, 5), -1), {}),
    "softmax, copied": lambda: (softmax, (r(4, 3, 5, 6).permute(3, 1, 0, 2)[::2], 1), {}),
    "softmax, converted": lambda: (softmax, (r(4, 5).half(), -1, torch.float32), {}),
    "layer_norm": lambda: (layer_norm, (r(4, 5), (5,), r(5), r(5)), {}),
    "group_norm": lambda: (group_norm, (r(2, 4, 5, 3), 2, r(4), r(4)), {}),
    "group_norm, channels_last": lambda: (group_norm, (last(2, 4, 5, 3), 2, r(4), r(4)), {}),
    "batch_norm": lambda: (batch_norm, (last(2, 4, 5, 3), *norm_parameters(4)), {}),
    "batch_norm, training": lambda: (batch_norm, (r(2, 4, 5, 3), *norm_parameters(4), True), {}),
    "max_pool2d": lambda: (max_pool2d, (last(2, 4, 9, 7), 3, 2, 1), {}),
    "avg_pool2d": lambda: (avg_pool2d, (r(4, 5, 3), [2]), {}),
    "adaptive_avg_pool2d": lambda: (adaptive_avg_pool2d, (r(2, 4, 5, 3), (2, None)), {}),
    "adaptive_avg_pool2d, in parts": lambda: (adaptive_avg_pool2d, (r(1, 3, 70, 30), 1), {}),
    "matmul": lambda: (matmul, (r(2, 4, 5), r(5, 3)), {}),
    "matmul, a row": lambda: (matmul, (r(5), r(5, 3)), {}),
    "linear": lambda: (linear, (r(2, 4, 5), r(3, 5), r(3)), {"activation": "gelu", "residual": r(2, 4, 3)}),
    "linear_with_statistics": lambda: (linear_with_statistics, (r(4, 5), r(WIDE, 5)), {}),
    "row_statistics": lambda: (row_statistics, (r(4, WIDE),), {}),
    "conv2d": lambda: (conv2d, (last(2, 16, 9, 8), last(6, 16, 3, 3), r(6)),
                       {"padding": 1, "activation": "relu", "residual": last(2, 6, 9, 8)}),
    "conv2d, weight copied": lambda: (conv2d, (last(2, 16, 9, 8), r(6, 16, 3, 3)), {"padding": (1, 0)}),
    "conv2d, one image": lambda: (conv2d, (r(3, 9, 8), r(6, 3, 3, 3)), {"padding": "same"}),
    "conv2d, groups": lambda: (conv2d, (r(2, 4, 9, 8), r(8, 1, 3, 3), r(16)[::2], 2, 1, 1, 4), {}),
    "stem": lambda: (stem, (r(2, 3, 30, 28).half(), stem_weight(r(4, 3, 7, 7)).half(), r(4).half()), {}),
    "stem, float32": lambda: (stem, (r(2, 3, 30, 28), stem_weight(r(4, 3, 7, 7)), r(4)), {}),
    "patchify": lambda: (patchify, (r(2, 3, 32, 28), 4), {}),
    "attention": lambda: (scaled_dot_product_attention, qkv(), {}),
    "attention, masked": lambda: (scaled_dot_product_attention, (*qkv(), r(5, 5) > -1), {"scale": 0.3}),
    "attention, causal": lambda: (scaled_dot_product_attention, qkv(), {"is_causal": True}),
}


def on(device, values):
    """`values` of a case, its tensors on `device`, with the strides that they have."""
    if device.type == "cpu":
        return values
    moved = {}

    def move(t):  # views of one tensor stay views of one tensor
        storage = t.untyped_storage()
        if storage.data_ptr() not in moved:
            whole = torch.empty(0, dtype=t.dtype).set_(storage)
            moved[storage.data_ptr()] = whole.to(device)
        whole = moved[storage.data_ptr()]
        return whole.as_strided(t.shape, t.stride(), t.storage_offset())

    if isinstance(values, dict):
        return {name: move(t) if isinstance(t, torch.Tensor) else t for name, t in values.items()}
    return tuple(move(t) if isinstance(t, torch.Tensor) else t for t in values)
