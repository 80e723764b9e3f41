"""The fast path: what `course.optimize` makes of a loaded model."""
