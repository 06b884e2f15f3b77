"""Optimizer steps against torch's: foreach, fused and compiled, in one process, interleaved.

    python benchmarks/optimizers.py --json optimizers.json            # on a GPU: everything
    python benchmarks/optimizers.py --rules Adam --sizes 1x2**24      # a part
    python benchmarks/optimizers.py --device cpu --sizes 3x64 --rounds 1   # that it runs; the times mean nothing

Every peer is held to torch's plain loop before it is timed. The bytes of a step are those that the rule must move at
least, for every peer the same, so a fraction of copy bandwidth above 1 means that something was cached.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import triton
import triton.testing
from torch import Tensor

import tritonnotes as tn
from tritonnotes import optim

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {},
    "Adam": {},
    "AdamW": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
}
STATES = {"SGD": 1, "Adagrad": 1, "RMSprop": 1}
"""Tensors of state that a step reads and writes; 2 where nothing is said."""

FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
"""Those that torch has a fused step of."""

_NORM = [(768,), (768,)]
_BLOCK = [*_NORM, (768, 2304), (2304,), (768, 768), (768,), *_NORM, (768, 3072), (3072,), (3072, 768), (768,)]

GPT2: list[tuple[int, ...]] = [(50257, 768), (1024, 768), *_BLOCK * 12, *_NORM]
"""The parameters of GPT-2 small."""

SIZES: dict[str, list[tuple[int, ...]]] = {
    "1x2**24": [(2**24,)],
    "1x2**28": [(2**28,)],
    "10x2**20": [(2**20,)] * 10,
    "1000x1024": [(1024,)] * 1000,
    "10000x64": [(64,)] * 10_000,
    "gpt2": GPT2,
}


@dataclass(frozen=True)
class Row:
    """One peer at one size: seconds of every round, and what they come to."""

    rule: str
    size: str
    peer: str
    bytes: int
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Report:
    """All that a reader needs to repeat the run."""

    device: str
    versions: dict[str, str]
    dtype: str
    copy_bandwidth: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


Peer = Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> Report:
    """Run what the command line asks for, print it as it comes, and write it as JSON where asked."""
    asked = _parse(arguments)
    device = torch.device(asked.device)
    dtype = getattr(torch, asked.dtype)
    report = Report(_name_of(device), _versions(), asked.dtype)
    if device.type != "cuda":
        print("No GPU: kernels are interpreted, and the times below mean nothing.", file=sys.stderr)
    report.copy_bandwidth.append(copy_bandwidth(device, asked.copy_bytes))
    for rule in asked.rules:
        for size in asked.sizes:
            rows, missing = measure(rule, size, dtype, device, asked.rounds)
            report.rows += rows
            report.missing |= missing
            for row in rows:
                share = row.bytes / row.median / report.copy_bandwidth[0]
                print(f"{rule:9} {size:10} {row.peer:12} {row.median * 1e6:12.1f} µs {share:7.1%} of copy bandwidth")
    report.copy_bandwidth.append(copy_bandwidth(device, asked.copy_bytes))
    for peer, why in report.missing.items():
        print(f"not run: {peer}: {why}")
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(asdict(report), file, indent=1)
    return report


def measure(
    rule: str, size: str, dtype: torch.dtype, device: torch.device, rounds: int
) -> tuple[list[Row], dict[str, str]]:
    """Every peer at one size, in turns, so that a GPU that warms up or slows down does so for all of them."""
    shapes = shapes_of(size)
    params = [torch.randn(shape, dtype=dtype, device=device).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    peers, missing = peers_of(rule, params, device)
    check(rule, dtype, device)
    count = sum(p.numel() for p in params)
    moved = count * dtype.itemsize * (3 + 2 * STATES.get(rule, 2))
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for step in peers.values():
        step()  # state, tables, compilation
    for _ in range(rounds):
        for name, step in peers.items():
            seconds[name].append(time_of(step, device))
    return [Row(rule, size, name, moved, found) for name, found in seconds.items()], missing


def peers_of(rule: str, params: list[Tensor], device: torch.device) -> tuple[dict[str, Peer], dict[str, str]]:
    """Steps on the same parameters, each with state of its own; and why others are not among them."""
    how = RULES[rule]
    theirs = getattr(torch.optim, rule)
    peers: dict[str, Peer] = {"tritonnotes": getattr(optim, rule)(params, **how).step}
    peers["foreach"] = theirs(params, foreach=True, **how).step
    missing = {}
    if rule in FUSED:
        peers["fused"] = theirs(params, fused=True, **how).step
    else:
        missing[f"fused {rule}"] = "torch has none"
    if device.type != "cuda":
        return peers, missing | dict.fromkeys(("compiled", "captured"), "it is timed on a GPU alone")
    lr = torch.tensor(1e-3, device=device)
    capturable = {} if rule in ("SGD", "Adagrad") else {"capturable": True}
    peers["compiled"] = torch.compile(theirs(params, lr=lr, foreach=True, **capturable, **how).step)
    if capturable:
        peers["captured"] = captured(getattr(optim, rule)(params, **capturable, **how))
        peers["captured foreach"] = captured(theirs(params, foreach=True, **capturable, **how))
    else:
        missing[f"captured {rule}"] = "torch's class cannot be captured"
    return peers, missing


def captured(optimizer: torch.optim.Optimizer) -> Peer:
    """The replay of a step in a CUDA graph: what it costs once the host has nothing to say."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph.replay


def check(rule: str, dtype: torch.dtype, device: torch.device) -> None:
    """Three steps of ours beside torch's plain loop; raises where they differ by more than rounding."""
    shapes = [(5,), (64, 33), ()]
    start = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    grads = [[torch.randn(shape, device=device).to(dtype) for shape in shapes] for _ in range(3)]
    results = []
    for make in (getattr(optim, rule), getattr(torch.optim, rule)):
        params = [p.clone().requires_grad_() for p in start]
        optimizer = make(params, **RULES[rule])
        for each in grads:
            for p, g in zip(params, each, strict=True):
                p.grad = g.clone()
            optimizer.step()
        results.append(params)
    for mine, wanted in zip(*results, strict=True):
        atol = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(mine, wanted, rtol=atol, atol=atol)


def time_of(step: Peer, device: torch.device) -> float:
    """Seconds of one step: on a GPU the median of Triton's own timing, which empties the cache before each."""
    if device.type == "cuda":
        return triton.testing.do_bench(step, return_mode="median") / 1e3
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that a copy reads and writes here."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / time_of(lambda: target.copy_(source), device)


def shapes_of(size: str) -> list[tuple[int, ...]]:
    """A named list of shapes, or `COUNTxELEMENTS`."""
    if size in SIZES:
        return SIZES[size]
    count, _, elements = size.partition("x")
    if not (count.isdigit() and elements.isdigit()):
        raise SystemExit(f"--sizes {size}: use one of {', '.join(SIZES)}, or COUNTxELEMENTS, as in 3x64")
    return [(int(elements),)] * int(count)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, interpreted"


def _versions() -> dict[str, str]:
    return {
        "tritonnotes": tn.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=tuple(RULES), default=list(RULES))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help=f"of {', '.join(SIZES)}, or COUNTxELEMENTS")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer has its turn")
    parser.add_argument("--copy-bytes", type=int, default=2**28, help="of the copy that bandwidth is measured with")
    parser.add_argument("--json", help="write all timings here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
