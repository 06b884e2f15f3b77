"""What the arguments of the command line can be. Imported for every `--help`, so this imports next to nothing."""

from __future__ import annotations

STAGES = ("graph", "prims", "joint", "plan", "kernel", "triton", "ptx", "sass", "asm")
KERNEL_STAGES = ("plan", "kernel", "triton", "ptx", "sass", "asm")
CPU_STAGE = "asm"
COMPILED_STAGES = ("ptx", "sass")

OPTIMIZERS = (
    "adam",
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "rmsprop",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "lion",
)
"""Functions of `tn` that need no arguments."""

DEFAULT_LOSS = "loss"
FORM = "path/file.py:function or package.module:function"
"""How a target is written."""
