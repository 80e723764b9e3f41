"""Measurements beside what a user would pick instead: those of the repository's `benchmarks`."""
import sys

from course import results


def bench(what: str, quick: bool = False, check: bool = False) -> int:
    """Measures "kernels" or "models" beside their peers; 1 if a result was wrong. Without a GPU, what is stored.

    With `check`, for models alone: 1 if one of them became slower than the stored figures say, 2 if there is no GPU or
    nothing is stored for it. Raises FileNotFoundError where there is no repository, ValueError for `check` of kernels.
    """
    if not (results.ROOT / "benchmarks" / "__main__.py").is_file():
        raise FileNotFoundError(
            f"bench: no benchmarks in {results.ROOT}: they come with the repository, not with the installed package; "
            "clone it, and run this there"
        )
    if check and what != "models":
        raise ValueError(f"bench: expected --check with models, got {what}")
    sys.path.insert(0, str(results.ROOT))
    from benchmarks.__main__ import check_models, measure

    return check_models() if check else measure(what, quick)
