"""The fewest nested loops that visit every element of some tensors, wherever in memory they lie."""
import functools


@functools.lru_cache(maxsize=4096)
def walk(shape: tuple[int, ...], *strides: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The fewest nested loops that visit every element: their sizes, then each tensor's strides.

    The first tensor, the result, decides the order, its smallest stride innermost. Two loops become
    one wherever every tensor steps from the end of the inner one straight into the outer one.

    >>> walk((2, 3, 4), (12, 4, 1), (12, 4, 1))
    ((24,), (1,), (1,))
    >>> walk((2, 3, 4), (12, 4, 1), (0, 4, 1))
    ((2, 12), (12, 1), (0, 1))
    """
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -strides[0][d])
    loops = []  # (size, stride of each tensor), outermost first
    for d in order:
        size, steps = shape[d], [s[d] for s in strides]
        if loops and all(outer == size * inner for outer, inner in zip(loops[-1][1], steps)):
            size *= loops.pop()[0]
        loops.append((size, steps))
    if not loops:
        loops = [(1, [1] * len(strides))]
    sizes, steps = zip(*loops)
    return tuple(sizes), *zip(*steps)
