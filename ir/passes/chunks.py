"""Products of many columns in chunks of rows: what a linear layer makes for each class never exists for all rows.

A *region* is such a product, the logits, with all that is local to a row of them: the loss of a row, its gradient, what
a metric asks of it. What leaves a region is small: numbers of a row, the gradient of the layer's input, and sums over
rows such as the gradients of weight and bias. A region becomes a graph of its own over the `Dim` of a chunk, and each
of its results one `chunked` value of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..core.errors import DeclarationError
from ..core.graph import Graph, Value
from ..core.rewrite import copy_value, drop_dead
from ..core.types import Shape, Size, element_count, float32, host, known_factor
from ..primitives.chunked import CHUNK_ROWS

LOGITS_BUDGET = 64 * 2**20
"""Bytes that the logits of one chunk may take: what an H100's L2 cache holds of them and their gradient is about that,
and 512 rows of 32,000 classes keep its matrix units busy."""

ASSUMED_ROWS = 16_384
"""Rows that a `Dim` is taken to have when it is asked whether logits are too large: 8 texts of 2,048 words."""

FEWEST_ROWS = 16
"""Rows of the smallest chunk: as many as tensor cores multiply at once, so that slices stay aligned."""


@dataclass(frozen=True)
class Chunking:
    """What became of one product whose result exceeds the budget. `rows` of a chunk, 0 where it is not chunked, which
    `reason` tells; `bytes` of one row of logits."""

    name: str
    size: Size
    rows: int
    row_bytes: int
    budget: int
    reason: str = ""

    def __str__(self) -> str:
        count = _assumed(self.size)
        shown = f"{count:,} rows" if isinstance(self.size, int) else f"{self.size} = {count:,} rows, as is assumed,"
        full = f"{self.name} of {shown} would take {count * self.row_bytes:,} bytes, the budget is {self.budget:,}"
        if self.reason:
            return f"{full}: not chunked, as {self.reason}."
        return (
            f"{full}: computed {self.rows:,} rows at a time, in {-(-count // self.rows):,} chunks of "
            f"{self.rows * self.row_bytes:,} bytes; the full logits are never materialized."
        )


def check_budget(budget: object) -> int | None:
    """A budget that makes sense. Raises `DeclarationError`."""
    if budget is None or (isinstance(budget, int) and not isinstance(budget, bool) and budget > 0):
        return budget
    raise DeclarationError(
        f"logits_budget is {budget!r}; give the bytes that the logits of one chunk may take, as an int above 0 "
        f"(such as {LOGITS_BUDGET}), or None to compute them whole"
    )


def in_chunks(graph: Graph, budget: int | None = LOGITS_BUDGET) -> tuple[Graph, tuple[Chunking, ...]]:
    """`graph` (of primitives) with each region whose logits exceed `budget` bytes computed in chunks of rows, and what
    became of each product that does. Without one the graph is the same object."""
    found: list[Chunking] = []
    if budget is None:
        return graph, ()
    considered: set[str] = set()
    while True:
        values = [v for v in graph.values if v.name not in considered and _exceeds(v, budget) and _is_last(graph, v)]
        if not values:
            return graph, tuple(found)
        logits = values[0]
        considered.add(logits.name)
        row_bytes = _per_row(logits) * logits.dtype.itemsize
        rows = max(FEWEST_ROWS, 1 << max(budget // row_bytes, 1).bit_length() - 1)
        try:
            region = _Region(graph, logits)
            inside = [v.name for v in region.members if _exceeds(v, budget)]
            graph = region.rewritten(rows)
        except _Refused as refused:
            found.append(Chunking(logits.name, logits.shape[0], 0, row_bytes, budget, str(refused)))
            continue
        considered.update(inside)
        found.append(Chunking(logits.name, logits.shape[0], rows, row_bytes, budget))


def _exceeds(value: Value, budget: int) -> bool:
    if value.op.name != "matmul" or not value.shape:
        return False
    is_known = all(isinstance(size, int) for size in value.shape[1:])
    return is_known and _assumed(value.shape[0]) * _per_row(value) * value.dtype.itemsize > budget


def _is_last(graph: Graph, value: Value) -> bool:
    """Whether a product is the last one of the forward run on its way, as that of the layer before a loss is: others
    are activations, which a run keeps."""
    after = _descendants(graph, value) - {value}
    is_followed = any(v.op.kind == "contraction" and v.scope.phase == "forward" for v in after)
    return value.scope.phase == "forward" and not is_followed


def _assumed(rows: Size) -> int:
    """How many rows there are taken to be: those of merged axes together are as many as those of one `Dim`."""
    return rows if isinstance(rows, int) else ASSUMED_ROWS * known_factor((rows,))


class _Assumed(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return ASSUMED_ROWS


def _per_row(value: Value) -> int:
    return element_count(value.shape[1:], _Assumed())


class _Refused(Exception):
    """Why a product is not chunked."""


Key = tuple[Value, bool]
"""A value, and whether its first axis is the rows."""

_LOCAL = ("elementwise", "cast")


@dataclass
class _Region:
    """What descends from the logits row by row, in order, and what that needs from outside."""

    graph: Graph
    logits: Value
    members: dict[Value, None] = field(default_factory=dict)
    sums: set[Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        if len(self.logits.shape) != 2:
            raise _Refused(f"it has {len(self.logits.shape)} axes; flatten what it is made of to two before the layer")
        if any(v.shape and CHUNK_ROWS in v.shape for v in self.graph.values):
            raise _Refused(f"a Dim of the graph is called {CHUNK_ROWS.name}; call it otherwise")
        self.size, self.columns = self.logits.shape
        self.descendants = _descendants(self.graph, self.logits)
        self.members[self.logits] = None
        for value in self.graph.values:
            if any(a in self.members and a not in self.sums and not self._is_left(a) for a in value.inputs):
                self._meet(value)
        self._check_roots()

    def _is_left(self, value: Value) -> bool:
        """Whether a member is the last of its line, a product of what is in the region."""
        return value is not self.logits and value.op.kind == "contraction"

    def _is_wide(self, value: Value) -> bool:
        return value in self.members and value not in self.sums and value.shape == self.logits.shape

    def _meet(self, value: Value) -> None:
        """A value that reads a member: it belongs to the region, or reads what leaves it."""
        reads_wide = any(self._is_wide(a) and not self._is_left(a) for a in value.inputs)
        if self._is_local(value):
            self.members[value] = None
        elif reads_wide and self._is_sum(value):
            self.members[value] = None
            self.sums.add(value)
        elif reads_wide and value.op.name == "matmul" and value.inputs[1] not in self.descendants:
            self.members[value] = None
        elif reads_wide:
            raise _Refused(f"{value.name} ({value.op.name}) needs more of them than one row at a time")

    def _is_local(self, value: Value) -> bool:
        """Whether each row of a value, a number or as wide as the logits, is made of the same row of its arguments."""
        if not value.shape or value.shape[0] != self.size or value.op.name == "copy":
            return False
        if value.shape != self.logits.shape and _per_row(value) != 1:
            return False
        inside = [a for a in value.inputs if a in self.members]
        if any(a in self.sums or self._is_left(a) for a in inside):
            return False
        if value.op.kind in _LOCAL or value.op.name == "broadcast_to":
            return all(len(a.shape) == len(value.shape) and a.shape[0] == self.size for a in inside)
        if value.op.kind == "reduction":
            return 0 not in value.attrs["axes"]
        return value.op.name == "reshape" and value.inputs[0].shape[:1] == (self.size,)

    def _is_sum(self, value: Value) -> bool:
        if value.op.name == "sum":
            return 0 in value.attrs["axes"]
        return value.op.name == "matmul_over_rows" and len(value.inputs[0].shape) == len(value.inputs[1].shape) == 2

    def _check_roots(self) -> None:
        for name, root in self.graph.outputs.items():
            while root.op.name == "reshape" and root not in self.members:
                (root,) = root.inputs
            if self._is_wide(root) and not self._is_left(root):
                raise _Refused(f"{root.name} is the output {name!r}, all of it; take it out of the outputs")
        if any(self._is_wide(v) and not self._is_left(v) for v in self.graph.updates.values()):
            raise _Refused("an update keeps all of them")

    # -- the region as a graph of its own --

    def rewritten(self, rows: int) -> Graph:
        """The graph with the region's results as `chunked` values."""
        left = self._left()
        rows = min(rows, self.size) if isinstance(self.size, int) else rows
        region = _RegionGraph(self)
        for value in self.members:
            region.member(value)
        for number, value in enumerate(left):
            region.output(number, value, value in self.sums)
        made, new = self._outside(region.inputs, left, region.graph(), rows)
        made.outputs = {name: new(v) for name, v in self.graph.outputs.items()}
        made.updates = {name: new(v) for name, v in self.graph.updates.items()}
        return drop_dead(made)

    def _left(self) -> list[Value]:
        """The members that others read, views apart: these are made anew outside."""
        outside = [a for v in self.graph.values if v not in self.members for a in v.inputs if a in self.members]
        found = {self._base(v): None for v in (*outside, *(v for v in self.graph.roots if v in self.members))}
        for value in found:
            if self._is_wide(value) and not self._is_left(value):
                raise _Refused(f"{value.name} is read outside of what can be chunked")
        return sorted(found, key=lambda v: v.index)

    def _base(self, value: Value) -> Value:
        while value.op.name == "reshape" and value.inputs[0] in self.members:
            (value,) = value.inputs
        return value

    def _outside(self, inputs: Iterable[Value], left: list[Value], inner: Graph, rows: int) -> Any:
        """The graph around the region: first what does not descend from the logits, then the region, then the rest."""
        made = Graph(self.graph.name, level=self.graph.level)
        new: dict[Value, Value] = {}

        def add(value: Value) -> None:
            new[value] = copy_value(made, value, tuple(None if a is None else of(a) for a in value.args))

        def of(value: Value) -> Value:
            if value not in new:
                add(value)
            return new[value]

        for value in self.graph.values:
            if value not in self.descendants:
                add(value)
        args = tuple(new[v] for v in inputs)
        for number, value in enumerate(left):
            made.scope = value.scope
            attrs = MappingProxyType({"region": inner, "which": number, "rows": rows})
            dtype = _kept(value) if value in self.sums else value.dtype
            node = made.append("chunked", args, attrs, value.shape, dtype)
            node.hint = value.hint
            new[value] = node if dtype is value.dtype else made.call("cast", node, dtype=value.dtype)
        for value in self.graph.values:
            if value in self.descendants and value not in self.members:
                add(value)
        return made, of


def _kept(value: Value) -> Any:
    """The dtype that sums are kept in from chunk to chunk: of 16 bits the sum of one chunk alone is rounded."""
    return float32 if value.dtype.itemsize == 2 else value.dtype


def _descendants(graph: Graph, start: Value) -> set[Value]:
    found = {start}
    for value in graph.values:
        if any(a in found for a in value.inputs):
            found.add(value)
    return found


class _RegionGraph:
    """Builds the graph of a region. Leaves are named after what they are outside; numbers of the host are scalars."""

    def __init__(self, region: _Region) -> None:
        self.region = region
        self.made = Graph("chunk", level="primitive")
        self.new: dict[Key, Value] = {}
        self.leaves: dict[Value, bool] = {}

    @property
    def inputs(self) -> list[Value]:
        return list(self.leaves)

    def member(self, value: Value) -> None:
        args = tuple(self._argument(value, i) for i in range(len(value.inputs)))
        is_rows = value not in self.region.sums
        self.new[value, is_rows] = self._append(value, args, is_rows)

    def output(self, number: int, value: Value, is_sum: bool) -> None:
        made = self.new[value, not is_sum]
        kept = _kept(value) if is_sum else value.dtype
        self.made.scope = value.scope
        self.made.outputs[f"out_{number}"] = made if kept is made.dtype else self.made.call("cast", made, dtype=kept)

    def graph(self) -> Graph:
        return drop_dead(self.made)

    def _append(self, value: Value, args: tuple[Value, ...], is_rows: bool) -> Value:
        self.made.scope = value.scope
        attrs: Mapping[str, Any] = value.attrs
        shape = self._in_rows(value.shape) if is_rows else value.shape
        if "shape" in attrs:
            attrs = MappingProxyType({**attrs, "shape": shape})
        made = self.made.append(value.op, args, attrs, shape, value.dtype)
        made.hint = value.hint
        return made

    def _in_rows(self, shape: Shape) -> Shape:
        return (CHUNK_ROWS, *shape[1:])

    def _argument(self, reader: Value, place: int) -> Value:
        arg = reader.inputs[place]
        if arg in self.region.members and (arg, True) in self.new:
            return self.new[arg, True]
        return self._external(arg, self._has_rows(reader, place))

    def _has_rows(self, reader: Value, place: int) -> bool:
        """Whether the first axis of an argument is the rows of what reads it, which has them first."""
        arg = reader.inputs[place]
        if reader.op.name == "matmul":
            return place == 0
        if reader.op.name == "matmul_over_rows" or reader.op.kind == "reduction" or reader.op.name == "reshape":
            return True
        return len(arg.shape) == len(reader.shape) and arg.shape[:1] == (self.region.size,)

    def _external(self, value: Value, is_rows: bool) -> Value:
        key = value, is_rows
        if key not in self.new:
            self.new[key] = self._made(value, is_rows)
        return self.new[key]

    def _made(self, value: Value, is_rows: bool) -> Value:
        """What the region has instead of a value from outside: itself where it is free or made of a row anew, else a
        leaf."""
        if value in self.region.descendants:
            raise _Refused(f"{value.name} is known only once all rows are")
        if value.op.name in ("constant", "iota"):
            if is_rows:
                raise _Refused(f"{value.name} ({value.op.name}) depends on the number of the row")
            self.made.scope = value.scope
            return copy_value(self.made, value, ())
        if is_rows and self._is_made_anew(value):
            args = tuple(self._external(a, self._has_rows(value, i)) for i, a in enumerate(value.inputs))
            return self._append(value, args, True)
        if value.op.name == "uniform":
            raise _Refused(f"{value.name} draws random numbers by the number of the row")
        if is_rows and not value.is_leaf and value.shape == self.region.logits.shape:
            raise _Refused(f"{value.name} is as large, and made outside of what can be chunked")
        if self.leaves.setdefault(value, is_rows) is not is_rows:
            raise _Refused(f"{value.name} is needed both row by row and whole")
        self.made.scope = value.scope
        kind = "scalar" if value.dtype is host else "input"
        shape = self._in_rows(value.shape) if is_rows else value.shape
        return self.made.append(kind, (), {}, shape, value.dtype, value.name)

    def _is_made_anew(self, value: Value) -> bool:
        wide = value.shape == self.region.logits.shape
        if not wide and _per_row(value) != 1:
            return False
        if value.op.kind in _LOCAL or value.op.name == "broadcast_to":
            return True
        if value.op.name == "reshape":
            return value.inputs[0].shape[:1] == (self.region.size,) and _per_row(value.inputs[0]) == _per_row(value)
        return False
