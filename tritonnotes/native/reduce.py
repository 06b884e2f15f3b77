"""Reductions of tiles, scans, histograms and gathers.

A reduction along the strip keeps up to four vectors of partial sums, which are added in pairs, then halves onto halves:
one fixed order, whatever the rest of the kernel. One across strips adds row after row into its buffer.
"""

from __future__ import annotations

from .combine import combine, identity
from .elementwise import convert
from .lowering import Lowering
from .strips import WIDTH, ZERO, At, Index, Lanes, Strip
from .ttir import Op, Value
from .values import evaluate
from .writer import llvm_type, memory_type, splat


class Reduction:
    """One reduction within a nest whose strips lie along `dim`."""

    def __init__(self, low: Lowering, op: Op, dim: int, width: int, chains: int) -> None:
        self.low, self.op, self.width, self.chains = low, op, width, chains
        self.axis = op.integer("axis")
        self.is_along = self.axis == dim
        self.identity = identity(op)
        self.elems = [operand.type.elem for operand in op.operands]
        self.partial: list[str] = []
        for result in op.results:
            if (result.type.is_tile or not self.is_along) and result not in low.buffers:
                low.buffers[result] = low.new_buffer(result.type)

    def begin(self) -> None:
        low = self.low
        if self.is_along:
            self.partial = [low.w.alloca(memory_type(elem, self.width), self.chains) for elem in self.elems]
        elif self.identity is not None:
            fill(low, self.op.result, self.identity)

    def begin_row(self) -> None:
        if self.identity is None:
            return
        w, elem = self.low.w, self.elems[0]
        start = self.low.byte(splat(self.identity, elem, self.width), elem, self.width)
        for chain in range(self.chains):
            w.do(f"store {memory_type(elem, self.width)} {start}, ptr {self._place(0, str(chain))}")

    def _place(self, operand: int, chain: str) -> str:
        if chain == "0":
            return self.partial[operand]
        type_ = memory_type(self.elems[operand], self.width)
        return self.low.w.emit(f"getelementptr inbounds {type_}, ptr {self.partial[operand]}, i64 {chain}")

    def _load(self, operand: int, chain: str) -> str:
        elem = self.elems[operand]
        found = self.low.w.emit(f"load {memory_type(elem, self.width)}, ptr {self._place(operand, chain)}")
        return self.low.truth(found, elem, self.width)

    def add(self, xs: list[Lanes], strip: Strip, chain: str) -> None:
        regs = [self.low.vector(x, strip) for x in xs]
        if self.is_along:
            self._add_along(regs, strip.index[self.axis], chain)
        else:
            self._add_across(regs, strip)

    def _add_along(self, regs: list[str], at: At, chain: str) -> None:
        w, width = self.low.w, self.width
        olds = [self._load(operand, chain) for operand in range(len(regs))]
        news = combine(self.low, self.op, olds, regs, width)
        if self.identity is None:
            first = w.emit(f"icmp ult i64 {at.reg}, {self.chains * width}")
            news = [
                w.emit(f"select i1 {first}, {llvm_type(elem, width)} {x}, {llvm_type(elem, width)} {new}")
                for elem, x, new in zip(self.elems, regs, news, strict=True)
            ]
        for operand, (elem, new) in enumerate(zip(self.elems, news, strict=True)):
            kept = self.low.byte(new, elem, width)
            w.do(f"store {memory_type(elem, width)} {kept}, ptr {self._place(operand, chain)}")

    def _add_across(self, regs: list[str], strip: Strip) -> None:
        low, w, width = self.low, self.low.w, strip.width
        place = self._result_index(strip.index)
        olds = [low.vector(low.read(low.buffers[r], place, width), strip) for r in self.op.results]
        news = combine(low, self.op, olds, regs, width)
        if self.identity is None:
            first = w.emit(f"icmp eq i64 {strip.index[self.axis].reg}, 0")
            news = [
                w.emit(f"select i1 {first}, {llvm_type(elem, width)} {x}, {llvm_type(elem, width)} {new}")
                for elem, x, new in zip(self.elems, regs, news, strict=True)
            ]
        for result, elem, new in zip(self.op.results, self.elems, news, strict=True):
            low.write(low.buffers[result], place, Lanes("vector", new, elem), strip)

    def _result_index(self, index: Index) -> Index:
        return tuple(at for d, at in enumerate(index) if d != self.axis) or (ZERO,)

    def end_row(self, row: Index) -> None:
        """Adds up what the chains hold, and puts it where it belongs."""
        low, w, width = self.low, self.low.w, self.width
        chains = [[self._load(operand, str(c)) for operand in range(len(self.elems))] for c in range(self.chains)]
        while len(chains) > 1:
            chains = [combine(low, self.op, a, b, width) for a, b in zip(chains[::2], chains[1::2], strict=True)]
        regs = chains[0]
        while width > 1:
            width //= 2
            halves = [[_half(low, reg, elem, width, part) for reg, elem in zip(regs, self.elems, strict=True)]
                      for part in range(2)]  # fmt: skip
            regs = combine(low, self.op, halves[0], halves[1], width)
        for result, elem, reg in zip(self.op.results, self.elems, regs, strict=True):
            total = w.extract(reg, elem, 1, 0)
            if result.type.is_tile:
                low.write(low.buffers[result], row, Lanes("uniform", total, elem), Strip((), 1))
            else:
                low.scalars[result] = total

    def end(self) -> None:
        """A reduction across strips to one number leaves it in its buffer."""
        for result in self.op.results:
            if not result.type.is_tile and not self.is_along:
                self.low.scalars[result] = self.low.read(self.low.buffers[result], (ZERO,), 0).reg


def _half(low: Lowering, reg: str, elem: str, width: int, part: int) -> str:
    lanes = ", ".join(f"i32 {part * width + lane}" for lane in range(width))
    type_ = llvm_type(elem, 2 * width)
    return low.w.emit(f"shufflevector {type_} {reg}, {type_} poison, <{width} x i32> <{lanes}>")


def fill(low: Lowering, value: Value, constant: str) -> None:
    """One number in all elements of a buffer."""
    buffer = low.buffers[value]
    count = buffer.elements
    width = min(count, WIDTH)
    loop = low.w.open_loop(count, width)
    at = low.w.emit(f"getelementptr inbounds {memory_type(buffer.elem)}, ptr {buffer.reg}, i64 {loop.counter}")
    low.store_lanes(Lanes("affine", at, "ptr", 1, buffer.elem), splat(constant, buffer.elem, width), width)
    low.w.close_loop(loop)


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
    fill(low, result, "0")
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
