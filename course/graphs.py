"""CUDA graphs: calls captured once, then launched all together."""
import threading
from collections.abc import Callable, Sequence

import torch

ALONE = threading.RLock()
"""Held by the thread that captures a graph, or measures configurations: while one captures, CUDA lets no other wait for
the GPU, and of two that measure at once each would measure both."""


class Captured:
    """`calls`, run in order by one CUDA graph on the current GPU: `replay()` writes `outputs` anew.

    Each call runs twice first, outside the graph, as PyTorch asks (lazy initialisation, autotuning). The
    calls are kept, since the graph goes on using the tensors they refer to. Threads capture one after the other;
    meanwhile others may use the GPU, but not wait for all of it (`torch.cuda.synchronize`).
    """

    def __init__(self, calls: Sequence[Callable[[], object]]):
        self.calls = calls
        with ALONE:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for call in [*calls, *calls]:
                    call()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            # PyTorch's own stream for captures belongs to the GPU that the process's first graph was for
            with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                self.outputs = [call() for call in calls]

    def replay(self) -> None:
        self.graph.replay()
