from course.kernels.adaptive_avg_pool2d import adaptive_avg_pool2d
from course.kernels.add import add
from course.kernels.avg_pool2d import avg_pool2d
from course.kernels.batch_norm import batch_norm
from course.kernels.conv2d import conv2d
from course.kernels.gelu import gelu
from course.kernels.layer_norm import layer_norm
from course.kernels.linear import linear
from course.kernels.matmul import matmul
from course.kernels.max_pool2d import max_pool2d
from course.kernels.mul import mul
from course.kernels.norm_linear import fold_norm, linear_with_statistics, norm_linear, row_statistics
from course.kernels.patchify import patchify
from course.kernels.relu import relu
from course.kernels.scaled_dot_product_attention import scaled_dot_product_attention
from course.kernels.softmax import softmax
from course.kernels.stem import stem

__all__ = [
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "fold_norm",
    "gelu",
    "layer_norm",
    "linear",
    "linear_with_statistics",
    "matmul",
    "max_pool2d",
    "mul",
    "norm_linear",
    "patchify",
    "relu",
    "row_statistics",
    "scaled_dot_product_attention",
    "softmax",
    "stem",
]
