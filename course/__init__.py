"""Triton kernels, the models built on them, and the course that teaches both."""
from course import runtime  # first: it decides between GPU and interpreter before anything imports Triton

__all__ = ["runtime"]
__version__ = "0.1.0"
