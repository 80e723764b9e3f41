"""Attention: the operation, its problem and its engines."""
