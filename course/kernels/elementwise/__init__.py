"""Elementwise operations and the launch that they share."""
