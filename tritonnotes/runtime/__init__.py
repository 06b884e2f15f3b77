"""Runs compiled programs: feeds are bound, kernels launched or replayed from a CUDA graph, tiles timed on a GPU."""
