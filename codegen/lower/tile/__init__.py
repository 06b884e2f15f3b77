"""The tile program of a kernel as data: its steps, how it goes over its tiles, and what it is for."""
