"""Launches become tile programs."""
