"""Triton kernels, the models built on them, and the course that teaches both."""
from course import runtime  # first: it decides between GPU and interpreter before anything imports Triton

if runtime.INTERPRET:
    from course import _interpreter  # noqa: F401  it is in effect once imported

__all__ = ["optimize", "runtime"]
__version__ = "0.1.0"


def optimize(model, dtype=None, graphs=8):
    """`course.fast_path.optimize`, imported at the first call: those who want kernels alone need no models."""
    from course.fast_path import optimize

    return optimize(model, dtype, graphs)
