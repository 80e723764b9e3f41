"""Kernels compiled ahead, several at a time.

Triton compiles a kernel when it is first launched, and the launch waits for it: 0.4 s, for one kernel of a model after
the other. Here a call is made once in a mode in which kernels that are still to be compiled are collected and not
launched; they are compiled side by side, and only then is the call made in earnest. Most of the work is done in C++ and
by ptxas, while other threads have Python: beside an H200, 8 threads compile 32 kernels in 3.4 s (4 in 4.0 s, 16 in
3.6 s), and one thread 8 of them in 3.1 s.

The mode stands where Triton expects a `triton.AsyncCompileMode`. That has `submit` called for each kernel that is not
compiled, and where it returns nothing, nothing is launched.
"""
import concurrent.futures
import contextlib
import os
from collections.abc import Callable

from course.runtime import INTERPRET

try:
    from triton.runtime._async_compile import active_mode
except ImportError:  # of a Triton that keeps it elsewhere: every kernel is compiled at its first launch
    active_mode = None

MOST_THREADS = 8
"""With more, they wait for each other's Python."""


class Collecting:
    """In its block, kernels of this thread that are not compiled yet are neither compiled nor launched, but kept here.

    Those that are compiled are launched, with what the others left unwritten.
    """

    def __init__(self):
        self.kernels: dict[str, tuple[Callable[[], object], Callable[[object], None]]] = {}
        """what compiles a kernel, and what Triton does with the result, by Triton's key"""

    def submit(self, key: str, compile_kernel: Callable, keep: Callable, *more) -> None:
        """Called by Triton, which adds an argument now and then."""
        self.kernels.setdefault(key, (compile_kernel, keep))

    def __enter__(self) -> "Collecting":
        if active_mode is not None:
            self.token = active_mode.set(self)
        return self

    def __exit__(self, *error) -> None:
        if active_mode is not None:
            active_mode.reset(self.token)

    def compile(self, advance: Callable[[], object] = lambda: None) -> None:
        """Compiles what was collected, and calls `advance` after each kernel. One that cannot be compiled says why when
        it is launched."""
        with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
            keeping = {pool.submit(compile_kernel): keep for compile_kernel, keep in self.kernels.values()}
            for done in concurrent.futures.as_completed(keeping):
                with contextlib.suppress(Exception):
                    keeping[done](done.result())
                advance()
        self.kernels.clear()


def is_collecting() -> bool:
    """Whether kernels of this thread are being collected."""
    return active_mode is not None and isinstance(active_mode.get(), Collecting)


def compile_ahead(call: Callable[[], object]) -> None:
    """Compiles the kernels that call() launches. Its results mean nothing."""
    if INTERPRET or active_mode is None:
        return
    with Collecting() as collected:
        call()
    collected.compile()


def threads() -> int:
    """That compile at a time: as many as this process has cores."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))
