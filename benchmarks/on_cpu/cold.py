"""From the declaration of the digits classifier to its first training step, each peer in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ..measure import Row
from ..peers import OURS
from .nets import NETS
from .peers import COMPILED, FUSED, JAX, missing
from .steps import LR, our_step, torch_step

FAMILY = "cold compile"
PEERS = (OURS, FUSED, COMPILED, JAX)
COMMAND = Path(__file__).resolve().parents[1] / "cpu.py"
ROWS = 128
EMPTY, CACHED = "digits, nothing cached", "digits, from the cache"


def rows(wanted: list[str], quick: bool) -> tuple[list[Row], dict[str, str]]:
    """Seconds without and with what an earlier process left on disk, imports not counted; and who is missing."""
    absent = missing()
    if quick:
        absent.setdefault(COMPILED, "not in a quick run: it takes a minute")
    found = []
    for peer in PEERS:
        if peer in absent or peer not in wanted:
            continue
        with tempfile.TemporaryDirectory() as cache:
            for shape in (EMPTY, CACHED):
                found.append(Row(FAMILY, shape, "float32", "step", peer, 0, [_in_a_process(peer, cache)]))
    return found, {p: why for p, why in absent.items() if p in wanted}


def _in_a_process(peer: str, cache: str) -> float:
    folders = {
        "TRITONNOTES_CACHE_DIR": f"{cache}/ours",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    given = [sys.executable, str(COMMAND), "--cold", peer]
    done = subprocess.run(given, capture_output=True, text=True, env={**os.environ, **folders})
    if done.returncode:
        raise RuntimeError(f"{peer} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def first_step(peer: str) -> float:
    """The seconds from nothing to the loss of a first step, in this process. The first weights are given."""
    net = NETS["digits"]
    generator = torch.Generator().manual_seed(0)
    batches = [net.batch(ROWS, generator)]
    weights = _first_weights()
    if peer == JAX:
        from . import jax_peers

        started = time.perf_counter()
        jax_peers.step(net.loss, weights, batches, LR)(0)
        return time.perf_counter() - started
    importlib.import_module("tritonnotes.face")  # else imported at the first use of tn
    started = time.perf_counter()
    step = our_step(net, weights, batches) if peer == OURS else torch_step(net, weights, batches, peer)
    step(0)
    return time.perf_counter() - started


def _first_weights() -> dict[str, torch.Tensor]:
    """Weights of the digits classifier without compiling it, so that what is timed starts from nothing."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc1": (128, 64), "fc2": (128, 128), "fc3": (10, 128), "ln1": (128,), "ln2": (128,)}
    made = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator) * 0.1
        made[f"{name}.weight"] = drawn if len(shape) > 1 else torch.ones(shape)
        made[f"{name}.bias"] = torch.zeros(shape[0])
    return made
