"""What makes a function behave under PyTorch's modes as those of torch.nn.functional do: autocast and torch.fx.

    lower      products go to the dtype of torch.autocast: matmul, linear, conv2d, attention
    float32    on a GPU, what needs float32's range goes to float32: softmax, layer_norm, group_norm
    widest     operands of unequal dtypes go to the wider one: add, mul
    None       pools, activations and batch_norm take what comes, and give it back in its dtype

as in PyTorch (https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference), which for the CPU knows no list of
float32. A weight is cast at each call: PyTorch keeps the casts of parameters until autocast ends.
"""
import contextlib
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Literal, ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

from course.replay import calls as replay

P = ParamSpec("P")
R = TypeVar("R")
CAST = (torch.float32, torch.float16, torch.bfloat16)  # autocast leaves float64 and integers alone


def torch_function(
    autocast: Literal["lower", "float32", "widest"] | None = None, kept: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function on tensors: autocast casts its arguments, but those whose names are in `kept`.

    An argument that overrides `__torch_function__` is asked first, as a Proxy of torch.fx, which records the call. On a
    GPU a call of a known signature is made again from what is kept of it (course/replay/calls.py).
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        bind = inspect.signature(fn).bind
        kept_calls = replay.Calls(fn)

        @functools.wraps(fn)
        def public(*args: P.args, **kwargs: P.kwargs) -> R:
            if has_torch_function(args) or kwargs and has_torch_function(tuple(kwargs.values())):
                return handle_torch_function(public, (*args, *kwargs.values()), *args, **kwargs)
            if replay.ON and not torch.compiler.is_dynamo_compiling():
                result = kept_calls(args, kwargs)
                if result is not replay.MADE_THE_USUAL_WAY:
                    return result
            if autocast is not None and torch._C._is_any_autocast_enabled():
                arguments = bind(*args, **kwargs).arguments
                cast = [name for name in arguments if name not in kept]
                with autocasting(autocast, arguments, cast):
                    return fn(**arguments)
            return fn(*args, **kwargs)

        # torch.compile counts the compilations of a code object, of which all these functions would share one
        public.__code__ = public.__code__.replace(co_name=fn.__name__)
        return public

    return decorate


def autocasting(policy: str, arguments: dict[str, object], names: Collection[str]) -> contextlib.AbstractContextManager:
    """Casts the tensors in `arguments` that have one of `names`, and returns the context to use them in."""
    tensors = {name: t for name, t in arguments.items() if isinstance(t, torch.Tensor)}
    device = next((t.device.type for t in tensors.values()), None)
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    cast = {name: t for name, t in tensors.items() if name in names and t.dtype in CAST and t.device.type == device}
    if policy == "lower":
        dtype = torch.get_autocast_dtype(device)
    elif policy == "widest":
        ranked = [t.dtype for t in cast.values() if t.ndim > 0] or [t.dtype for t in cast.values()] or CAST
        dtype = functools.reduce(torch.promote_types, ranked)  # one without dimensions follows the others
    else:
        dtype = torch.float32
    if policy != "float32" or device != "cpu":
        arguments.update({name: t.to(dtype) for name, t in cast.items()})
    return torch.autocast(device, enabled=False)
