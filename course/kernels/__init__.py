"""The operations as functions, with the names, arguments and results of torch.nn.functional."""
from course.kernels.attention.scaled_dot_product_attention import scaled_dot_product_attention
from course.kernels.convolution.conv2d import conv2d
from course.kernels.convolution.patchify import patchify
from course.kernels.convolution.stem import stem
from course.kernels.elementwise.activations import (
    hardsigmoid, hardswish, leaky_relu, quick_gelu, relu6, sigmoid, silu, tanh,
)
from course.kernels.elementwise.add import add
from course.kernels.elementwise.gelu import gelu
from course.kernels.elementwise.mul import mul
from course.kernels.elementwise.relu import relu
from course.kernels.norms.batch_norm import batch_norm
from course.kernels.norms.group_norm import group_norm
from course.kernels.norms.layer_norm import layer_norm
from course.kernels.norms.softmax import softmax
from course.kernels.pools.adaptive_avg_pool2d import adaptive_avg_pool2d
from course.kernels.pools.avg_pool2d import avg_pool2d
from course.kernels.pools.max_pool2d import max_pool2d
from course.kernels.products.linear import linear
from course.kernels.products.matmul import matmul
from course.kernels.products.norm_linear import fold_norm, linear_with_statistics, norm_linear
from course.kernels.products.row_statistics import row_statistics

__all__ = [
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "fold_norm",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_with_statistics",
    "matmul",
    "max_pool2d",
    "mul",
    "norm_linear",
    "patchify",
    "quick_gelu",
    "relu",
    "relu6",
    "row_statistics",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "stem",
    "tanh",
]
