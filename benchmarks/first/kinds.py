"""Each kind of kernel that is generated, against eager PyTorch and float64."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value

from ..peers import reason
from .part import asked
from .rows import Row, row, tell_all

SEVERAL = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Kind:
    """A graph by its rows and dtype. `options` are those of `tn.compile`; with an `optimizer` it is a whole step.
    `is_quick`: a sanitizer, which takes a hundred times as long, runs it too."""

    graph: Callable[[int, str], Graph]
    rows: int = 1000
    dtypes: tuple[str, ...] = ("float32",)
    options: dict[str, Any] = field(default_factory=dict)
    is_step: bool = False
    is_quick: bool = False


def of(columns: int | tuple[int, ...], build: Callable[[Value], Value]) -> Callable[[int, str], Graph]:
    """A function of one input."""

    def graph(rows: int, dtype: str) -> Graph:
        g = tn.Graph("kind")
        behind = columns if isinstance(columns, tuple) else (columns,)
        g.output(y=build(g.input("x", (rows, *behind), dtype=dtype)))
        return g

    return graph


def classes(columns: int, count: int = 0) -> Callable[[int, str], Graph]:
    """Cross entropy over columns, or over the classes of a linear layer."""

    def graph(rows: int, dtype: str) -> Graph:
        g = tn.Graph("kind")
        x, y = g.input("x", (rows, columns), dtype=dtype), g.input("y", (rows,), dtype="int64")
        logits = tn.linear(x, count) if count else x
        g.output(loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
        return g

    return graph


def classifier(rows: int, dtype: str) -> Graph:
    """A step of linear layers, norms and activations."""
    g = tn.Graph("kind")
    h, y = g.input("x", (rows, 64), dtype=dtype), g.input("y", (rows,), dtype="int64")
    for _ in range(2):
        h = tn.gelu(tn.layer_norm(tn.linear(h, 128)))
    g.output(loss=tn.cross_entropy(tn.linear(h, 10), y))
    return g


KINDS: dict[str, Kind] = {
    "elementwise": Kind(of(1000, lambda x: tn.gelu(x) * 2.0 + x), dtypes=SEVERAL, is_quick=True),
    "rows, and sums over rows": Kind(of(1024, tn.layer_norm), dtypes=SEVERAL, is_quick=True),
    "rows of odd length": Kind(of(769, tn.layer_norm), dtypes=SEVERAL),
    "short rows": Kind(of(10, lambda x: tn.softmax(x, -1)), dtypes=SEVERAL, is_quick=True),
    "looped rows": Kind(of(70_000, lambda x: tn.softmax(x, -1)), rows=40, dtypes=SEVERAL[:2]),
    "rows held by one program each": Kind(of(20_000, lambda x: tn.softmax(x, -1)), rows=70, dtypes=SEVERAL[:2]),
    "losses and metrics": Kind(classes(1000), dtypes=SEVERAL, is_quick=True),
    "losses of many classes": Kind(classes(33_000), rows=64, dtypes=SEVERAL[:2]),
    "columns": Kind(of(64, tn.batch_norm), rows=4096, dtypes=SEVERAL[:2], is_quick=True),
    "channels": Kind(of((32, 14, 14), tn.batch_norm), rows=32, dtypes=SEVERAL[:2]),
    "what a launch of its own finalizes": Kind(of(9000, lambda x: x + tn.sum(x, 0)), rows=2000),
    "products with what is around them": Kind(
        of(64, lambda x: tn.gelu(tn.linear(tn.silu(x), 96))), dtypes=SEVERAL[:2], options={"products": "generated"}
    ),
    "products of which several programs share sums": Kind(
        of(48, lambda x: tn.linear(x, 40)), rows=20_000, options={"products": "generated"}
    ),
    "products by the library": Kind(of(256, lambda x: tn.relu(tn.linear(x, 512))), options={"products": "library"}),
    "a loop over chunks of rows": Kind(classes(64, 5000), rows=700, options={"logits_budget": 2**18}, is_step=True),
    "updates of many weights in a launch": Kind(classifier, options={"products": "library"}, is_step=True),
    "a training step": Kind(classifier, rows=500, is_step=True, is_quick=True),
}


def rows(device: torch.device, is_tiny: bool, quick: bool = False, **run: Any) -> Iterator[Row]:
    """Judge kinds one by one; with `quick` those that a sanitizer has time for."""
    for name, kind in KINDS.items():
        if quick and not kind.is_quick:
            continue
        for dtype in kind.dtypes[:1] if quick or is_tiny else kind.dtypes:
            began = time.monotonic()
            what = f"{name}, {dtype}"
            try:
                certificate = _judged(kind, dtype, device, is_tiny or quick, **run)
            except Exception as error:
                yield row(what, False, reason(error))
                continue
            worst = max(certificate.rows, key=lambda r: r.comparison.max_error / max(r.comparison.max_allowed, 1e-300))
            why = "" if certificate.ok else f"{worst.what} {worst.name}: {worst.comparison}"
            figures = {"error": worst.comparison.max_error, "allowed": worst.comparison.max_allowed}
            yield row(what, certificate.ok, why, **figures, seconds=round(time.monotonic() - began, 2))


def _judged(kind: Kind, dtype: str, device: torch.device, is_small: bool, **run: Any) -> tn.Certificate:
    graph = kind.graph(min(kind.rows, 40) if is_small else kind.rows, dtype)
    if kind.is_step:
        return tn.check(step_of(kind, graph, device, **run))
    return tn.check(tn.compile(graph, device=device, **kind.options, **run))


def step_of(kind: Kind, graph: Graph, device: torch.device, **run: Any) -> tn.TrainingStep:
    return tn.compile_step(graph, loss="loss", optimizer=tn.adamw(lr=1e-2), device=device, **kind.options, **run)


def main() -> int:
    given = asked()
    return tell_all(rows(given.device, given.is_tiny))


if __name__ == "__main__":
    sys.exit(main())
