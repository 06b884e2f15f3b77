"""What a function's data says before anything is written: which values are recomputed where they are used, what must
exist before them, which accesses may meet in memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, prod

from ..llvm.elementwise import CONVERSIONS, INTEGERS
from ..llvm.strips import WIDTH
from ..ttir.ttir import Function, Op, Uses, Value

VIEWS = frozenset(
    {
        "tt.splat",
        "tt.expand_dims",
        "tt.broadcast",
        "tt.trans",
        "tt.reshape",
        "tt.unsplat",
        "tt.split",
        "tt.join",
        "tt.cat",
    }
)
"""Operations that only say which element of an operand stands where."""


INLINE = (
    VIEWS
    | frozenset(INTEGERS)
    | {"tt.addptr", "tt.make_range", "arith.constant", "ub.poison"}
    | {"arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast", "tt.int_to_ptr", "tt.ptr_to_int"}
)
"""Operations on tiles that are never kept: offsets, masks and views are computed where they are used."""


INLINE_IF_NO_FLOAT = frozenset({"arith.select", "tt.bitcast", "arith.bitcast"})


DIVISIONS = frozenset({"arith.divsi", "arith.divui", "arith.remsi", "arith.remui"})
"""Inline by a constant alone: any other division costs more than to keep its result."""


REMAINDERS = frozenset({"arith.remsi", "arith.remui"})

KEEPS_SIGN = DIVISIONS | {"arith.addi", "arith.muli", "arith.extsi", "arith.extui", "arith.minsi", "arith.maxsi"}
"""Operations on integers whose result is 0 or more where all operands are."""


BARRIERS = frozenset({"ttg.barrier", "gpu.barrier", "ttg.local_barrier", "tt.debug_barrier"})


ATOMICS = frozenset({"tt.atomic_rmw", "tt.atomic_cas"})


NOTHING = BARRIERS | {"tt.print", "tt.assert", "llvm.intr.assume"}
"""Operations that emit no code: programs run one after another or side by side, but each on one thread."""


class Analysis(Uses):
    """`aliased` says that arguments may overlap in memory, so that no access passes another one, `repeats` that an
    access may be made more than once."""

    def __init__(self, function: Function, aliased: bool = False, repeats: bool = True) -> None:
        super().__init__(function)
        self.aliased, self.repeats = aliased, repeats
        self.arguments = frozenset(function.args)
        self._roots: dict[Value, Value | None] = {}
        self._steps: dict[tuple[Value, int], int | None] = {}
        self._multiples: dict[tuple[Value, int | None], int] = {}
        self._nonnegative: dict[Value, bool] = {}

    def is_inline(self, value: Value) -> bool:
        op = self.definition.get(value)
        if op is None or not value.type.is_tile:
            return False
        if op.name in DIVISIONS:
            return self.constant(op.operands[1]) is not None
        if op.name in INLINE_IF_NO_FLOAT:
            return not value.type.is_float and not any(o.type.is_float for o in op.operands)
        return op.name in INLINE

    def leaves(
        self, value: Value, viewed: bool = False, seen: set[tuple[Value, bool]] | None = None
    ) -> Iterator[tuple[Value, bool]]:
        """(value, whether it is seen through a view) of all that must exist before `value` can be computed."""
        seen = set() if seen is None else seen
        if (value, viewed) in seen:
            return
        seen.add((value, viewed))
        op = self.definition.get(value)
        if op is not None and self.is_inline(value):
            for operand in op.operands:
                yield from self.leaves(operand, viewed or op.name in VIEWS, seen)
        elif op is None or op.name != "arith.constant":
            yield value, viewed

    def needs(self, op: Op) -> Iterator[tuple[Value, bool]]:
        """The leaves of an operation's operands. What it picks elements from counts as viewed."""
        for place, operand in enumerate(op.operands):
            yield from self.leaves(operand, op.name == "tt.gather" and place == 0)

    def consumers(
        self, value: Value, viewed: bool = False, seen: set[tuple[Op, bool]] | None = None
    ) -> Iterator[tuple[Op, bool]]:
        """(operation, whether it sees the value through a view) of all that read a value, through what is inline."""
        seen = set() if seen is None else seen
        for user in self.of(value):
            if user.results and self.is_inline(user.result):
                key = (user, viewed or user.name in VIEWS)
                if key not in seen:
                    seen.add(key)
                    for result in user.results:
                        yield from self.consumers(result, key[1], seen)
            else:
                yield user, viewed or (user.name == "tt.gather" and user.operands[0] is value)

    def root(self, pointer: Value) -> Value | None:
        """The scalar pointer that a pointer is an offset from: an argument, or one out of a table; None if unknown."""
        if pointer not in self._roots:
            self._roots[pointer] = self._root(pointer, frozenset())
        return self._roots[pointer]

    def _root(self, pointer: Value, assumed: frozenset[Value]) -> Value | None:
        """`assumed` are loop-carried pointers that are followed already."""
        op = self.definition.get(pointer)
        while op is not None and (op.name in VIEWS or op.name in ("tt.addptr", "tt.bitcast")):
            pointer = op.operands[0]
            op = self.definition.get(pointer)
        if op is not None:
            if op.name == "scf.for":
                return self._carried_root(op, op.results.index(pointer), assumed)
            return pointer if op.name == "tt.int_to_ptr" and not pointer.type.is_tile else None
        block = self.owner.get(pointer)
        parent = self.parent[block] if block is not None else None
        if block is None or parent is None:
            return pointer if pointer in self.arguments else None
        return self._carried_root(parent, block.args.index(pointer) - 1, assumed) if parent.name == "scf.for" else None

    def _carried_root(self, loop: Op, number: int, assumed: frozenset[Value]) -> Value | None:
        """The root of what a loop carries: that of what it starts with, if the loop only adds to it."""
        body = loop.regions[0]
        arg, end = body.args[number + 1], body.terminator
        start = self._root(loop.operands[3 + number], assumed)
        if arg in assumed or end is None:
            return start
        following = self._root(end.operands[number], assumed | {arg})
        return start if following is start else None

    def may_meet(self, a: Value | None, b: Value | None) -> bool:
        """Whether accesses through these roots may touch the same memory. Arguments do not overlap unless `aliased`;
        pointers out of tables may lead anywhere but to each other's tensors."""
        return self.aliased or a is None or b is None or a is b

    def touches_memory(self, op: Op) -> bool:
        names = {op.name} | {inner.name for region in op.regions for inner in region.walk()}
        return bool(names & ({"tt.load", "tt.store", "tt.call"} | ATOMICS | BARRIERS))

    def step(self, value: Value, dim: int) -> int | None:
        """How much a value grows from element to element along a dimension within a strip, if that is known now."""
        if (value, dim) not in self._steps:
            self._steps[value, dim] = self._step(value, dim)
        return self._steps[value, dim]

    def _step(self, value: Value, dim: int) -> int | None:
        if not value.type.is_tile or value.type.dims[dim] == 1:
            return 0
        op = self.definition.get(value)
        if op is None or not self.is_inline(value):
            return None
        match op.name:
            case "arith.constant" | "tt.splat":
                return 0
            case "tt.make_range":
                return 1
            case "tt.expand_dims":
                axis = op.integer("axis")
                return 0 if dim == axis else self.step(op.operands[0], dim - (dim > axis))
            case "tt.broadcast":
                return self.step(op.operands[0], dim)
            case "tt.trans":
                return self.step(op.operands[0], op.order[dim])
        if op.name in VIEWS:
            return None
        steps = [self.step(operand, dim) for operand in op.operands]
        if any(s is None for s in steps):
            return None
        known = [s for s in steps if s is not None]
        if op.name in ("arith.addi", "tt.addptr"):
            return sum(known)
        if op.name == "arith.subi":
            return known[0] - known[1]
        if op.name in CONVERSIONS:
            return known[0]
        if op.name == "arith.muli":
            for one, other in ((0, 1), (1, 0)):
                factor = self.constant(op.operands[other])
                if factor is not None:
                    return int(known[one] * factor)
        if op.name in DIVISIONS and known[0] and self.stays_within(op, dim, known[0]):
            return known[0] if op.name in REMAINDERS else 0
        return None if any(known) else 0

    def stays_within(self, division: Op, dim: int, step: int) -> bool:
        """Whether all lanes of a strip along `dim` have the same quotient: none is negative, the divisor is known, and
        what divides both it and lane 0 is further than the last lane."""
        dividend, divisor = division.operands[0], self.constant(division.operands[1])
        if divisor is None or divisor <= 0 or step < 0 or not self.is_nonnegative(dividend):
            return False
        lanes = min(dividend.type.dims[dim], WIDTH)
        return (lanes - 1) * step < gcd(self.multiple(dividend, dim), divisor)

    def multiple(self, value: Value, dim: int | None) -> int:
        """A number that divides a value, wherever strips along `dim` begin: at multiples of their width. Along other
        dimensions, and with None along all, it divides every element. 0 is divided by all, and so is 0 itself."""
        if (value, dim) not in self._multiples:
            self._multiples[value, dim] = self._multiple(value, dim)
        return self._multiples[value, dim]

    def _multiple(self, value: Value, dim: int | None) -> int:
        op = self.definition.get(value)
        if op is None:
            return 1
        match op.name:
            case "arith.constant":
                return abs(int(op.attrs.get("value", 0)))
            case "tt.make_range":
                size = value.type.dims[0]
                return gcd(op.integer("start"), 0 if size == 1 else 1 if dim is None else min(size, WIDTH))
            case "tt.splat":
                return self.multiple(op.operands[0], None)
            case "tt.expand_dims":
                axis = op.integer("axis")
                return self.multiple(op.operands[0], None if dim is None or dim == axis else dim - (dim > axis))
            case "tt.broadcast":
                return self.multiple(op.operands[0], dim)
            case "arith.addi" | "arith.subi":
                return gcd(*(self.multiple(operand, dim) for operand in op.operands))
            case "arith.muli":
                return prod(self.multiple(operand, dim) for operand in op.operands)
            case "arith.extsi" | "arith.extui":
                return self.multiple(op.operands[0], dim)
        return 1

    def is_nonnegative(self, value: Value) -> bool:
        """Whether an integer is known to be 0 or more, where no sum or product is out of range."""
        if value not in self._nonnegative:
            self._nonnegative[value] = self._is_nonnegative(value)
        return self._nonnegative[value]

    def _is_nonnegative(self, value: Value) -> bool:
        op = self.definition.get(value)
        if op is None:
            block = self.owner.get(value)
            loop = self.parent[block] if block is not None else None
            counts = block is not None and loop is not None and loop.name == "scf.for" and value is block.args[0]
            return counts and loop is not None and self.is_nonnegative(loop.operands[0])
        match op.name:
            case "arith.constant":
                return bool(op.attrs.get("value", 0) >= 0)
            case "tt.make_range":
                return op.integer("start") >= 0
            case "tt.get_program_id" | "tt.get_num_programs":
                return True
            case "arith.extsi" if op.operands[0].type.elem == "i1":
                return False
        keeps = op.name in KEEPS_SIGN or op.name in VIEWS
        return keeps and all(map(self.is_nonnegative, op.operands))
