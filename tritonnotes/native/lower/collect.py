"""Scans, histograms and gathers of tiles."""

from __future__ import annotations

from ..llvm.elementwise import convert
from ..llvm.strips import ZERO, At, Lanes, Strip
from ..llvm.writer import llvm_type, memory_type, splat
from ..ttir.ttir import Op
from .combine import combine
from .lowering import Lowering
from .reduce import fill
from .values import evaluate


def emit_scan(low: Lowering, op: Op) -> None:
    """A scan, element after element along its axis."""
    w, axis, shape = low.w, op.integer("axis"), op.operands[0].type.dims
    for result in op.results:
        if result not in low.buffers:
            low.buffers[result] = low.new_buffer(result.type)
    running = [w.alloca(memory_type(operand.type.elem), align=8) for operand in op.operands]
    loops, index = [], [ZERO] * len(shape)
    for d, size in enumerate(shape):
        if d != axis and size > 1:
            loops.append(w.open_loop(size))
            index[d] = At("uniform", loops[-1].counter)
    loop = w.open_loop(shape[axis])
    at = w.emit(f"sub i64 {shape[axis] - 1}, {loop.counter}") if op.attrs["reverse"] else loop.counter
    index[axis] = At("uniform", at)
    strip = Strip(tuple(index), 1)
    xs = [evaluate(low, operand, strip.index, strip) for operand in op.operands]
    regs = [x.reg if x.kind == "uniform" else w.extract(x.reg, x.elem, 1, 0) for x in xs]
    places = [Lanes("uniform", place, "ptr", 0, x.elem) for place, x in zip(running, xs, strict=True)]
    olds = [low.load_lanes(place, 0) for place in places]
    first = w.emit(f"icmp eq i64 {loop.counter}, 0")
    news = combine(low, op, olds, regs, 0)
    for result, place, x, reg, new in zip(op.results, places, xs, regs, news, strict=True):
        type_ = llvm_type(x.elem)
        kept = w.emit(f"select i1 {first}, {type_} {reg}, {type_} {new}")
        low.store_lanes(place, kept, 0)
        low.write(low.buffers[result], strip.index, Lanes("uniform", kept, x.elem), strip)
    for opened in (loop, *reversed(loops)):
        w.close_loop(opened)


def emit_histogram(low: Lowering, op: Op) -> None:
    """How often each bin occurs. What is beyond the bins, or masked off, is not counted."""
    w, source, result = low.w, op.operands[0], op.result
    if result not in low.buffers:
        low.buffers[result] = low.new_buffer(result.type)
    fill(low, low.buffers[result], "0")
    loop = w.open_loop(source.type.size)
    strip = Strip((At("uniform", loop.counter),), 1)
    found = evaluate(low, source, strip.index, strip)
    bin_ = w.emit(f"zext {llvm_type(found.elem)} {found.reg} to i64") if found.elem != "i64" else found.reg
    counts = w.emit(f"icmp ult i64 {bin_}, {result.type.size}")
    if len(op.operands) > 1:
        mask = evaluate(low, op.operands[1], strip.index, strip)
        counts = w.emit(f"and i1 {counts}, {mask.reg}")
    end = w.open_if(counts)
    pointer = low.pointer_into(low.buffers[result], (At("uniform", bin_),), 1)
    type_ = llvm_type(result.type.elem)
    low.store_lanes(pointer, w.emit(f"add {type_} {low.load_lanes(pointer, 0)}, 1"), 0)
    w.close_if(end)
    w.close_loop(loop)


def gather_from(low: Lowering, op: Op, strip: Strip) -> Lanes:
    """Elements of a tile at the indices in another one. Indices wrap within the tile rather than leave it."""
    w, axis, width = low.w, op.integer("axis"), strip.width
    source, chosen = op.operands
    at = evaluate(low, chosen, strip.index, strip)
    reg = convert(w, "sext", at.elem, "i64", low.vector(at, strip), width)
    bound = splat(str(source.type.dims[axis] - 1), "i64", width)
    index = list(strip.index)
    index[axis] = At("vector", w.emit(f"and <{width} x i64> {reg}, {bound}"))
    found = evaluate(low, source, tuple(index), strip)
    return Lanes("vector", low.vector(found, strip), op.result.type.elem)
