"""The order in which a block is emitted: slots of scalar code, nests of loops over a tile, and operations alone.

An operation joins the earliest nest of its shape in which all that it needs exists, and is moved into a later one where
only that reads it: what stays within one nest needs no buffer. Memory accesses keep their order where they may meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..ttir.ttir import Block, Op, Value
from .analysis import ATOMICS, NOTHING, Analysis

ALONE = frozenset({"scf.for", "scf.if", "scf.while", "tt.call", "tt.dot", "tt.scan", "tt.histogram"})
"""What has loops of its own."""


ENDS = frozenset(
    {"scf.yield", "scf.condition", "tt.return", "tt.reduce.return", "tt.scan.return", "cf.br", "cf.cond_br"}
)


SHORT = frozenset({"arith.addf", "arith.subf", "arith.mulf", "arith.negf", "math.fma", "arith.extf"})
"""Arithmetic of a cycle or two, which a nest may repeat."""


MOST_LOADS, MOST_PARTS = 2, 4
"""Of what is repeated in a nest in place of a store and a load."""


Shape = tuple[int, ...]


@dataclass(eq=False)
class Slot:
    """Operations that are emitted together. `closed`: nothing else may join."""

    kind: Literal["scalar", "nest", "alone"]
    shape: Shape | None = None
    ops: list[Op] = field(default_factory=list)
    closed: bool = False


@dataclass(frozen=True)
class _Access:
    place: int
    stores: bool
    root: Value | None
    pointer: Value


def tile_shape(op: Op) -> Shape | None:
    """The shape of the tiles that an operation works on; None for scalars."""
    return next((v.type.shape for v in (*op.operands, *op.results) if v.type.is_tile), None)


class _Scheduler:
    def __init__(self, analysis: Analysis, block: Block) -> None:
        self.analysis, self.block = analysis, block
        self.slots = [Slot("scalar")]
        self.place: dict[Op, int] = {}
        self.accesses: list[_Access] = []
        self.fence = -1
        """The last slot that no memory access may pass."""

    def run(self) -> list[Slot]:
        for op in self.block.ops:
            inline = op.results and all(self.analysis.is_inline(r) for r in op.results)
            if op.name not in ENDS and op.name not in NOTHING and not inline and op.name != "arith.constant":
                self.add(op)
        self.sink()
        if self.analysis.repeats:
            self.repeat()
        self.order()
        return [slot for slot in self.slots if slot.ops]

    def add(self, op: Op) -> None:
        shape = tile_shape(op)
        if op.name in ALONE:
            self.append(op, Slot("alone"))
        elif op.name in ATOMICS:
            self.append(op, Slot("nest" if shape is not None else "scalar", shape, closed=True))
        elif shape is None and op.name in ("tt.load", "tt.store"):
            self.append(op, Slot("scalar", closed=True))
        else:
            kind: Literal["scalar", "nest"] = "scalar" if shape is None else "nest"
            self.join(op, kind, op.operands[0].type.shape if op.name == "tt.store" else shape)
        if op.name in ("tt.load", "tt.store"):
            pointer = op.operands[0]
            self.accesses.append(_Access(self.place[op], op.name == "tt.store", self.analysis.root(pointer), pointer))
        elif self.analysis.touches_memory(op):
            self.fence = self.place[op]

    def append(self, op: Op, slot: Slot) -> None:
        slot.ops.append(op)
        self.slots.append(slot)
        self.place[op] = len(self.slots) - 1

    def join(self, op: Op, kind: Literal["scalar", "nest"], shape: Shape | None) -> None:
        earliest = max(self.after_operands(op, kind, shape), self.after_accesses(op))
        for at in range(earliest, len(self.slots)):
            slot = self.slots[at]
            if slot.kind == kind and slot.shape == shape and not slot.closed:
                slot.ops.append(op)
                self.place[op] = at
                return
        self.append(op, Slot(kind, shape))

    def after_operands(self, op: Op, kind: str, shape: Shape | None) -> int:
        """The first slot in which an operation finds its operands."""
        earliest = 0
        for leaf, viewed in self.analysis.needs(op):
            definition = self.analysis.definition.get(leaf)
            place = self.place.get(definition, -1) if definition is not None else -1
            if place < 0:
                continue
            slot = self.slots[place]
            assert definition is not None
            within = slot.kind == kind and not slot.closed
            if within and kind == "nest":
                within = not viewed and leaf.type.shape == shape == slot.shape and definition.name != "tt.reduce"
            earliest = max(earliest, place if within else place + 1)
        return earliest

    def after_accesses(self, op: Op) -> int:
        """The first slot in which a load or store is behind all that it must not pass. An access through the very
        same pointer may be in the same nest, where it comes first in each strip."""
        if op.name not in ("tt.load", "tt.store"):
            return 0
        root, pointer = self.analysis.root(op.operands[0]), op.operands[0]
        earliest = self.fence + 1
        for access in self.accesses:
            if (access.stores or op.name == "tt.store") and self.analysis.may_meet(access.root, root):
                earliest = max(earliest, access.place if access.pointer is pointer else access.place + 1)
        return earliest

    def sink(self) -> None:
        """Moves what only a later nest of the same shape reads into that nest."""
        for op in reversed(self.block.ops):
            at = self.place.get(op)
            if (
                at is None
                or op.name in ("tt.store", "tt.reduce")
                or self.slots[at].kind != "nest"
                or self.slots[at].closed
            ):
                continue
            uses = [use for result in op.results for use in self.analysis.consumers(result)]
            to = min((self.place.get(user, -1) for user, _ in uses), default=-1)
            if to <= at or self.slots[to].kind != "nest" or self.slots[to].closed:
                continue
            if self.slots[to].shape != self.slots[at].shape or any(v and self.place.get(u) == to for u, v in uses):
                continue
            if op.name == "tt.load" and self.is_held(op, at, to):
                continue
            self.slots[at].ops.remove(op)
            self.slots[to].ops.append(op)
            self.place[op] = to

    def repeat(self) -> None:
        """Makes a load of neighbours, or something short that is made of such loads, again in each later nest that
        reads it, where memory stays as it is: what was loaded lies in the nearest cache, and to keep a copy of it there
        takes a store, and as much room again."""
        for op in self.block.ops:
            at = self.place.get(op)
            made_of = None if at is None else self.made_of(op, self.slots[at].shape)
            if at is None or made_of is None:
                continue
            uses = [*self.analysis.consumers(op.result)]
            others = {self.place.get(user, -1) for user, _ in uses} - {at}
            alike = all(self.slots[to].kind == "nest" and self.slots[to].shape == self.slots[at].shape for to in others)
            if not others or min(others) < at or not alike or any(viewed for _, viewed in uses):
                continue
            loads = [part for part in made_of if part.name == "tt.load"]
            if not any(self.is_held(load, self.place[load], max(others)) for load in loads):
                for to in others:
                    self.slots[to].ops += [part for part in made_of if part not in self.slots[to].ops]

    def made_of(self, op: Op, shape: Shape | None) -> list[Op] | None:
        """What has to be repeated to have the result of an operation of a nest again, itself among it; None where that
        is too much, or is not known to give the same."""
        found: list[Op] = []
        todo, loads = [op], 0
        while todo:
            part = todo.pop()
            if part in found:
                continue
            slot = self.slots[self.place[part]]
            if slot.kind != "nest" or slot.shape != shape or not self.is_short(part):
                return None
            found.append(part)
            loads += part.name == "tt.load"
            for leaf, _ in self.analysis.needs(part):
                definition = self.analysis.definition.get(leaf)
                if not leaf.type.is_tile:
                    continue
                if definition is None or part.name == "tt.load":
                    return None  # the next tile that a loop carries may lie there by then; places come from scalars
                if definition not in self.place:
                    loads += 1  # it lies in memory, as all does that comes from outside of the block
                elif leaf.type.size > 1:
                    todo.append(definition)
        return found if loads <= MOST_LOADS and len(found) <= MOST_PARTS else None

    def is_short(self, op: Op) -> bool:
        """Whether an operation takes about as long as a load: a load of neighbours that may be made twice, or simple
        arithmetic."""
        if op.name != "tt.load":
            return op.name in SHORT
        pointer = op.operands[0]
        along = range(len(pointer.type.dims))
        is_volatile = "true" in str(op.attrs.get("isVolatile", ""))
        return not is_volatile and any(self.analysis.step(pointer, dim) == 1 for dim in along)

    def order(self) -> None:
        order = {op: number for number, op in enumerate(self.block.ops)}
        for slot in self.slots:
            slot.ops.sort(key=order.__getitem__)

    def is_held(self, op: Op, at: int, to: int) -> bool:
        """Whether a load must not move from one slot to another, past what may change its memory."""
        root = self.analysis.root(op.operands[0])
        if any(at <= a.place <= to and a.stores and self.analysis.may_meet(a.root, root) for a in self.accesses):
            return True
        between = (inner for slot in self.slots[at : to + 1] for inner in slot.ops)
        return any(
            inner.name not in ("tt.load", "tt.store") and self.analysis.touches_memory(inner) for inner in between
        )


def schedule(analysis: Analysis, block: Block) -> list[Slot]:
    """The slots of a block in order."""
    return _Scheduler(analysis, block).run()


Places = Mapping[Op, Sequence[Slot]]
"""The slots that each operation of a block is in: several where it is repeated."""


def slots_of(slots: Sequence[Slot]) -> Places:
    found: dict[Op, list[Slot]] = {}
    for slot in slots:
        for op in slot.ops:
            found.setdefault(op, []).append(slot)
    return found
