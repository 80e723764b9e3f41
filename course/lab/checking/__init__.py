"""Exercises: what one is, the check of a learner's kernel, the report on it, hints and solutions."""
