"""Tile programs become Triton source."""
