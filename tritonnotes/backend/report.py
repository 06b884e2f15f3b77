"""What the backend made of the graphs that it was given, and what stayed torch's, with the reasons."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..codegen.program.program import Program
from .part import Part

KEPT = 64
"""Graphs that are kept: those compiled longest ago go first."""


@dataclass(frozen=True)
class Left:
    """An op that stays torch's, how often, and why."""

    op: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.op}{f' ×{self.count}' if self.count > 1 else ''}: {self.reason}"


@dataclass(frozen=True)
class CompiledGraph:
    """One graph that Dynamo handed over: its `parts`, each one program, and what is `left` to torch. A part has the
    declared `graph`, the `ops` in it, and `programs()`, those that were made so far."""

    parts: tuple[Part, ...]
    left: tuple[Left, ...]

    @property
    def fused(self) -> int:
        """How many ops run in programs."""
        return sum(len(part.ops) for part in self.parts if part.reason is None)

    @property
    def stayed(self) -> int:
        """How many ops are torch's calls."""
        return sum(left.count for left in self.left) + sum(len(p.ops) for p in self.parts if p.reason is not None)

    def __str__(self) -> str:
        lines = [f"{_counted(self.fused, 'op')} in {_counted(len(self.parts), 'program')}, {self.stayed} left to torch"]
        lines += [f"  {part.graph.name}: {_told(part)}" for part in self.parts]
        return "\n".join(lines + [f"  left  {left}" for left in self.left])


@dataclass(frozen=True)
class BackendReport:
    """The graphs that were compiled, in order. `print` it."""

    graphs: tuple[CompiledGraph, ...]

    @property
    def fused(self) -> int:
        return sum(graph.fused for graph in self.graphs)

    @property
    def stayed(self) -> int:
        return sum(graph.stayed for graph in self.graphs)

    def __str__(self) -> str:
        if not self.graphs:
            return "no graphs yet: torch.compile compiles a function when it is first called"
        return "\n".join(f"graph {number}: {graph}" for number, graph in enumerate(self.graphs))


_graphs: deque[CompiledGraph] = deque(maxlen=KEPT)


def torch_compile_report(*, clear: bool = False) -> BackendReport:
    """What `torch.compile(..., backend="tritonnotes")` did with the last graphs: the programs, and the ops that were
    left to torch with the reasons. `clear` starts a new report."""
    made = BackendReport(tuple(_graphs))
    if clear:
        _graphs.clear()
    return made


def keep(parts: Sequence[Part], left: Sequence[tuple[str, str]]) -> None:
    """Note a graph that was compiled; `left` are ops with the reasons."""
    counted = Counter(left)
    _graphs.append(CompiledGraph(tuple(parts), tuple(Left(op, n, why) for (op, why), n in counted.items())))


def _told(part: Part) -> str:
    ops = ", ".join(part.ops)
    if part.reason is not None:
        return f"{ops}; left to torch: {part.reason}"
    return f"{ops}{_launches(part.programs())}"


def _launches(programs: Sequence[Program]) -> str:
    counts = [str(program.plan.launch_count()) for program in programs]
    return f"; launches: {' + '.join(counts)}" if counts else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
