"""Loops, branches and calls. What they carry lies in one place from turn to turn: a buffer for a tile, a stack slot for
a scalar, which LLVM makes a register."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import Uncovered
from ..llvm.buffers import Buffer
from ..llvm.writer import llvm_type
from ..schedule.schedule import Slot
from ..ttir.ttir import Block, Op, Type, Value
from .lowering import Lowering
from .nests import copy_tile


@dataclass(frozen=True)
class Home:
    """Where a carried value lies."""

    type: Type
    slot: str
    buffer: Buffer | None


def homes(low: Lowering, values: Sequence[Value]) -> list[Home]:
    made = []
    for value in values:
        if value.type.is_tile:
            made.append(Home(value.type, "", low.new_buffer(value.type)))
        else:
            made.append(Home(value.type, low.w.alloca(llvm_type(value.type.elem), align=8), None))
    return made


def move(low: Lowering, values: Sequence[Value], to: list[Home], held: Sequence[Value] = ()) -> None:
    """Puts values into their homes as if all at once; `held` are the values that lie in these homes now."""
    scalars = [None if value.type.is_tile else low.scalar(value) for value in values]
    pending: list[tuple[Value, Buffer]] = []
    for value, home in zip(values, to, strict=True):
        if home.buffer is None or low.buffers.get(value) is home.buffer:
            continue
        if any(leaf in held for leaf, _ in low.analysis.leaves(value)):
            aside = Value(value.type, "aside")
            buffer = low.new_buffer(value.type)
            copy_tile(low, value, buffer)
            low.buffers[aside] = buffer
            value = aside
        pending.append((value, home.buffer))
    for value, buffer in pending:
        copy_tile(low, value, buffer)
    for home, scalar in zip(to, scalars, strict=True):
        if scalar is not None:
            low.w.do(f"store {llvm_type(home.type.elem)} {scalar}, ptr {home.slot}")


def arrive(low: Lowering, values: Sequence[Value], at: list[Home]) -> None:
    """From here on, these values are what lies in their homes."""
    for value, home in zip(values, at, strict=True):
        if home.buffer is not None:
            low.buffers[value] = home.buffer
        else:
            low.scalars[value] = low.w.emit(f"load {llvm_type(home.type.elem)}, ptr {home.slot}")


def _yielded(end: Op | None) -> tuple[Value, ...]:
    return end.operands if end is not None else ()


def emit_for(low: Lowering, op: Op, slots: list[Slot]) -> None:
    """A counted loop. `slots` is the schedule of its body."""
    w, body = low.w, op.regions[0]
    first, bound, step = (low.scalar(value) for value in op.operands[:3])
    counter, args = body.args[0], body.args[1:]
    type_ = llvm_type(counter.type.elem)
    carried = homes(low, args)
    move(low, op.operands[3:], carried)
    at = w.alloca(type_, align=8)
    w.do(f"store {type_} {first}, ptr {at}")
    head, inside, end = w.fresh("head"), w.fresh("body"), w.fresh("end")
    w.jump(head)
    w.place(head)
    low.scalars[counter] = w.emit(f"load {type_}, ptr {at}")
    predicate = "ult" if op.attrs["unsigned"] else "slt"
    w.fork(w.emit(f"icmp {predicate} {type_} {low.scalars[counter]}, {bound}"), inside, end)
    w.place(inside)
    arrive(low, args, carried)
    compute_in_place(low, body, args, slots)
    move(low, _yielded(low.emit_slots(low, body, slots)), carried, args)
    w.do(f"store {type_} {w.emit(f'add {type_} {low.scalars[counter]}, {step}')}, ptr {at}")
    w.jump(head)
    w.place(end)
    arrive(low, op.results, carried)


def compute_in_place(low: Lowering, body: Block, args: Sequence[Value], slots: list[Slot]) -> None:
    """What a loop carries on is computed into its home, where nothing reads the old value afterwards."""
    end = body.terminator
    if end is None or end.name != "scf.yield":
        return
    # What is repeated in later slots is written in its first one, and reads until its last one is done.
    last = {op: number for number, slot in enumerate(slots) for op in slot.ops}
    first = {op: number for number, slot in reversed([*enumerate(slots)]) for op in slot.ops}
    order = {op: number for number, op in enumerate(body.ops)}
    for value, arg in zip(end.operands, args, strict=True):
        definition = low.analysis.definition.get(value)
        if not value.type.is_tile or definition not in first or end.operands.count(value) > 1:
            continue
        assert definition is not None
        at = first[definition]
        is_dot = definition.name == "tt.dot"
        if low.analysis.is_inline(value) or definition.name == "tt.reduce" or not (is_dot or slots[at].kind == "nest"):
            continue
        if not is_dot and slots[at].shape != value.type.shape:
            continue
        if all(
            _reads_before(low, user, viewed, definition, at, arg, body, end, last, order)
            for user, viewed in low.analysis.consumers(arg)
        ):
            low.buffers[value] = low.buffers[arg]


def _reads_before(
    low: Lowering,
    user: Op,
    viewed: bool,
    definition: Op,
    at: int,
    arg: Value,
    body: Block,
    end: Op,
    last: dict[Op, int],
    order: dict[Op, int],
) -> bool:
    """Whether a reader of the old value is done, element by element, before the new one is written over it, in the slot
    `at`."""
    while user is not end and low.analysis.block[user] is not body:
        parent = low.analysis.parent[low.analysis.block[user]]
        if parent is None:
            return False
        user, viewed = parent, True
    if user is end or user not in last:
        return False
    if last[user] != at:
        return last[user] < at
    if definition.name == "tt.dot":
        return user is definition and definition.operands[2] is arg and definition.operands.count(arg) == 1
    return not viewed and order[user] <= order[definition]


def emit_if(low: Lowering, op: Op) -> None:
    w = low.w
    results = homes(low, op.results)
    then, other, end = w.fresh("then"), w.fresh("else"), w.fresh("end")
    w.fork(low.scalar(op.operands[0]), then, other)
    for label, region in zip((then, other), op.regions, strict=True):
        w.place(label)
        move(low, _yielded(low.emit_block(low, region)) if region.ops else (), results)
        w.jump(end)
    w.place(end)
    arrive(low, op.results, results)


def emit_while(low: Lowering, op: Op) -> None:
    w = low.w
    before, after = op.regions
    carried = homes(low, before.args)
    move(low, op.operands, carried)
    results = homes(low, op.results)
    head, inside, end = w.fresh("head"), w.fresh("body"), w.fresh("end")
    w.jump(head)
    w.place(head)
    arrive(low, before.args, carried)
    condition = low.emit_block(low, before)
    assert condition is not None
    move(low, condition.operands[1:], results)
    w.fork(low.scalar(condition.operands[0]), inside, end)
    w.place(inside)
    arrive(low, after.args, results)
    move(low, _yielded(low.emit_block(low, after)), carried, before.args)
    w.jump(head)
    w.place(end)
    arrive(low, op.results, results)


def emit_jump(low: Lowering, op: Op, targets: dict[str, list[Home]]) -> None:
    """The end of a block of a function that returns early: a branch to other blocks."""
    w = low.w
    successors = op.attrs["successors"]
    given = list(op.operands)
    condition = low.scalar(given.pop(0)) if op.name == "cf.cond_br" else ""
    passed = {}
    for place, (label, count) in enumerate(successors):
        passed[place] = (label, [given.pop(0) for _ in range(count)])
    if not condition:
        label, values = passed[0]
        move(low, values, targets[label])
        w.jump(block_label(label))
        return
    ways = [w.fresh("way") for _ in passed]
    w.fork(condition, *ways)
    for way, (label, values) in zip(ways, passed.values(), strict=True):
        w.place(way)
        move(low, values, targets[label])
        w.jump(block_label(label))


def block_label(label: str) -> str:
    return f"%block_{label.lstrip('^')}"


def emit_call(low: Lowering, op: Op) -> None:
    """A helper that Triton was told not to inline. It takes and returns scalars."""
    w = low.w
    if any(v.type.is_tile for v in (*op.operands, *op.results)):
        raise Uncovered("a call that passes tiles", op.line)
    given = [f"{llvm_type(v.type.elem)} {low.scalar(v)}" for v in op.operands]
    name = low.callee(op.attrs["callee"])
    result = return_type(tuple(v.type for v in op.results))
    call = f"call {result} {name}({', '.join([*given, *PROGRAM_ARGUMENTS])})"
    if not op.results:
        w.do(call)
        return
    found = w.emit(call)
    for place, value in enumerate(op.results):
        low.scalars[value] = w.emit(f"extractvalue {result} {found}, {place}")


PROGRAM_ARGUMENTS = (
    "i32 %pid0", "i32 %pid1", "i32 %pid2", "i32 %programs0", "i32 %programs1", "i32 %programs2", "ptr %workspace",
    "ptr %guard",
)  # fmt: skip
"""What each function takes behind the kernel's own arguments."""


def return_type(types: tuple[Type, ...]) -> str:
    return f"{{{', '.join(llvm_type(t.elem) for t in types)}}}" if types else "void"


def emit_return(low: Lowering, op: Op) -> None:
    w = low.w
    if not op.operands:
        w.do("ret void")
        return
    type_ = return_type(tuple(v.type for v in op.operands))
    found = "poison"
    for place, value in enumerate(op.operands):
        found = w.emit(f"insertvalue {type_} {found}, {llvm_type(value.type.elem)} {low.scalar(value)}, {place}")
    w.do(f"ret {type_} {found}")
