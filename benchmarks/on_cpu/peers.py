"""Whom we are measured beside on a CPU, and why one of them may be missing."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch

from ..peers import OURS

EAGER = "eager"
FUSED = "eager fused"
FOREACH = "eager foreach"
COMPILED = "torch.compile"
JAX = "JAX"

PYTHON = "without native calls"
"""No peer but a part of ours: a step whose native calls are left out, Python and what it calls of torch alone."""

PEERS = (OURS, EAGER, FUSED, FOREACH, COMPILED, JAX, PYTHON)
"""All that `--peers` knows. Steps and optimizers have torch's `fused` and `foreach`, kernels plain `eager`."""

COMPILERS = ("g++", "clang++", "c++")


def missing() -> dict[str, str]:
    """The peers that cannot run here, each with the reason."""
    found = {}
    if not any(map(shutil.which, COMPILERS)):
        found[COMPILED] = f"no C++ compiler ({', '.join(COMPILERS)}), which TorchInductor needs on a CPU"
    absent = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    if absent:
        found[JAX] = f"{' and '.join(absent)} not installed: pip install 'tritonnotes[peers]'"
    return found


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled by TorchInductor for the shapes that it is called with."""
    return torch.compile(function, dynamic=False)


def forget_compiled() -> None:
    """Compiled code of earlier cases counts towards a limit, past which torch.compile silently runs eager code."""
    torch.compiler.reset()
