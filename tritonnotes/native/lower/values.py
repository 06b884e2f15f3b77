"""What a tile's value is in the lanes of a strip: uniform, affine or vector, as much as is known.

Offsets, masks and views are computed here at each use, from the index of the strip. An access through an affine
pointer of step 1 becomes a vector access, one through a uniform pointer a scalar one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..llvm.elementwise import compute
from ..llvm.strips import At, Index, Lanes, Strip, index_vector
from ..llvm.writer import literal, llvm_type, memory_type, numbers, splat
from ..schedule.analysis import DIVISIONS, REMAINDERS, VIEWS
from ..ttir.ttir import BYTES, Op, Value
from .lowering import Lowering
from .views import source_index


def evaluate(low: Lowering, value: Value, index: Index, strip: Strip) -> Lanes:
    """A value at an index, over the lanes of a strip."""
    if not value.type.is_tile:
        return Lanes("uniform", low.scalar(value), value.type.elem, 0, value.type.pointee)
    if value in strip.computed and index == strip.index:
        return strip.computed[value]
    key = (value, index)
    found = strip.memo.get(key)
    if found is None:
        if low.analysis.is_inline(value):
            op = low.analysis.definition[value]
            before = low.locate(op)
            found = _RULES.get(op.name, _elementwise)(low, op, value, index, strip)
            low.w.location = before
        else:
            found = low.read(low.buffers[value], index, strip.width)
        strip.memo[key] = found
    return found


def evaluate_all(low: Lowering, op: Op, strip: Strip) -> list[Lanes]:
    return [evaluate(low, operand, strip.index, strip) for operand in op.operands]


def apply(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes:
    """An elementwise operation over lanes: once where all are uniform, else over vectors."""
    type_ = op.result.type
    if all(x.kind == "uniform" for x in xs):
        return Lanes("uniform", compute(low.w, op, [x.reg for x in xs], 0), type_.elem, 0, type_.pointee)
    regs = [low.vector(x, strip) for x in xs]
    return Lanes("vector", compute(low.w, op, regs, strip.width), type_.elem, 0, type_.pointee)


def _constant(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    return Lanes("uniform", literal(op.attrs.get("value", 0), value.type.elem), value.type.elem)


def _range(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    w, start = low.w, op.integer("start")
    at = index[0]
    if at.kind == "vector":
        reg = w.emit(f"trunc <{strip.width} x i64> {at.reg} to <{strip.width} x i32>")
        return Lanes(
            "vector", w.emit(f"add <{strip.width} x i32> {reg}, {splat(str(start), 'i32', strip.width)}"), "i32"
        )
    reg = "0" if at.reg == "0" else w.emit(f"trunc i64 {at.reg} to i32")
    if start:
        reg = str(start) if reg == "0" else w.emit(f"add i32 {reg}, {start}")
    return Lanes(at.kind, reg, "i32", int(at.kind == "affine"))


def _view(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    return evaluate(low, op.operands[0], source_index(low.w, op, index, strip.width), strip)


def _split(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    return evaluate(low, op.operands[0], (*index, At("uniform", str(op.results.index(value)))), strip)


def _pick(low: Lowering, op: Op, value: Value, second: At, a: Lanes, b: Lanes, strip: Strip) -> Lanes:
    """`b` where the index is not 0, else `a`."""
    w, elem = low.w, value.type.elem
    if second.kind == "uniform" and a.kind == b.kind == "uniform":
        truth = w.emit(f"icmp ne i64 {second.reg}, 0")
        type_ = llvm_type(elem)
        return Lanes(
            "uniform", w.emit(f"select i1 {truth}, {type_} {b.reg}, {type_} {a.reg}"), elem, 0, value.type.pointee
        )
    width = strip.width
    truths = w.emit(f"icmp ne <{width} x i64> {index_vector(w, second, width)}, {splat('0', 'i64', width)}")
    type_ = llvm_type(elem, width)
    x, y = low.vector(a, strip), low.vector(b, strip)
    return Lanes(
        "vector", w.emit(f"select <{width} x i1> {truths}, {type_} {y}, {type_} {x}"), elem, 0, value.type.pointee
    )


def _join(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    a, b = (evaluate(low, operand, index[:-1], strip) for operand in op.operands)
    return _pick(low, op, value, index[-1], a, b, strip)


def _cat(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    w, at, size = low.w, index[0], op.operands[0].type.dims[0]
    if at.kind == "affine" and size < strip.width:
        at = At("vector", index_vector(w, at, strip.width))
    scalar = at.kind != "vector"
    width = 0 if scalar else strip.width
    type_ = llvm_type("i64", width)
    inner = At(at.kind, w.emit(f"and {type_} {at.reg}, {splat(str(size - 1), 'i64', width)}"))
    beyond = w.emit(f"lshr {type_} {at.reg}, {splat(str(size.bit_length() - 1), 'i64', width)}")
    a, b = (evaluate(low, operand, (inner,), strip) for operand in op.operands)
    return _pick(low, op, value, At("uniform" if scalar else "vector", beyond), a, b, strip)


def _address(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    w, pointee, width = low.w, value.type.pointee, strip.width
    base, offset = (evaluate(low, operand, index, strip) for operand in op.operands)
    if base.kind != "vector" and offset.kind != "vector":
        reg = offset_pointer(low, base.reg, offset.reg, offset.elem, pointee)
        step = base.step + offset.step
        return Lanes("affine" if step else "uniform", reg, "ptr", step, pointee)
    offsets = low.vector(offset, strip)
    reg = w.emit(
        f"getelementptr {memory_type(pointee)}, <{width} x ptr> {low.vector(base, strip)}, "
        f"{llvm_type(offset.elem, width)} {offsets}"
    )
    return Lanes("vector", reg, "ptr", 0, pointee)


def offset_pointer(low: Lowering, base: str, offset: str, elem: str, pointee: str) -> str:
    """The address so many elements behind another one."""
    if offset == "0":
        return base
    if elem != "i64" and offset.startswith("%"):
        offset = low.w.emit(f"sext {llvm_type(elem)} {offset} to i64")
    return low.w.emit(f"getelementptr {memory_type(pointee)}, ptr {base}, i64 {offset}")


def _elementwise(low: Lowering, op: Op, value: Value, index: Index, strip: Strip) -> Lanes:
    xs = [evaluate(low, operand, index, strip) for operand in op.operands]
    if all(x.kind != "vector" for x in xs) and any(x.kind == "affine" for x in xs):
        if op.name in DIVISIONS and xs[0].kind == "affine":
            along = [d for d, at in enumerate(index) if at.kind == "affine"]
            if len(along) == 1 and low.analysis.stays_within(op, along[0], xs[0].step):
                return _grown(low, op, xs, xs[0].step if op.name in REMAINDERS else 0)
        rule = _AFFINE.get(op.name)
        found = rule(low, op, xs, strip) if rule else None
        if found is not None:
            return found
    return apply(low, op, xs, strip)


def _grown(low: Lowering, op: Op, xs: list[Lanes], step: int) -> Lanes:
    """The result of an operation on lane 0, which grows by `step` from there."""
    type_ = op.result.type
    reg = compute(low.w, op, [x.reg for x in xs], 0)
    return Lanes("affine" if step else "uniform", reg, type_.elem, step, type_.pointee)


def _add(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes | None:
    return _grown(low, op, xs, xs[0].step + xs[1].step)


def _subtract(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes | None:
    return _grown(low, op, xs, xs[0].step - xs[1].step)


def _multiply(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes | None:
    for a, b in ((xs[0], xs[1]), (xs[1], xs[0])):
        if b.kind == "uniform" and b.reg.lstrip("-").isdigit():
            return _grown(low, op, xs, a.step * int(b.reg))
    return None


def _resize(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes | None:
    # 32-bit offsets do not wrap within a strip: that is a condition of native code.
    wide = min(BYTES[xs[0].elem], BYTES[op.result.type.elem]) >= 4
    return _grown(low, op, xs, xs[0].step) if wide else None


_BOUNDS = frozenset({"slt", "sle", "sge", "sgt", "eq", "ne"})


def _compare(low: Lowering, op: Op, xs: list[Lanes], strip: Strip) -> Lanes | None:
    """lane ? bound − lane 0, in one narrow comparison whatever the type of the offsets."""
    w, width, predicate = low.w, strip.width, op.words[0]
    if xs[0].step != 1 or xs[1].kind != "uniform" or predicate not in _BOUNDS or xs[0].elem not in ("i32", "i64"):
        return None
    type_ = llvm_type(xs[0].elem)
    first, bound = xs[0].reg, xs[1].reg
    if xs[0].elem == "i32":
        first, bound = (x if not x.startswith("%") else w.emit(f"sext {type_} {x} to i64") for x in (first, bound))
        left = w.emit(f"sub nsw i64 {bound}, {first}")
    else:
        left = w.intrinsic("ssub.sat", "i64", 0, [bound, first])
    left = w.intrinsic("smax", "i64", 0, [w.intrinsic("smin", "i64", 0, [left, str(width)]), "-1"])
    left = w.emit(f"trunc i64 {left} to i32")
    bounds = w.broadcast(left, "i32", width)
    return Lanes("vector", w.emit(f"icmp {predicate} <{width} x i32> {numbers(range(width), 'i32')}, {bounds}"), "i1")


_AFFINE: dict[str, Callable[[Lowering, Op, list[Lanes], Strip], Lanes | None]] = {
    "arith.addi": _add, "arith.subi": _subtract, "arith.muli": _multiply, "arith.cmpi": _compare,
    **dict.fromkeys(("arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast"), _resize),
}  # fmt: skip
"""Operations that keep an affine value affine, or know more about one."""


_RULES: dict[str, Callable[[Lowering, Op, Value, Index, Strip], Lanes]] = {
    "arith.constant": _constant, "ub.poison": _constant, "tt.make_range": _range, "tt.addptr": _address,
    "tt.split": _split, "tt.join": _join, "tt.cat": _cat,
    **dict.fromkeys(VIEWS - {"tt.split", "tt.join", "tt.cat"}, _view),
}  # fmt: skip
