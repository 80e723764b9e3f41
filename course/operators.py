"""The operators `torch.ops.course`: what PyTorch's dispatcher, `torch.compile` and CUDA graphs know the kernels as."""
import functools
import getpass
import os
import tempfile
from collections.abc import Sequence

import torch

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user may have an id alone; PyTorch 2.11 fails at the first call, for a name
    folder = os.path.join(tempfile.gettempdir(), f"torchinductor_uid_{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)  # as a newer PyTorch names it

LIBRARY = torch.library.Library("course", "FRAGMENT")


def custom_op(name: str, mutates_args: Sequence[str] = ()):
    """The operator `torch.ops.course.<name>`, from a function with annotations, run on its first argument's device.

    As `torch.library.custom_op` makes it, but an operator that changes nothing is called without that function's layers
    of Python, which take the CPU 10 to 30 us. They also check every time that the result is a new tensor: here the
    tests do, with `torch.library.opcheck`. `torch.library.register_fake` takes the operator, as does the rest there.
    A name can be given once in a process, and an operator without `register_autograd` has no gradient and does not say
    so: that is for the public functions to refuse.

    PyTorch does not switch the current device for a custom operator, and Triton launches on
    the current one: without the switch a tensor on cuda:1 would be read by a kernel on cuda:0.
    """

    def decorate(fn):
        @functools.wraps(fn)
        def on_its_device(first, *args, **kwargs):
            if first.is_cuda and first.get_device() != torch.cuda.current_device():
                with torch.cuda.device(first.device):
                    return fn(first, *args, **kwargs)
            return fn(first, *args, **kwargs)

        if mutates_args:  # of which autograd is told at every call
            return torch.library.custom_op(f"course::{name}", on_its_device, mutates_args=mutates_args)
        schema = name + torch.library.infer_schema(fn, mutates_args=())
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        # what it does is nothing to trace, not even where torch.compile gives up on the function that calls it
        LIBRARY.impl(name, torch._disable_dynamo(on_its_device), "CompositeExplicitAutograd")
        return getattr(torch.ops.course, name).default

    return decorate
