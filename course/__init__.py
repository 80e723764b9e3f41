"""Triton kernels, the models built on them, and the course that teaches both."""
import os
import signal
import sys
from typing import TYPE_CHECKING

if (
    os.path.basename("".join(sys.argv[:1])) in ("-m", "course")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # The command line: importing PyTorch takes seconds, in which Ctrl-C is one line as it is later (__main__.py).
    def _leave(number, frame):
        os.write(2, b"course: interrupted\n")
        os._exit(130)

    signal.signal(signal.SIGINT, _leave)

from course import runtime  # first: it decides between GPU and interpreter before anything imports Triton

if runtime.INTERPRET:
    from course import interpreter  # noqa: F401  it is in effect once imported

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from course.fast.optimize import Fast
    from course.fast.tune import Tuned
    from course.resnet import ResNet
    from course.vit import ViT

__all__ = ["optimize", "runtime", "tune"]
__version__ = "0.1.0"


def optimize(model: "ViT | ResNet", dtype: "torch.dtype | None" = None, graphs: int = 8) -> "Fast":
    """`course.fast.optimize.optimize`, imported at the first call: the kernels alone need no models."""
    from course.fast.optimize import optimize

    return optimize(model, dtype, graphs)


def tune(
    model: "Callable[[torch.Tensor], object]", example: "torch.Tensor", dtype: "torch.dtype | None" = None
) -> "Tuned":
    """`course.fast.tune.tune`, imported at the first call as well."""
    from course.fast.tune import tune

    return tune(model, example, dtype)
