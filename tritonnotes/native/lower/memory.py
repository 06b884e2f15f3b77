"""Loads, stores and atomic operations of tiles and scalars."""

from __future__ import annotations

from ..errors import Uncovered
from ..llvm.small_floats import narrow, widen
from ..llvm.strips import Kind, Lanes, Strip
from ..llvm.writer import literal, llvm_type, memory_type, numbers, splat
from ..ttir.ttir import BYTES, SMALL_FLOATS, Op
from .lowering import Lowering
from .values import evaluate

_RMW = {
    "add": "add", "fadd": "fadd", "and": "and", "or": "or", "xor": "xor", "max": "max", "min": "min", "umax": "umax",
    "umin": "umin", "exch": "xchg",
}  # fmt: skip


_ORDER = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}


def operands_over(low: Lowering, op: Op, strip: Strip) -> list[Lanes]:
    return [evaluate(low, operand, strip.index, strip) for operand in op.operands]


def scalar_operands(low: Lowering, op: Op) -> list[Lanes]:
    return [Lanes("uniform", low.scalar(v), v.type.elem, 0, v.type.pointee) for v in op.operands]


def load(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes:
    """What a load gives over a strip. Lanes that are masked off hold `other`, or 0 where there is none."""
    pointer, mask, other = (*xs, None, None)[:3]
    assert pointer is not None
    if low.checker:
        low.checker.before(low, op, pointer, mask, strip.width, False)
        if mask is not None and other is None:
            other = low.checker.other(low, op)
    if mask is None:
        kind: Kind = "uniform" if pointer.kind == "uniform" else "vector"
        if pointer.kind == "uniform" or pointer.is_contiguous:
            found = Lanes(kind, low.load_lanes(pointer, strip.width), pointer.pointee)
        else:
            found = _gather(low, pointer, splat("true", "i1", strip.width), None, strip)
    elif mask.kind == "uniform" and (pointer.kind == "uniform" or pointer.is_contiguous):
        found = _load_or_nothing(low, pointer, mask, other, strip)
    elif pointer.kind == "uniform":
        found = _load_if_any(low, pointer, mask, other, strip)
    elif pointer.is_contiguous:
        found = _load_masked(low, pointer, low.vector(mask, strip), other, strip)
    else:
        found = _gather(low, pointer, low.vector(mask, strip), other, strip)
    if pointer.pointee == "ptr":
        raise Uncovered("a load of pointers", op.line)
    return found


def _load_or_nothing(low: Lowering, pointer: Lanes, mask: Lanes, other: Lanes | None, strip: Strip) -> Lanes:
    """All lanes or none: loads zeros from elsewhere in place of what must not be touched."""
    w, width = low.w, strip.width if pointer.kind == "affine" else 0
    elem = pointer.pointee
    at = w.emit(f"select i1 {mask.reg}, ptr {pointer.reg}, ptr {low.zeros(elem, width)}")
    reg = low.load_lanes(Lanes(pointer.kind, at, "ptr", pointer.step, elem), width)
    found = Lanes("vector" if width else "uniform", reg, elem)
    if other is None or _is_zero(other):
        return found
    if not width and other.kind == "uniform":
        type_ = llvm_type(elem)
        return Lanes("uniform", w.emit(f"select i1 {mask.reg}, {type_} {reg}, {type_} {other.reg}"), elem)
    type_ = llvm_type(elem, strip.width)
    a, b = low.vector(found, strip), low.vector(other, strip)
    return Lanes("vector", w.emit(f"select i1 {mask.reg}, {type_} {a}, {type_} {b}"), elem)


def _load_if_any(low: Lowering, pointer: Lanes, mask: Lanes, other: Lanes | None, strip: Strip) -> Lanes:
    """One place for all lanes, of which some are masked off."""
    w, width, elem = low.w, strip.width, pointer.pointee
    truths = low.vector(mask, strip)
    at = w.emit(f"select i1 {w.any(truths, width)}, ptr {pointer.reg}, ptr {low.zeros(elem, 0)}")
    one = Lanes("uniform", low.load_lanes(Lanes("uniform", at, "ptr", 0, elem), 0), elem)
    type_ = llvm_type(elem, width)
    rest = low.vector(other, strip) if other is not None else splat(literal(0, elem), elem, width)
    return Lanes(
        "vector", w.emit(f"select <{width} x i1> {truths}, {type_} {low.vector(one, strip)}, {type_} {rest}"), elem
    )


def _is_zero(lanes: Lanes) -> bool:
    return lanes.kind == "uniform" and lanes.reg == literal(0, lanes.elem)


def _other(low: Lowering, elem: str, other: Lanes | None, strip: Strip) -> str:
    if other is None:
        return "zeroinitializer"
    return low.byte(low.vector(other, strip), elem, strip.width)


def _load_masked(low: Lowering, pointer: Lanes, truths: str, other: Lanes | None, strip: Strip) -> Lanes:
    w, width, elem = low.w, strip.width, pointer.pointee
    type_, rest, size = memory_type(elem, width), _other(low, elem, other, strip), BYTES[elem]
    name = f"@llvm.masked.load.v{width}{_mangled(elem)}.p0"
    if size >= 4:
        w.symbols.declare(name, type_, ["ptr", f"<{width} x i1>", type_])
        reg = w.emit(f"call {type_} {name}(ptr align {size} {pointer.reg}, <{width} x i1> {truths}, {type_} {rest})")
        return Lanes("vector", low.truth(reg, elem, width), elem)
    # Many processors have no masked load of small elements and take one lane after another, so whole strips go apart.
    whole, some, end = w.fresh("whole"), w.fresh("some"), w.fresh("end")
    w.fork(w.all(truths, width), whole, some)
    w.place(whole)
    all_ = w.emit(f"load {type_}, ptr {pointer.reg}, align {size}")
    w.jump(end)
    w.place(some)
    w.symbols.declare(name, type_, ["ptr", f"<{width} x i1>", type_])
    part = w.emit(f"call {type_} {name}(ptr align {size} {pointer.reg}, <{width} x i1> {truths}, {type_} {rest})")
    w.jump(end)
    w.place(end)
    reg = w.emit(f"phi {type_} [{all_}, {whole}], [{part}, {some}]")
    return Lanes("vector", low.truth(reg, elem, width), elem)


def _gather(low: Lowering, pointer: Lanes, truths: str, other: Lanes | None, strip: Strip) -> Lanes:
    """Lanes from anywhere. Neighbours are common, as behind `offset % n`, and loaded as such: that takes one look."""
    w, width, elem = low.w, strip.width, pointer.pointee
    if width == 1 or pointer.kind != "vector" or BYTES[elem] < 4:
        return _gather_lanes(low, pointer, truths, other, strip)
    size, wide = BYTES[elem], llvm_type("i64", width)
    addresses = w.emit(f"ptrtoint <{width} x ptr> {pointer.reg} to {wide}")
    first = w.extract(pointer.reg, "ptr", width, 0)
    begin = w.broadcast(w.extract(addresses, "i64", width, 0), "i64", width)
    neighbours = w.emit(f"add {wide} {begin}, {numbers((size * lane for lane in range(width)), 'i64')}")
    together, apart, end = w.fresh("together"), w.fresh("apart"), w.fresh("end")
    if other is not None:
        low.vector(other, strip)  # before the fork, so that both ways find it
    w.fork(w.all(w.emit(f"icmp eq {wide} {addresses}, {neighbours}"), width), together, apart)
    w.place(together)
    row = _load_masked(low, Lanes("affine", first, "ptr", 1, elem), truths, other, strip)
    last_together = w.label
    w.jump(end)
    w.place(apart)
    lanes = _gather_lanes(low, pointer, truths, other, strip)
    last_apart = w.label
    w.jump(end)
    w.place(end)
    type_ = llvm_type(elem, width)
    return Lanes("vector", w.emit(f"phi {type_} [{row.reg}, {last_together}], [{lanes.reg}, {last_apart}]"), elem)


def _gather_lanes(low: Lowering, pointer: Lanes, truths: str, other: Lanes | None, strip: Strip) -> Lanes:
    w, width, elem = low.w, strip.width, pointer.pointee
    type_, rest = memory_type(elem, width), _other(low, elem, other, strip)
    name = f"@llvm.masked.gather.v{width}{_mangled(elem)}.v{width}p0"
    w.symbols.declare(name, type_, [f"<{width} x ptr>", f"<{width} x i1>", type_])
    reg = w.emit(
        f"call {type_} {name}(<{width} x ptr> align {BYTES[elem]} {low.vector(pointer, strip)}, "
        f"<{width} x i1> {truths}, {type_} {rest})"
    )
    return Lanes("vector", low.truth(reg, elem, width), elem)


def _mangled(elem: str) -> str:
    return {"i1": "i8", "f16": "i16", "bf16": "i16", "ptr": "p0"}.get(elem, elem)


def store(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> None:
    """Stores the lanes of a strip that are not masked off."""
    w, width = low.w, strip.width
    pointer, value, mask = (*xs, None)[:3]
    assert pointer is not None and value is not None
    if low.checker:
        low.checker.before(low, op, pointer, mask, width, True)
        low.checker.stored(low, op, value, mask, width)
    if pointer.kind == "uniform" and value.kind == "uniform" and (mask is None or mask.kind == "uniform"):
        end = w.open_if(mask.reg) if mask is not None else ""
        low.store_lanes(pointer, value.reg, 0)
        if end:
            w.close_if(end)
        return
    reg = low.vector(value, strip)
    pointers = "" if pointer.is_contiguous else low.vector(pointer, strip)
    if mask is not None and mask.kind == "uniform":
        end = w.open_if(mask.reg)
        _store_all(low, pointer, pointers, reg, width)
        w.close_if(end)
    elif mask is None:
        _store_all(low, pointer, pointers, reg, width)
    else:
        _store_some(low, pointer, pointers, reg, low.vector(mask, strip), width)


def _store_all(low: Lowering, pointer: Lanes, pointers: str, reg: str, width: int) -> None:
    if pointers:
        pointer = Lanes("vector", pointers, "ptr", 0, pointer.pointee)
    low.store_lanes(pointer, reg, width)


def _store_some(low: Lowering, pointer: Lanes, pointers: str, reg: str, truths: str, width: int) -> None:
    """Whole strips apart from ragged ones: masked stores are slow on many processors."""
    w, elem = low.w, pointer.pointee
    size, type_ = BYTES[elem], memory_type(elem, width)
    whole, some, end = w.fresh("whole"), w.fresh("some"), w.fresh("end")
    w.fork(w.all(truths, width), whole, some)
    w.place(whole)
    _store_all(low, pointer, pointers, reg, width)
    w.jump(end)
    w.place(some)
    bytes_ = low.byte(reg, elem, width)
    if pointers:
        name = f"@llvm.masked.scatter.v{width}{_mangled(elem)}.v{width}p0"
        w.symbols.declare(name, "void", [type_, f"<{width} x ptr>", f"<{width} x i1>"])
        w.do(f"call void {name}({type_} {bytes_}, <{width} x ptr> align {size} {pointers}, <{width} x i1> {truths})")
    else:
        name = f"@llvm.masked.store.v{width}{_mangled(elem)}.p0"
        w.symbols.declare(name, "void", [type_, "ptr", f"<{width} x i1>"])
        w.do(f"call void {name}({type_} {bytes_}, ptr align {size} {pointer.reg}, <{width} x i1> {truths})")
    w.jump(end)
    w.place(end)


def load_scalar(low: Lowering, op: Op) -> None:
    strip = Strip((), 1)
    low.scalars[op.result] = load(low, op, scalar_operands(low, op), strip).reg


def store_scalar(low: Lowering, op: Op) -> None:
    store(low, op, scalar_operands(low, op), Strip((), 1))


def atomic(low: Lowering, op: Op, strip: Strip) -> Lanes:
    """An atomic operation lane by lane, in their order. Lanes that are masked off give 0."""
    w, width, elem = low.w, strip.width, op.result.type.elem
    xs = operands_over(low, op, strip)
    mask = _mask_of(op, xs)
    if low.checker:
        low.checker.before(low, op, xs[0], mask, width, True)
    regs = [low.vector(x, strip) for x in xs]
    type_ = llvm_type(elem)
    old = w.alloca(llvm_type(elem, width))
    w.do(f"store {llvm_type(elem, width)} zeroinitializer, ptr {old}")
    for lane in range(width):
        lanes = [w.extract(reg, x.elem, width, lane) for reg, x in zip(regs, xs, strict=True)]
        end = w.open_if(lanes[-1]) if mask is not None else ""
        one = _one_atomic(low, op, lanes)
        w.do(f"store {type_} {one}, ptr {w.emit(f'getelementptr {type_}, ptr {old}, i64 {lane}')}")
        if end:
            w.close_if(end)
    return Lanes("vector", w.emit(f"load {llvm_type(elem, width)}, ptr {old}"), elem)


def atomic_scalar(low: Lowering, op: Op) -> None:
    w, elem = low.w, op.result.type.elem
    xs = scalar_operands(low, op)
    mask = _mask_of(op, xs)
    if low.checker:
        low.checker.before(low, op, xs[0], mask, 1, True)
    old = w.alloca(llvm_type(elem), align=8)
    w.do(f"store {llvm_type(elem)} {literal(0, elem)}, ptr {old}")
    end = w.open_if(mask.reg) if mask is not None else ""
    w.do(f"store {llvm_type(elem)} {_one_atomic(low, op, [x.reg for x in xs])}, ptr {old}")
    if end:
        w.close_if(end)
    low.scalars[op.result] = w.emit(f"load {llvm_type(elem)}, ptr {old}")


def _mask_of(op: Op, xs: list[Lanes]) -> Lanes | None:
    return xs[2] if op.name == "tt.atomic_rmw" and len(xs) > 2 else None


def _one_atomic(low: Lowering, op: Op, regs: list[str]) -> str:
    w, elem = low.w, op.result.type.elem
    if elem == "i1" or elem == "ptr":
        raise Uncovered(f"{op.name} of {elem}", op.line)
    if op.name == "tt.atomic_cas":
        return _compare_and_swap(low, op, elem, regs[0], regs[1], regs[2], op.words[0])
    kind, order = op.words[0], op.words[1]
    if kind not in _RMW or order not in _ORDER:
        raise Uncovered(f"{op.name} {kind} {order}", op.line)
    if elem in SMALL_FLOATS and kind == "fadd":
        return _add_small_float(low, op, elem, regs[0], regs[1], order)
    return w.emit(f"atomicrmw {_RMW[kind]} ptr {regs[0]}, {llvm_type(elem)} {regs[1]} {_ORDER[order]}")


def _compare_and_swap(low: Lowering, op: Op, elem: str, pointer: str, old: str, new: str, order: str) -> str:
    w, bits = low.w, f"i{8 * BYTES[elem]}"
    failure = {"release": "monotonic", "acq_rel": "acquire"}.get(order, _ORDER[order])
    if elem in ("f32", "f64"):
        old, new = (w.emit(f"bitcast {llvm_type(elem)} {x} to {bits}") for x in (old, new))
    pair = w.emit(f"cmpxchg ptr {pointer}, {bits} {old}, {bits} {new} {_ORDER[order]} {failure}")
    found = w.emit(f"extractvalue {{{bits}, i1}} {pair}, 0")
    return w.emit(f"bitcast {bits} {found} to {llvm_type(elem)}") if elem in ("f32", "f64") else found


def _add_small_float(low: Lowering, op: Op, elem: str, pointer: str, added: str, order: str) -> str:
    """A loop around compare-and-swap, as no instruction adds 16-bit floats in memory."""
    w = low.w
    before, head, end = w.label, w.fresh("again"), w.fresh("end")
    first = w.emit(f"load i16, ptr {pointer}, align 2")
    w.jump(head)
    w.place(head)
    phi, at = w.fresh("old"), len(w.lines)
    w.lines.append("")
    total = w.emit(f"fadd float {widen(w, elem, phi, 0)}, {widen(w, elem, added, 0)}")
    pair = w.emit(f"cmpxchg ptr {pointer}, i16 {phi}, i16 {narrow(w, elem, total, 0)} {_ORDER[order]} monotonic")
    found = w.emit(f"extractvalue {{i16, i1}} {pair}, 0")
    w.lines[at] = f"  {phi} = phi i16 [{first}, {before}], [{found}, {head}]"
    w.fork(w.emit(f"extractvalue {{i16, i1}} {pair}, 1"), end, head)
    w.place(end)
    return phi
