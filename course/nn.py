"""torch.nn's layers on this course's kernels, and `replace_layers`, which puts them into any model.

Each class below is torch.nn's own with another `forward`: constructor, initialisation, parameters and
state_dict keys are PyTorch's. A constructor's option that the kernels lack is a ValueError of one line, and so
is a forward that wants a gradient: these layers are for inference, under torch.no_grad() or torch.inference_mode().
"""
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from course import kernels as functional

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm2d", "Conv2d", "GELU", "LayerNorm", "Linear", "MaxPool2d",
    "MultiheadAttention", "ReLU", "Report", "Softmax", "functional", "replace_layers",
]  # fmt: skip


class Linear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class BatchNorm2d(torch.nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises with the batch's own statistics in training mode, and updates the running ones."""
        self._check_input_dim(x)
        momentum = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a plain average over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        # a layer that keeps no running statistics has only the batch's
        batch_statistics = self.training or self.running_mean is None
        running = not self.training or self.track_running_stats
        return functional.batch_norm(
            x, self.running_mean if running else None, self.running_var if running else None,
            self.weight, self.bias, batch_statistics, momentum or 0.0, self.eps,
        )  # fmt: skip


class LayerNorm(torch.nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class ReLU(torch.nn.ReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(x)
        return x.copy_(y) if self.inplace else y  # some models rely on x having changed


class GELU(torch.nn.GELU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, self.approximate)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(x, self.output_size)


def _unsupported(layer: torch.nn.Module) -> str | None:
    """The option of a torch.nn layer that the kernels lack; None if they have them all."""
    match layer:
        case torch.nn.Conv2d(padding_mode=mode) if mode != "zeros":
            return f"expected padding_mode 'zeros', got {mode!r}"
        case torch.nn.MaxPool2d(return_indices=True):
            return "expected return_indices=False, got True"
        case torch.nn.AvgPool2d(divisor_override=int(divisor)):
            return f"expected divisor_override=None, got {divisor}"
        case torch.nn.Softmax(dim=None):
            return "expected dim to be an int, got None"
        case torch.nn.MultiheadAttention(embed_dim=dim, kdim=kdim, vdim=vdim) if not dim == kdim == vdim:
            return f"expected kdim and vdim {dim} as embed_dim, got {kdim} and {vdim}"
        case torch.nn.MultiheadAttention(bias_k=bias_k, add_zero_attn=zero) if bias_k is not None or zero:
            return "expected add_bias_kv=False and add_zero_attn=False, got True"
    return None


class _WithLimits:
    """A layer some of whose options the kernels lack."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if reason := _unsupported(self):
            raise ValueError(f"{type(self).__name__}: {reason}")


class Conv2d(_WithLimits, torch.nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaxPool2d(_WithLimits, torch.nn.MaxPool2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(_WithLimits, torch.nn.AvgPool2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class Softmax(_WithLimits, torch.nn.Softmax):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.softmax(x, self.dim)


class MultiheadAttention(_WithLimits, torch.nn.MultiheadAttention):
    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
        average_attn_weights=True, is_causal=False,
    ):  # fmt: skip
        """(attention's output, None), as torch.nn.MultiheadAttention returns them for need_weights=False.

        Raises ValueError on need_weights=True (the kernel never writes the weights to memory), on masks
        and is_causal, and on a dropout in training mode.
        """
        if need_weights:
            raise ValueError("MultiheadAttention: expected need_weights=False, got True (the weights are never stored)")
        if key_padding_mask is not None or attn_mask is not None or is_causal:
            raise ValueError("MultiheadAttention: expected no key_padding_mask, no attn_mask and is_causal=False")
        if self.training and self.dropout > 0:
            raise ValueError(f"MultiheadAttention: expected eval mode or dropout 0, got dropout {self.dropout}")
        if query is key and key is value:
            q, k, v = functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights = self.in_proj_weight.chunk(3)
            biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            q, k, v = map(functional.linear, (query, key, value), weights, biases)
        tokens = -2 if self.batch_first else 0
        x = functional.scaled_dot_product_attention(*(self._heads(t.movedim(tokens, -2)) for t in (q, k, v)))
        x = x.transpose(-3, -2).flatten(-2).movedim(-2, tokens)
        return functional.linear(x, self.out_proj.weight, self.out_proj.bias), None

    def _heads(self, x):
        """(..., tokens, embed_dim) as (..., heads, tokens, head_dim)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)


LAYERS = {
    layer.__name__: layer
    for layer in (Linear, Conv2d, BatchNorm2d, LayerNorm, ReLU, GELU, Softmax, MaxPool2d, AvgPool2d,
                  AdaptiveAvgPool2d, MultiheadAttention)
}  # fmt: skip
"""What replace_layers puts in, by name."""


@dataclass
class Report:
    """What replace_layers did, by the layers' names in the model ("" is the model itself)."""

    replaced: dict[str, str] = field(default_factory=dict)
    """name -> kind, such as "Conv2d"."""
    left: dict[str, str] = field(default_factory=dict)
    """name -> kind and the reason."""

    def __str__(self):
        kinds = Counter(self.replaced.values()).most_common()
        lines = [f"replaced {len(self.replaced)}" + ": " * bool(kinds) + ", ".join(f"{n} {kind}" for kind, n in kinds)]
        lines.append(f"left {len(self.left)}" + ":" * bool(self.left))
        for reason, n in Counter(self.left.values()).most_common():
            first = next(name for name, its_reason in self.left.items() if its_reason == reason)
            lines.append(f"  {first or '(the model itself)'}{f' and {n - 1} more' * (n > 1)}: {reason}")
        return "\n".join(lines)


def replace_layers(model: torch.nn.Module, only: Collection[str] | None = None) -> Report:
    """Puts this module's layers in place of torch.nn's in `model`, and says what it replaced and what it left.

    `model` may be any module, a single layer included. `only` names the kinds to replace, {"Conv2d"} for
    instance, to compare a model layer by layer. A layer goes on being the same object, with its parameters, buffers,
    hooks and training flag; only its class changes, so that replacing back is `layer.__class__ = torch.nn.Conv2d`.
    Left alone are subclasses (they may have a forward of their own) and options that the kernels lack.

    A function called inside a forward (torch.nn.functional.relu, +) is not a layer: it stays PyTorch's and
    does not appear in the report. Raises ValueError on a name in `only` that does not exist.
    """
    only = set(LAYERS) if only is None else set(only)
    if unknown := only - set(LAYERS):
        raise ValueError(f"replace_layers: expected only among {', '.join(LAYERS)}, got {', '.join(sorted(unknown))}")
    report = Report()
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if reason := _why_left(layer, only):
            report.left[name] = f"{kind}: {reason}"
        elif _is_torch_layer(layer):
            layer.__class__ = LAYERS[kind]
            report.replaced[name] = kind
    return report


def _is_torch_layer(layer):
    """Whether `layer` is exactly one of torch.nn's that has a counterpart here."""
    kind = type(layer).__name__
    return kind in LAYERS and type(layer) is getattr(torch.nn, kind)


def _why_left(layer, only):
    """Why `layer` stays as it is; None if it is to be replaced, or only holds other layers."""
    kind = type(layer).__name__
    if _is_torch_layer(layer):
        if kind not in only:
            return f"only {', '.join(sorted(only))} asked for"
        if "forward" in vars(layer):
            return "its forward was set on the instance"
        return _unsupported(layer)
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return None  # MultiheadAttention's out_proj: parameters only, its forward is never called
    if isinstance(layer, torch.nn.TransformerEncoderLayer):
        return ("in eval mode PyTorch computes all of it at once and passes its layers by, "
                "unless torch.backends.mha.set_fastpath_enabled(False)")  # fmt: skip
    if type(layer) is LAYERS.get(kind):
        return "on this course's kernels already"
    for name in LAYERS:
        if isinstance(layer, getattr(torch.nn, name)):
            return f"a subclass of torch.nn.{name}, which may have a forward of its own"
    return None if any(layer.children()) else "not in course.nn"
