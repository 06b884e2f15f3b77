"""The module that is generated: kernels with their launchers, and `run`, which launches them in order."""
