"""Weights in the form in which the fast path's kernels read them best, kept in step with the model's own."""
import weakref
from collections.abc import Callable

import torch


class Packing:
    """Tensors computed from a model's parameters, and computed again, in place, when those have changed.

    In place, because CUDA graphs go on reading from where the tensors were when they were captured. The model is not
    kept alive: once nothing else refers to it, its memory is free, and the packed tensors stay as they are.

    What has changed is seen from the numbers of versions that PyTorch counts. It counts no write to `weight.data`: for
    that there is `refresh`.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype):
        self.dtype = dtype
        self.model = weakref.ref(model)
        self.packed: list[tuple[torch.Tensor, Callable[..., torch.Tensor], list[weakref.ref]]] = []
        # tensors made in inference mode count no versions: they are taken as they are
        tensors = [t for t in (*model.parameters(), *model.buffers()) if not t.is_inference()]
        self.watched = [weakref.ref(t) for t in tensors]
        self.versions = [t._version for t in tensors]
        self.addresses = addresses(model)

    @torch.no_grad()
    def add(
        self, compute: Callable[..., torch.Tensor], *modules: torch.nn.Module, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """compute(*modules), in `dtype` (this packing's) and its own memory format, from now on kept up to date.

        What is one of the model's tensors already, or a view of one, is shared with it and takes no memory.
        """
        source, dtype = compute(*modules), dtype or self.dtype
        if source.dtype == dtype and any(is_view(source, t) for m in modules for t in m.parameters()):
            return source.detach()
        tensor = torch.empty_like(source, dtype=dtype).copy_(source)
        self.packed.append((tensor, compute, [weakref.ref(module) for module in modules]))
        return tensor

    @torch.no_grad()
    def follow(self) -> None:
        """Computes everything again if a parameter or buffer was written to since the last time."""
        if self.model() is None:
            return
        try:
            versions = [t()._version for t in self.watched]
        except AttributeError:  # of None; some are shared: graphs would go on reading what was there before
            raise new_tensors() from None
        if versions != self.versions:
            self.compute()
            self.versions = versions

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes everything again."""
        model = self.model()
        if model is None:
            raise RuntimeError("refresh: expected the model to exist, but nothing has referred to it since optimize")
        if addresses(model) != self.addresses:
            raise new_tensors()
        self.compute()

    def compute(self) -> None:
        for tensor, compute, modules in self.packed:
            tensor.copy_(compute(*(module() for module in modules)))


def addresses(model: torch.nn.Module) -> list[int]:
    """Where the model's parameters and buffers lie."""
    return [t.data_ptr() for t in (*model.parameters(), *model.buffers())]


def new_tensors() -> RuntimeError:
    return RuntimeError("optimize: expected the model's own parameters and buffers, got new ones: "
                        "call course.optimize on it again")


def is_view(t: torch.Tensor, of: torch.Tensor) -> bool:
    """Whether `t` lies in the memory of `of`."""
    return t.untyped_storage().data_ptr() == of.untyped_storage().data_ptr()
