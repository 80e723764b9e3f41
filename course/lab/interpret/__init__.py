"""Kernels run in Triton's interpreter, on any machine, with every memory access recorded."""
