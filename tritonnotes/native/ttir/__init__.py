"""Triton IR: made by Triton's own front end, parsed into frozen data, rewritten."""
