"""Whom we are measured beside: what each is called, and how it is made of a function in plain torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

OURS = "tritonnotes"
REPLAYED = "tritonnotes captured"
EAGER = "eager"
CAPTURED = "eager captured"
LIGER = "Liger"

MODES = {
    "compile": "default",
    "compile max-autotune": "max-autotune-no-cudagraphs",
    "compile reduce-overhead": "reduce-overhead",
}
"""Peers that `torch.compile` makes, with its mode."""

PEERS = (
    OURS,
    "tritonnotes joint",
    REPLAYED,
    EAGER,
    *MODES,
    CAPTURED,
    LIGER,
    "foreach",
    "fused",
    "compiled",
    "captured foreach",
)
"""All that `--peers` knows. Not every family has all of them: optimizers have the last four in place of the rest."""

GPU_ALONE = "it is timed on a GPU alone"


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """A function compiled for the shapes that it is called with."""
    return torch.compile(function, mode=mode, dynamic=False)


def begin(peer: str) -> None:
    """What has to be said before each run: reduce-overhead may then write over the results of the run before."""
    if peer == "compile reduce-overhead":
        torch.compiler.cudagraph_mark_step_begin()


def liger_missing(device: torch.device) -> str | None:
    """Why Liger's kernels cannot run here, or None."""
    try:
        importlib.import_module("liger_kernel.ops")
    except ImportError:
        return "the package liger-kernel is not installed"
    return None if device.type == "cuda" else GPU_ALONE


def reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    first = (str(error).strip().splitlines() or ["no word"])[0]
    return f"{type(error).__name__}: {first[:200]}"
