"""PyTorch's own sample inputs of every operation (OpInfo), through ours: prints a line of JSON an operation.

    python -m tests.kernels.opinfo

A program and not a test, because importing PyTorch's tests takes 6 seconds and freezes torch.backends' settings.
"""
import json
import warnings

import torch

from course import kernels
from course.runtime import DEVICE

NAMES = {
    "add": "add", "mul": "mul", "matmul": "matmul", "softmax": "softmax", "sigmoid": "sigmoid", "tanh": "tanh",
    **{f"nn.functional.{name}": name for name in (
        "relu", "gelu", "silu", "relu6", "hardswish", "hardsigmoid", "leaky_relu", "layer_norm", "group_norm",
        "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "linear", "conv2d",
        "scaled_dot_product_attention",
    )},
}
"""PyTorch's name of each operation that has one, and ours."""

OWN = {"fold_norm", "linear_with_statistics", "norm_linear", "patchify", "quick_gelu", "row_statistics", "stem"}
"""The operations that PyTorch does not have."""

LACKING = {
    "max_pool2d": ("return_indices", True, "max_pool2d: expected return_indices=False, got True"),
    "softmax": ("dtype", torch.float64, "softmax: expected dtype to be None, float32, float16 or bfloat16, got"),
    "scaled_dot_product_attention": ("dropout_p", 0.5, "scaled_dot_product_attention: expected dropout_p=0.0"),
}
"""Of an operation: an option, its value among the samples that the kernels lack, and how the error begins.

No kernel keeps indices, computes in float64, or draws the random numbers of a dropout.
"""


def main() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # and what no kernel wrote is NaN
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if NAMES.get(op.name) in kernels.__all__ and op.variant_test_name != "complex":
            print(json.dumps({"name": NAMES[op.name], **results(op, NAMES[op.name])}), flush=True)


def results(op, name: str) -> dict[str, int | list[str]]:
    """How many samples of `op` ours computed, and how many it refused as documented; and what is wrong."""
    computed, refused, wrong = 0, 0, []
    option, value, words = LACKING.get(name, (None, None, None))
    for sample in op.sample_inputs(DEVICE.type, torch.float32, requires_grad=False):
        call = f"{name}({in_words(sample.input)}, *{in_words(sample.args)}, **{in_words(sample.kwargs)})"
        lacking = option in sample.kwargs and sample.kwargs[option] == value
        try:
            got = getattr(kernels, name)(*copy((sample.input, *sample.args)), **copy(sample.kwargs))
        except Exception as error:
            if lacking and str(error).startswith(words) and "\n" not in str(error):
                refused += 1
            else:
                wrong.append(f"{call}: {type(error).__name__}: {error}")
            continue
        if lacking:
            wrong.append(f"{call}: expected {words!r}")
            continue
        want = op.op(*copy((sample.input, *sample.args)), **copy(sample.kwargs))
        try:
            torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5, equal_nan=True)
            computed += 1
        except AssertionError as error:
            args, kwargs = copy(((sample.input, *sample.args), sample.kwargs), torch.Tensor.double)
            exact = op.op(*args, **kwargs)
            if as_accurate(got, want, exact):
                computed += 1
            else:
                wrong.append(f"{call}: {error}")
    return {"computed": computed, "refused": refused, "wrong": wrong}


def as_accurate(got: torch.Tensor, want: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether `got` errs no more than a few times as much as PyTorch does.

    A softmax of scores in the hundreds multiplies the rounding of the scores, which depends on the order of a sum.
    """
    return got.shape == want.shape and bool((got - exact).abs().max() <= 4 * (want - exact).abs().max())


def copy(value, of_tensor=torch.clone):
    """Each call has tensors of its own: batch_norm writes to some."""
    if isinstance(value, dict):
        return {key: copy(v, of_tensor) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(copy(v, of_tensor) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    return of_tensor(value) if value.is_floating_point() else value.clone()


def in_words(value):
    """`value` with the shapes of tensors in place of their elements."""
    if isinstance(value, dict):
        return {key: in_words(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(in_words, value))
    return f"tensor{tuple(value.shape)}" if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    main()
