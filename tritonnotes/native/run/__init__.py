"""Kernels that are compiled and run: arguments, launches, whole programs."""
