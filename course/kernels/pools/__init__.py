"""Pools: a maximum or a mean over windows of an image."""
