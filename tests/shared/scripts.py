"""What `to_python` promises: run, the script declares the same graph, whose script is the same text."""

from __future__ import annotations

import ast
import re
from typing import Any

from tritonnotes.ir.core.compare import facts
from tritonnotes.ir.core.graph import Graph

PLACES = ("scalar", "buffer", "parameter", "input")
"""Leaves, which a script may declare at another place: before the op that reads them."""


def declared_by(script: str) -> Any:
    """The graph that a script declares. It imports tritonnotes and nothing else."""
    imports = [n for n in ast.walk(ast.parse(script)) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(n) for n in imports] == ["import tritonnotes as tn"]
    names: dict[str, Any] = {}
    exec(script, names)
    return names["g"]


def apart_from_places(graph: Graph) -> object:
    """All that a graph says, leaves of a kind in order, and ops in order."""
    name, level, values, regions, roots = facts(graph)
    assert isinstance(values, tuple)
    kinds = [value.op.name for value in graph.values]
    order = {kind: [v for v, k in zip(values, kinds, strict=True) if k == kind] for kind in PLACES}
    rest = [v for v, k in zip(values, kinds, strict=True) if k not in PLACES]
    return name, level, order, rest, regions, roots


def assert_declares(graph: Graph) -> str:
    """The script of a graph, which keeps what it promises."""
    script = graph.to_python()
    made = declared_by(script)
    assert apart_from_places(made) == apart_from_places(graph), script
    assert made.to_python() == script
    wide = [line for line in script.splitlines() if len(line) > 120]
    assert all(max(map(len, re.findall(r"\w+", line))) > 60 for line in wide), "no line is long but for a long name"
    return script
