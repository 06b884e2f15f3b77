"""Products of tiles, in blocks of registers. Each element of a product is one sum along k, in the order of k, whatever
the blocks: its bits do not depend on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import Uncovered
from ..llvm.buffers import Buffer, padding
from ..llvm.elementwise import convert
from ..llvm.strips import WIDTH, Lanes
from ..llvm.writer import Loop, llvm_type, memory_type
from ..ttir.ttir import SMALL_FLOATS, Op, Type, Value
from .lowering import Lowering
from .nests import copy_tile


@dataclass(frozen=True)
class _Operand:
    """A matrix in memory, or several one after another. Strides in elements: of the batch, of rows, of columns."""

    buffer: Buffer
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Plan:
    """Sizes of a product and of its block of registers."""

    m: int
    n: int
    k: int
    rows: int
    vectors: int
    width: int


def emit_dot(low: Lowering, op: Op) -> None:
    a, b, c = op.operands
    w, elem, result = low.w, op.result.type.elem, op.result
    *batch, m, k = a.type.dims
    n = b.type.dims[-1]
    elem = "f32" if elem in SMALL_FLOATS else elem
    if elem not in ("f32", "f64", "i32"):
        raise Uncovered(f"a product of {elem}", op.line)
    width = min(WIDTH, n)
    rows, vectors = (8, 2) if low.options.wide_registers else (4, 1)
    plan = _Plan(m, n, k, min(rows, m), min(vectors, n // width), width)
    start = _accumulator(low, c, elem)
    if result not in low.buffers:
        low.buffers[result] = low.new_buffer(result.type)
    target = low.buffers[result] if result.type.elem == elem else low.new_buffer(Type(elem, result.type.shape))
    left, right = _operand(low, a, elem, False), _operand(low, b, elem, True)
    loop = w.open_loop(batch[0]) if batch and batch[0] > 1 else None
    number = loop.counter if loop else "0"
    _product(low, plan, elem, number, left, right, start, target)
    if loop:
        w.close_loop(loop)
    if target is not low.buffers[result]:
        _converted(low, target, low.buffers[result])


def _accumulator(low: Lowering, value: Value, elem: str) -> Buffer | None:
    """What the sums begin with; None for zeros."""
    if low.analysis.constant(value) == 0:
        return None
    if (
        value in low.buffers
        and value.type.elem == elem
        and low.buffers[value].minor is None
        and not low.buffers[value].pad
    ):
        return low.buffers[value]
    buffer = low.new_buffer(value.type)
    copy_tile(low, value, buffer)
    if value.type.elem == elem:
        return buffer
    wide = low.new_buffer(Type(elem, value.type.shape))
    _converted(low, buffer, wide)
    return wide


def _in_memory(low: Lowering, value: Value) -> _Operand | None:
    """A tile that lies in a buffer, also seen through transpositions."""
    if value in low.buffers:
        return _Operand(low.buffers[value], low.buffers[value].strides)
    op = low.analysis.definition.get(value)
    if op is not None and op.name == "tt.trans":
        found = _in_memory(low, op.operands[0])
        if found is not None:
            return _Operand(found.buffer, tuple(found.strides[dim] for dim in op.order))
    return None


def _operand(low: Lowering, value: Value, elem: str, is_right: bool) -> _Operand:
    """An operand in memory, in the type that is computed in. The rows of the right one are contiguous."""
    found = _in_memory(low, value)
    if found is None:
        buffer = low.new_buffer(value.type, pad=padding(value.type.dims[-1]))
        copy_tile(low, value, buffer)
        found = _Operand(buffer, buffer.strides)
    if found.buffer.elem != elem:
        source = found.buffer
        wide = low.new_buffer(Type(elem, source.shape), source.minor, source.pad)
        _converted(low, source, wide)
        found = _Operand(wide, found.strides)
    if not is_right or found.strides[-1] == 1 or value.type.dims[-1] == 1:
        return found
    return _transposed(low, found, value.type.dims, elem)


def _converted(low: Lowering, source: Buffer, target: Buffer) -> None:
    """One buffer into another of the same layout and another type, element after element as they lie."""
    w, count = low.w, source.elements
    width = math.gcd(count, WIDTH)
    loop = w.open_loop(count, width)
    places = []
    for buffer in (source, target):
        at = w.emit(f"getelementptr inbounds {memory_type(buffer.elem)}, ptr {buffer.reg}, i64 {loop.counter}")
        places.append(Lanes("affine", at, "ptr", 1, buffer.elem))
    kind = "float" if target.elem[0] in "fb" else "sext"
    found = convert(w, kind, source.elem, target.elem, low.load_lanes(places[0], width), width)
    low.store_lanes(places[1], found, width)
    w.close_loop(loop)


def _transposed(low: Lowering, source: _Operand, shape: tuple[int, ...], elem: str) -> _Operand:
    """The same elements with rows contiguous, in blocks of 8 by 8 that are turned in registers."""
    w = low.w
    target = low.new_buffer(Type(elem, shape), pad=padding(shape[-1]))
    *batch, rows, cols = shape
    loops: list[Loop] = []

    def counter(count: int, step: int) -> str:
        if count == step:
            return "0"
        loops.append(w.open_loop(count, step))
        return loops[-1].counter

    number = counter(batch[0], 1) if batch else "0"
    block = 8 if min(rows, cols) >= 8 and source.strides[-2] == 1 else 1
    col, row = counter(cols, block), counter(rows, block)
    kept = [
        w.emit(f"load {llvm_type(elem, block)}, ptr {_at(low, source, elem, (number, row, col), (0, lane))}, align 4")
        for lane in range(block)
    ]
    turned = _turned(low, kept, elem) if block == 8 else kept
    into = _Operand(target, target.strides)
    for lane, reg in enumerate(turned):
        w.do(
            f"store {llvm_type(elem, block)} {reg}, ptr {_at(low, into, elem, (number, row, col), (lane, 0))}, align 4"
        )
    for loop in reversed(loops):
        w.close_loop(loop)
    return into


def _at(low: Lowering, operand: _Operand, elem: str, index: tuple[str, str, str], more: tuple[int, int]) -> str:
    """The address of an element (batch, row + more[0], column + more[1])."""
    w, strides = low.w, operand.strides
    fixed = more[0] * strides[-2] + more[1] * strides[-1]
    offset = str(fixed)
    for reg, stride in zip(index[-len(strides) :], strides, strict=True):
        if reg != "0":
            term = reg if stride == 1 else w.emit(f"mul i64 {reg}, {stride}")
            offset = term if offset == "0" else w.emit(f"add i64 {offset}, {term}")
    if offset == "0":
        return operand.buffer.reg
    return w.emit(f"getelementptr inbounds {memory_type(elem)}, ptr {operand.buffer.reg}, i64 {offset}")


def _turned(low: Lowering, rows: list[str], elem: str) -> list[str]:
    """Eight vectors of eight, transposed: pairs, then pairs of pairs, then halves."""
    type_ = llvm_type(elem, 8)

    def mix(a: str, b: str, lanes: tuple[int, ...]) -> str:
        chosen = ", ".join(f"i32 {lane}" for lane in lanes)
        return low.w.emit(f"shufflevector {type_} {a}, {type_} {b}, <8 x i32> <{chosen}>")

    ones = []
    for i in range(0, 8, 2):
        ones.append(mix(rows[i], rows[i + 1], (0, 8, 1, 9, 4, 12, 5, 13)))
        ones.append(mix(rows[i], rows[i + 1], (2, 10, 3, 11, 6, 14, 7, 15)))
    twos = []
    for i in (0, 1, 4, 5):
        twos.append(mix(ones[i], ones[i + 2], (0, 1, 8, 9, 4, 5, 12, 13)))
        twos.append(mix(ones[i], ones[i + 2], (2, 3, 10, 11, 6, 7, 14, 15)))
    low_halves = [mix(twos[i], twos[i + 4], (0, 1, 2, 3, 8, 9, 10, 11)) for i in range(4)]
    return low_halves + [mix(twos[i], twos[i + 4], (4, 5, 6, 7, 12, 13, 14, 15)) for i in range(4)]


def _product(
    low: Lowering,
    plan: _Plan,
    elem: str,
    number: str,
    left: _Operand,
    right: _Operand,
    start: Buffer | None,
    target: Buffer,
) -> None:
    """All blocks of registers of one product. What it starts with is added at the end: Triton makes a sum that follows
    the start of a product that nothing else reads, and that must not change a bit."""
    w = low.w
    add = "fadd" if elem in ("f32", "f64") else "add"
    block = plan.vectors * plan.width
    across = w.open_loop(plan.n, block) if plan.n > block else None
    down = w.open_loop(plan.m, plan.rows) if plan.m > plan.rows else None
    row, col = (loop.counter if loop else "0" for loop in (down, across))
    type_ = llvm_type(elem, plan.width)
    into = _Operand(target, target.strides)
    cells = [(r, v * plan.width) for r in range(plan.rows) for v in range(plan.vectors)]
    head, before = w.fresh("loop"), w.label
    w.jump(head)
    w.place(head)
    k, at = w.fresh("k"), len(w.lines)
    totals = [w.fresh("sum") for _ in cells]
    w.lines += [""] * (1 + len(cells))
    columns = [_at(low, right, elem, (number, k, col), (0, v * plan.width)) for v in range(plan.vectors)]
    ys = [w.emit(f"load {type_}, ptr {column}, align 4") for column in columns]
    news = []
    for r in range(plan.rows):
        one = w.emit(f"load {llvm_type(elem)}, ptr {_at(low, left, elem, (number, row, k), (r, 0))}, align 4")
        x = w.broadcast(one, elem, plan.width)
        for v in range(plan.vectors):
            news.append(_multiply_add(low, elem, plan.width, x, ys[v], totals[r * plan.vectors + v]))
    following = w.emit(f"add nuw nsw i64 {k}, 1")
    w.lines[at] = f"  {k} = phi i64 [0, {before}], [{following}, {head}]"
    for i, (total, new) in enumerate(zip(totals, news, strict=True)):
        w.lines[at + 1 + i] = f"  {total} = phi {type_} [zeroinitializer, {before}], [{new}, {head}]"
    end = w.fresh("end")
    w.fork(w.emit(f"icmp ult i64 {following}, {plan.k}"), head, end)
    w.place(end)
    for cell, new in zip(cells, news, strict=True):
        whole = new
        if start is not None:
            begin = _at(low, _Operand(start, start.strides), elem, (number, row, col), cell)
            whole = w.emit(f"{add} {type_} {w.emit(f'load {type_}, ptr {begin}, align 4')}, {new}")
        w.do(f"store {type_} {whole}, ptr {_at(low, into, elem, (number, row, col), cell)}, align 4")
    for loop in (down, across):
        if loop:
            w.close_loop(loop)


def _multiply_add(low: Lowering, elem: str, width: int, x: str, y: str, total: str) -> str:
    if elem in ("f32", "f64"):
        return low.w.intrinsic("fma", elem, width, [x, y, total])
    type_ = llvm_type(elem, width)
    return low.w.emit(f"add {type_} {total}, {low.w.emit(f'mul {type_} {x}, {y}')}")
