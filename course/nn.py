"""torch.nn's layers on this course's kernels, and `replace_layers`, which puts them into any model.

Each class below is torch.nn's own with another `forward`: constructor, initialisation, parameters and
state_dict keys are PyTorch's. Where the kernels lack an option, PyTorch's own forward computes. These layers are for
inference, under torch.no_grad() or torch.inference_mode(): a forward that wants a gradient is a ValueError.

They follow torch.autocast as PyTorch's do (course/kernels/parts/modes.py), and torch.fx sees each as one node.
"""
import functools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from course import kernels as functional
from course.kernels.attention.scaled_dot_product_attention import MAX_HEAD_SIZE
from course.kernels.parts.checks import FLOATS

__all__ = [
    "AdaptiveAvgPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Conv2d", "GELU", "GroupNorm",
    "Hardsigmoid", "Hardswish", "LayerNorm", "LayerNorm2d", "LeakyReLU", "Linear", "MaxPool2d", "MultiheadAttention",
    "QuickGELU", "ReLU", "ReLU6", "Replacement", "SiLU", "Sigmoid", "Softmax", "Tanh", "addition", "functional",
    "replace_layers",
]


def addition(layers):
    """The function that adds two tensors, to go with the layers of the namespace `layers`.

    Ours is `functional.add`; torch.nn.functional has none, and torch.nn's layers go with torch.add.
    """
    return getattr(layers.functional, "add", torch.add)


def one_node(forward):
    """Makes a layer one node of a graph that torch.fx traces, under the layer's name, as torch.nn's own layers are."""

    @functools.wraps(forward)
    def traceable(self, *args, **kwargs):
        first = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(first, Proxy):
            return first.tracer.create_proxy("call_module", first.tracer.path_of_module(self), args, kwargs)
        return forward(self, *args, **kwargs)

    return traceable


class Linear(torch.nn.Linear):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input, self.weight, self.bias)


class Conv2d(torch.nn.Conv2d):
    def lacks(self) -> str | None:
        """The option of this layer that the kernel lacks; None if it has them all."""
        return None if self.padding_mode == "zeros" else f"expected padding_mode 'zeros', got {self.padding_mode!r}"

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.lacks():
            return super().forward(input)
        return functional.conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


# norms


class _BatchNorm:
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalises with the batch's own statistics in training mode, and updates the running ones."""
        self._check_input_dim(input)
        momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a plain average over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        # a layer that keeps no running statistics has only the batch's
        batch_statistics = self.training or self.running_mean is None
        running = not self.training or self.track_running_stats
        return functional.batch_norm(
            input, self.running_mean if running else None, self.running_var if running else None,
            self.weight, self.bias, batch_statistics, momentum or 0.0, self.eps,
        )


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    pass


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    pass


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    pass


class LayerNorm(torch.nn.LayerNorm):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(torch.nn.GroupNorm):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm2d(LayerNorm):
    """Over the channels of images (N, C, H, W): torchvision's and timm's layer of this name."""

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ThenActivation:
    """timm's norms that hold what comes after them, as layers of their own: `drop` and `act`."""

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(input)))


class BatchNormAct2d(_ThenActivation, BatchNorm2d):
    pass


class GroupNormAct(_ThenActivation, GroupNorm):
    pass


class LayerNormAct(_ThenActivation, LayerNorm):
    pass


class LayerNormAct2d(_ThenActivation, LayerNorm2d):
    pass


# activations


class ReLU(torch.nn.ReLU):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(input, self.inplace)


class ReLU6(torch.nn.ReLU6):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu6(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(input, self.negative_slope, self.inplace)


class SiLU(torch.nn.SiLU):
    inplace = False  # where a layer of another class, without this attribute, became one of this

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.silu(input, self.inplace)


class Hardswish(torch.nn.Hardswish):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.hardswish(input, self.inplace)


class Hardsigmoid(torch.nn.Hardsigmoid):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.hardsigmoid(input, self.inplace)


class Sigmoid(torch.nn.Sigmoid):
    inplace = False  # an option of timm's

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = functional.sigmoid(input)
        return input.copy_(y) if self.inplace else y


class Tanh(torch.nn.Tanh):
    inplace = False  # an option of timm's

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = functional.tanh(input)
        return input.copy_(y) if self.inplace else y


class GELU(torch.nn.GELU):
    approximate = "none"  # likewise

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.gelu(input, self.approximate)


class TanhGELU(GELU):
    """What goes by several names elsewhere: gelu_new, gelu_fast, gelu_pytorch_tanh."""

    approximate = "tanh"


class QuickGELU(torch.nn.Module):
    """x * sigmoid(1.702 * x), the activation of OpenAI's CLIP."""

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.quick_gelu(input)


class Softmax(torch.nn.Softmax):
    def lacks(self) -> str | None:
        return "expected dim to be an int, got None" if self.dim is None else None

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.lacks():
            return super().forward(input)
        return functional.softmax(input, self.dim)


# pools


class MaxPool2d(torch.nn.MaxPool2d):
    def lacks(self) -> str | None:
        return "expected return_indices=False, got True" if self.return_indices else None

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.lacks():
            return super().forward(input)
        return functional.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class AvgPool2d(torch.nn.AvgPool2d):
    def lacks(self) -> str | None:
        divisor = self.divisor_override
        return None if divisor is None else f"expected divisor_override=None, got {divisor}"

    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.lacks():
            return super().forward(input)
        return functional.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    @one_node
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(input, self.output_size)


# attention


class MultiheadAttention(torch.nn.MultiheadAttention):
    falls_back = "PyTorch's own forward where need_weights=True, with nested tensors, and with dropout in training"

    def lacks(self) -> str | None:
        dim, kdim, vdim = self.embed_dim, self.kdim, self.vdim
        if not dim == kdim == vdim:
            return f"expected kdim and vdim {dim} as embed_dim, got {kdim} and {vdim}"
        if self.bias_k is not None or self.add_zero_attn:
            return "expected add_bias_kv=False and add_zero_attn=False, got True"
        if self.head_dim > MAX_HEAD_SIZE:
            return f"expected heads of at most {MAX_HEAD_SIZE}, got {self.head_dim}"
        return None

    @one_node
    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
        average_attn_weights=True, is_causal=False,
    ):
        """(attention's output, its weights or None), as torch.nn.MultiheadAttention.

        The kernel never writes the weights to memory. So with need_weights=True, which is the default, PyTorch's own
        forward computes both, as it does with a dropout in training mode.
        """
        if (
            need_weights or self.training and self.dropout > 0 or query.is_nested or is_causal and attn_mask is None
            or self.lacks()
        ):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if query is key and key is value:
            q, k, v = functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            weights = self.in_proj_weight.chunk(3)
            biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            q, k, v = map(functional.linear, (query, key, value), weights, biases)
        tokens = -2 if self.batch_first else 0
        q, k, v = (self._heads(t.movedim(tokens, -2)) for t in (q, k, v))
        if is_causal and key_padding_mask is None:  # says what attn_mask is
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif attn_mask is None and key_padding_mask is None:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = functional.scaled_dot_product_attention(q, k, v, self._mask(q, attn_mask, key_padding_mask))
        x = x.transpose(-3, -2).flatten(-2).movedim(-2, tokens)
        return functional.linear(x, self.out_proj.weight, self.out_proj.bias), None

    def _heads(self, x):
        """(..., tokens, embed_dim) as (..., heads, tokens, head_dim)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)

    def _mask(self, q, attn_mask, key_padding_mask):
        """Both masks as the one of scaled_dot_product_attention: in a boolean one of its, True takes part."""
        masks = []
        if attn_mask is not None:  # (L, S) or (batch * heads, L, S)
            per_head = attn_mask.ndim == 3
            masks.append(attn_mask.unflatten(0, q.shape[:-2]) if per_head else attn_mask)
        if key_padding_mask is not None:  # (batch, S), or (S,)
            masks.append(key_padding_mask[..., None, None, :])
        if all(mask.dtype == torch.bool for mask in masks):
            return ~functools.reduce(torch.logical_or, masks)
        return functools.reduce(torch.add, [
            torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf) if mask.dtype == torch.bool
            else mask.to(q.dtype) for mask in masks
        ])


LAYERS = {
    layer.__name__: layer
    for layer in (Linear, Conv2d, BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm, GroupNorm, ReLU, ReLU6, LeakyReLU,
                  SiLU, Hardswish, Hardsigmoid, Sigmoid, Tanh, GELU, Softmax, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d,
                  MultiheadAttention)
}
"""What replace_layers puts in for torch.nn's layers, by name."""

OTHERS = {
    "torchvision.models.convnext.LayerNorm2d": LayerNorm2d,
    "timm.layers.norm.LayerNorm": LayerNorm,
    "timm.layers.norm.LayerNorm2d": LayerNorm2d,
    "timm.layers.norm.LayerNormFp32": LayerNorm,
    "timm.layers.norm.LayerNorm2dFp32": LayerNorm2d,
    "timm.layers.norm.GroupNorm": GroupNorm,
    "timm.layers.norm.GroupNorm1": GroupNorm,
    "timm.layers.norm_act.BatchNormAct2d": BatchNormAct2d,
    "timm.layers.norm_act.GroupNormAct": GroupNormAct,
    "timm.layers.norm_act.GroupNorm1Act": GroupNormAct,
    "timm.layers.norm_act.LayerNormAct": LayerNormAct,
    "timm.layers.norm_act.LayerNormAct2d": LayerNormAct2d,
    "timm.layers.activations.GELU": GELU,
    "timm.layers.activations.GELUTanh": TanhGELU,
    "timm.layers.activations.QuickGELU": QuickGELU,
    "timm.layers.activations.Sigmoid": Sigmoid,
    "timm.layers.activations.Tanh": Tanh,
    "timm.layers.activations.Swish": SiLU,
    "timm.layers.activations.HardSwish": Hardswish,
    "timm.layers.activations.HardSigmoid": Hardsigmoid,
    "transformers.activations.GELUActivation": GELU,
    "transformers.activations.GELUTanh": TanhGELU,
    "transformers.activations.NewGELUActivation": TanhGELU,
    "transformers.activations.FastGELUActivation": TanhGELU,
    "transformers.activations.AccurateGELUActivation": TanhGELU,
    "transformers.activations.PytorchGELUTanh": TanhGELU,
    "transformers.activations.QuickGELUActivation": QuickGELU,
    "transformers.activations.SiLUActivation": SiLU,
}
"""The same for layers of other packages, by the class's module and name: so none of them is imported."""

NOTHING_IN_EVAL = {"timm.layers.drop.DropPath", "torchvision.ops.stochastic_depth.StochasticDepth"}
NOTHING = {"transformers.activations.LinearActivation", "torchvision.ops.misc.Permute"}


@dataclass
class Replacement:
    """What replace_layers did, by the layers' names in the model ("" is the model itself)."""

    replaced: dict[str, str] = field(default_factory=dict)
    """name -> kind, such as "Conv2d"."""
    left: dict[str, str] = field(default_factory=dict)
    """name -> kind and the reason."""
    in_part: dict[str, str] = field(default_factory=dict)
    """Of the replaced ones, name -> kind and what PyTorch's own forward goes on computing."""

    def __str__(self):
        kinds = [f"{n} {kind}" for kind, n in Counter(self.replaced.values()).most_common()]
        lines = [f"replaced {len(self.replaced)}: {', '.join(kinds)}" if kinds else "replaced 0"]
        lines += _by_reason(self.in_part)
        lines.append(f"left {len(self.left)}:" if self.left else "left 0")
        return "\n".join(lines + _by_reason(self.left))


def _by_reason(reasons):
    """A line a reason, with the first layer that has it; the most frequent first."""
    names = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name or "(the model itself)")
    lines = []
    for reason, (first, *others) in sorted(names.items(), key=lambda entry: -len(entry[1])):
        more = f" and {len(others)} more" if others else ""
        lines.append(f"  {first}{more}: {reason}")
    return lines


def replace_layers(
    model: torch.nn.Module,
    only: Collection[str] | None = None,
    also: Mapping[type[torch.nn.Module], type[torch.nn.Module]] | None = None,
) -> Replacement:
    """Puts this module's layers in place of torch.nn's in `model`, and says what it replaced and what it left.

    `model` may be any module, a single layer included. `only` names the kinds to replace, {"Conv2d"} for
    instance, to compare a model layer by layer. A layer goes on being the same object, with its parameters, buffers,
    hooks and training flag; only its class changes, so that replacing back is `layer.__class__ = torch.nn.Conv2d`.
    Left alone are options that the kernels lack, and subclasses, which may have a forward of their own. `also` maps
    those that compute what one of this module's layers does to it, as in {TheirNorm: course.nn.LayerNorm}; the usual
    ones of torchvision, timm and transformers are known.

    Results have the memory format that torch.nn's layers give them, so that a `view` that worked goes on working. On
    Hopper a convolution of images in PyTorch's default format copies them to channels_last and its result back, as
    cuDNN does; `model.to(memory_format=torch.channels_last)`, with images likewise, saves these copies.

    Layers that do nothing (Identity, Flatten, Dropout in eval mode) are not listed. Nor is a function called inside a
    forward (torch.nn.functional.relu, +): it is no layer, and stays PyTorch's. Raises ValueError on a name in `only`
    that does not exist, TypeError on an `also` that does not map classes of layers to classes of layers.
    """
    also = {} if also is None else dict(also)
    if not all(isinstance(cls, type) and issubclass(cls, torch.nn.Module) for pair in also.items() for cls in pair):
        raise TypeError("replace_layers: expected also to map classes of layers to classes of layers, as in "
                        f"{{TheirNorm: course.nn.LayerNorm}}, got {also}")
    names = {cls.__name__: cls for cls in (*LAYERS.values(), *OTHERS.values(), *also.values())}
    only = set(names) if only is None else set(only)
    if unknown := only - set(names):
        raise ValueError(f"replace_layers: expected only among {', '.join(names)}, got {', '.join(sorted(unknown))}")
    done = Replacement()
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        ours = _counterpart(layer, also)
        if reason := _why_left(layer, ours, only, names.values()):
            done.left[name] = f"{kind}: {reason}"
        elif ours is not None:
            layer.__class__ = ours
            done.replaced[name] = kind
            if hasattr(ours, "falls_back"):
                done.in_part[name] = f"{kind}: {ours.falls_back}"
    return done


def _path(layer):
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _counterpart(layer, also):
    """The class of this module that computes what `layer` does; None if none is known to."""
    kind = type(layer).__name__
    if type(layer) in also:
        return also[type(layer)]
    if kind in LAYERS and type(layer) is getattr(torch.nn, kind):
        return LAYERS[kind]
    return OTHERS.get(_path(layer))


def _does_nothing(layer):
    """Whether `layer` computes nothing: it returns its input, at most in another shape."""
    if isinstance(layer, _DropoutNd):
        return not layer.training or layer.p == 0
    if isinstance(layer, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        return len(layer) == 0
    if type(layer) in (torch.nn.Identity, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.ParameterList,
                       torch.nn.ParameterDict):
        return True
    return _path(layer) in NOTHING or _path(layer) in NOTHING_IN_EVAL and not layer.training


def _why_left(layer, ours, only, known):
    """Why `layer` stays as it is; None if it is to be replaced, only holds other layers, or does nothing."""
    if ours is not None:
        if only.isdisjoint(cls.__name__ for cls in ours.__mro__):
            return f"only {', '.join(sorted(only))} asked for"
        if "forward" in vars(layer):
            return "its forward was set on the instance"
        if others := [t.dtype for t in layer.parameters(recurse=False) if t.dtype not in FLOATS]:
            return f"expected float32, float16 or bfloat16, got {others[0]}"
        return ours.lacks(layer) if hasattr(ours, "lacks") else None
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return None  # MultiheadAttention's out_proj: parameters only, its forward is never called
    if isinstance(layer, torch.nn.TransformerEncoderLayer):
        return ("in eval mode PyTorch computes all of it at once and passes its layers by, "
                "unless torch.backends.mha.set_fastpath_enabled(False)")
    if type(layer) in known:
        return "on this course's kernels already"
    if _does_nothing(layer):
        return None
    for name in LAYERS:
        if isinstance(layer, getattr(torch.nn, name)):
            return f"a subclass of torch.nn.{name}, which may have a forward of its own (see also=)"
    return None if any(layer.children()) else "not in course.nn"
