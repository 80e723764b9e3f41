"""Weights in the form in which the fast path's kernels read them best, kept in step with the model's own."""
from collections.abc import Callable

import torch


class Packing:
    """Tensors computed from a model's parameters, and computed again, in place, when those have changed.

    In place, because CUDA graphs go on reading from where the tensors were when they were captured.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype):
        self.dtype = dtype
        # tensors made in inference mode count no versions: they are taken as they are
        self.watched = [t for t in (*model.parameters(), *model.buffers()) if not t.is_inference()]
        self.versions = self._versions()
        self.packed: list[tuple[torch.Tensor, Callable[[], torch.Tensor]]] = []

    @torch.no_grad()
    def add(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """compute(), in this packing's dtype and its own memory format, from now on kept up to date."""
        source = compute()
        tensor = torch.empty_like(source, dtype=self.dtype).copy_(source)
        self.packed.append((tensor, compute))
        return tensor

    @torch.no_grad()
    def follow(self) -> None:
        """Computes everything again if a parameter or buffer was written to since the last time."""
        versions = self._versions()
        if versions != self.versions:
            for tensor, compute in self.packed:
                tensor.copy_(compute())
            self.versions = versions

    def _versions(self):
        return [t._version for t in self.watched]
