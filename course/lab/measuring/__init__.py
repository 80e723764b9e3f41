"""Measurements on a GPU, and the stored results that are shown on a machine without one."""
