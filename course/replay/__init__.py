"""Calls made again: what an operation checked and chose once is kept, and its kernels launched with other pointers."""
