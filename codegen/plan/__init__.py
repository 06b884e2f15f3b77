"""Kernels become the launches of a plan."""
