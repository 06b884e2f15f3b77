"""Random graphs as machine code: held to the policy, and each launch to the bits of the strict interpreter.

usage: python tests/judges/native_graphs.py [COUNT] [--from SEED]

Every launch of a graph, forward and backward, runs on 1, 2 and 8 threads, which must leave the same bits. Where a
kernel neither adds numbers up nor calls a function that is rounded otherwise elsewhere (exp, sin, …), these are also
the bits that the interpreter leaves, product and sum rounded apart. All else is judged by eager PyTorch and float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "shared"))

from compiled import Tensors, draw, judge
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.interpreter import launch as interpret
from tritonnotes.native import launch
from tritonnotes.native.run.arguments import face_of, split
from tritonnotes.native.run.compiled import kept_ir
from tritonnotes.native.ttir.parse import parse
from tritonnotes.native.ttir.ttir import Op
from tritonnotes.runtime import runner

THREADS = (1, 2, 8)
TILE = 4096
"""Elements of a tile, as fits a processor's cache."""

ROUNDED_OTHERWISE = frozenset({f"math.{name}" for name in ("exp", "exp2", "log", "log2", "log1p", "expm1", "erf", "sin",
    "cos", "tanh", "powf", "atan2")} | {"tt.dot", "tt.scan", "tt.extern_elementwise"})  # fmt: skip


@dataclass
class Findings:
    """What was tried, and what was wrong."""

    graphs: int = 0
    results: int = 0
    launches: int = 0
    exact: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.graphs} graphs, {self.results} results, {self.launches} launches, {self.exact} of them held "
            f"to the interpreter's bits; {len(self.wrong)} wrong"
        )


def has_one_order(kernel: Any, values: dict[str, Any]) -> bool:
    """Whether a kernel rounds the same however it is run."""
    signature, constants, _ = split(face_of(kernel), values)
    functions = parse(kept_ir(kernel, signature, constants).text)
    return not any(_is_free(op) for function in functions.values() for op in function.walk())


def _is_free(op: Op) -> bool:
    if op.name in ROUNDED_OTHERWISE or (op.name == "tt.atomic_rmw" and "fadd" in op.words):
        return True
    adds = op.name in ("tt.reduce", "scf.for") and any(o.name == "arith.addf" for r in op.regions for o in r.walk())
    return adds


class BothWays:
    """In place of the interpreter's `launch`: launches both ways over the same memory, and leaves what native code
    does."""

    def __init__(self, findings: Findings, what: str) -> None:
        self.findings, self.what = findings, what

    def __call__(
        self,
        kernel: Any,
        grid: Sequence[int],
        *args: Any,
        tensors: Sequence[Tensor] = (),
        ownership: Any = None,
        **options: Any,
    ) -> None:
        values = face_of(kernel).bind(args, options)
        # `data` has no version: autograd is not told of what is put back.
        held = {id(v): v.data for v in (*values.values(), *tensors) if isinstance(v, Tensor)}
        before = {key: tensor.clone() for key, tensor in held.items()}
        interpret(kernel, grid, *args, **options, tensors=tensors, ownership=ownership)
        expected = {key: bits(tensor) for key, tensor in held.items()}
        stored = [key for key in held if not torch.equal(expected[key], bits(before[key]))]

        def run(**how: Any) -> dict[int, Tensor]:
            for key in stored:
                held[key].copy_(before[key])
            launch(kernel, grid, *args, **options, **how)
            return {key: bits(tensor) for key, tensor in held.items()}

        self.findings.launches += 1
        if has_one_order(kernel, values):
            self.findings.exact += 1
            self._compare(kernel, "the interpreter's bits", run(enable_fp_fusion=False), expected)
        found = [run(threads=threads) for threads in THREADS]
        for other, threads in zip(found[1:], THREADS[1:], strict=True):
            self._compare(kernel, f"the bits of one thread with {threads}", other, found[0])

    def _compare(self, kernel: Any, what: str, found: dict[int, Tensor], expected: dict[int, Tensor]) -> None:
        if any(not torch.equal(found[key], expected[key]) for key in expected):
            self.findings.wrong.append(f"{self.what}, {kernel.__name__}: not {what}")


def bits(tensor: Tensor) -> Tensor:
    """What tells any two numbers apart; all NaNs are one."""
    flat = tensor.detach().reshape(-1).clone()
    if flat.is_floating_point():
        flat[flat.isnan()] = float("nan")
    return flat.view(torch.uint8) if flat.numel() else flat


@contextmanager
def both_ways(findings: Findings, what: str) -> Iterator[None]:
    """Until this ends, models that are asked for the interpreter run both ways."""
    interpreted = sys.modules[runner.InterpretedExecutor.__module__]
    with (
        mock.patch.object(interpreted, "interpret", BothWays(findings, what)),
        mock.patch.object(interpreted, "TILE", TILE),
    ):
        yield


def try_graph(seed: int, findings: Findings) -> None:
    """One random graph, forward and backward."""
    graph, sizes = random_graph(seeded(seed))

    def redraw(seed: int) -> Tensors:
        return draw(graph, seed, **sizes)

    with both_ways(findings, f"random_graph(seeded({seed}))"):
        model = tn.compile(graph, strict=True)
        judged = judge(graph, redraw(seed), model=model)
        if not all(j.ok for j in judged):
            # What rounding between the ops does by itself takes runs of its own to know.
            judged = judge(graph, redraw(seed), model=model, noisy=3, redraw=redraw)
    findings.graphs += 1
    findings.results += len(judged)
    findings.wrong += [f"random_graph(seeded({seed})): {j}" for j in judged if not j.ok]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=1000, help="how many graphs (1000)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="the first seed (0)")
    given = parser.parse_args()
    findings = Findings()
    for seed in range(given.first, given.first + given.count):
        try_graph(seed, findings)
        if seed % 50 == 49:
            print(findings, flush=True)
    print(findings, *findings.wrong, sep="\n")
    sys.exit(bool(findings.wrong))


if __name__ == "__main__":
    main()
