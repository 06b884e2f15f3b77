"""Reductions of tiles, each in one fixed order that depends on the shape alone.

A reduction along the strip keeps up to four vectors of partial sums, which are added in pairs, then halves onto halves.
One across strips adds row after row into its buffer. Long sums are taken in blocks of 16, and blocks of those: what is
rounded away grows with the number of steps, and so it does with their logarithm.
"""

from __future__ import annotations

from ..llvm.buffers import Buffer
from ..llvm.strips import WIDTH, ZERO, At, Index, Lanes, Strip
from ..llvm.writer import llvm_type, memory_type, splat
from ..ttir.ttir import Op
from .combine import combine, identity
from .lowering import Lowering

RADIX = 16
"""Numbers that are added one after another before their sum joins those of others."""


CHAINS = 4
"""Sums that a reduction along a strip keeps side by side: an addition takes about four cycles."""


def _is_sum(op: Op) -> bool:
    return op.regions[0].ops[0].name == "arith.addf" and identity(op) is not None


def needs_blocks(op: Op, strips: int) -> bool:
    """Whether a reduction over so many strips is a sum of so many numbers that blocks pay."""
    return _is_sum(op) and strips >= 2 * RADIX * CHAINS


class Reduction:
    """One reduction within a nest: what is emitted around and inside its loops."""

    def __init__(self, low: Lowering, op: Op, width: int) -> None:
        self.low, self.op, self.width = low, op, width
        self.axis = op.integer("axis")
        self.identity = identity(op)
        self.elems = [operand.type.elem for operand in op.operands]

    def begin(self) -> None:
        """Before all loops."""

    def begin_row(self) -> None:
        """Before the strips of a row."""

    def begin_block(self) -> None:
        """Before a block of strips."""

    def add(self, xs: list[Lanes], strip: Strip, chain: str) -> None:
        """At a strip."""
        raise NotImplementedError

    def end_block(self) -> None:
        """After a block of strips."""

    def end_row(self, row: Index) -> None:
        """After the strips of a row."""

    def end(self) -> None:
        """After all loops."""

    def choose_first(self, first: str, xs: list[str], news: list[str]) -> list[str]:
        """Where nothing leaves a number as it is, the first one stands for what came before."""
        w, width = self.low.w, self.width
        return [
            w.emit(f"select i1 {first}, {llvm_type(elem, width)} {x}, {llvm_type(elem, width)} {new}")
            for elem, x, new in zip(self.elems, xs, news, strict=True)
        ]


class Along(Reduction):
    """A reduction along the strips, in `chains` vectors side by side."""

    def __init__(self, low: Lowering, op: Op, width: int, chains: int, in_blocks: bool) -> None:
        super().__init__(low, op, width)
        self.chains, self.in_blocks = chains, in_blocks and _is_sum(op)
        self.partial: list[str] = []
        self.total: list[str] = []
        for result in op.results:
            if result.type.is_tile and result not in low.buffers:
                low.buffers[result] = low.new_buffer(result.type)

    def begin(self) -> None:
        self.partial = [self.low.w.alloca(memory_type(elem, self.width), self.chains) for elem in self.elems]
        self.total = self.partial
        if self.in_blocks:
            self.total = [self.low.w.alloca(memory_type(elem, self.width), self.chains) for elem in self.elems]

    def begin_row(self) -> None:
        self._clear(self.total)

    def begin_block(self) -> None:
        if self.in_blocks:
            self._clear(self.partial)

    def add(self, xs: list[Lanes], strip: Strip, chain: str) -> None:
        regs = [self.low.vector(x, strip) for x in xs]
        news = combine(self.low, self.op, self._load(self.partial, chain), regs, self.width)
        if self.identity is None:
            first = self.low.w.emit(f"icmp ult i64 {strip.index[self.axis].reg}, {self.chains * self.width}")
            news = self.choose_first(first, regs, news)
        self._store(self.partial, chain, news)

    def end_block(self) -> None:
        if not self.in_blocks:
            return
        for chain in map(str, range(self.chains)):
            sums, more = self._load(self.total, chain), self._load(self.partial, chain)
            self._store(self.total, chain, combine(self.low, self.op, sums, more, self.width))

    def end_row(self, row: Index) -> None:
        """Adds up what the chains hold, and puts it where it belongs."""
        low, width = self.low, self.width
        chains = [self._load(self.total, str(chain)) for chain in range(self.chains)]
        while len(chains) > 1:
            chains = [combine(low, self.op, a, b, width) for a, b in zip(chains[::2], chains[1::2], strict=True)]
        regs = chains[0]
        while width > 1:
            width //= 2
            first, second = (
                [_half(low, reg, elem, width, part) for reg, elem in zip(regs, self.elems, strict=True)]
                for part in range(2)
            )
            regs = combine(low, self.op, first, second, width)
        for result, elem, reg in zip(self.op.results, self.elems, regs, strict=True):
            total = low.w.extract(reg, elem, 1, 0)
            if result.type.is_tile:
                low.write(low.buffers[result], row, Lanes("uniform", total, elem), Strip((), 1))
            else:
                low.scalars[result] = total

    def _clear(self, places: list[str]) -> None:
        if self.identity is not None:
            start = splat(self.identity, self.elems[0], self.width)
            for chain in range(self.chains):
                self._store(places, str(chain), [start])

    def _place(self, places: list[str], operand: int, chain: str) -> str:
        if chain == "0":
            return places[operand]
        type_ = memory_type(self.elems[operand], self.width)
        return self.low.w.emit(f"getelementptr inbounds {type_}, ptr {places[operand]}, i64 {chain}")

    def _load(self, places: list[str], chain: str) -> list[str]:
        found = []
        for operand, elem in enumerate(self.elems):
            place = self._place(places, operand, chain)
            reg = self.low.w.emit(f"load {memory_type(elem, self.width)}, ptr {place}")
            found.append(self.low.truth(reg, elem, self.width))
        return found

    def _store(self, places: list[str], chain: str, regs: list[str]) -> None:
        for operand, (elem, reg) in enumerate(zip(self.elems, regs, strict=True)):
            kept = self.low.byte(reg, elem, self.width)
            self.low.w.do(f"store {memory_type(elem, self.width)} {kept}, ptr {self._place(places, operand, chain)}")


class Across(Reduction):
    """A reduction across strips, into buffers of the result's shape: one for sums of up to 16 rows, one for sums of
    those, and so on; the first of them is the result's own."""

    def __init__(self, low: Lowering, op: Op, width: int) -> None:
        super().__init__(low, op, width)
        for result in op.results:
            if result not in low.buffers:
                low.buffers[result] = low.new_buffer(result.type)
        self.levels = [[low.buffers[result] for result in op.results]]
        rows = op.operands[0].type.dims[self.axis]
        while _is_sum(op) and rows >= 2 * RADIX:
            self.levels.append([low.new_buffer(result.type) for result in op.results])
            rows //= RADIX

    def begin(self) -> None:
        if self.identity is not None:
            for (buffer,) in self.levels:
                fill(self.low, buffer, self.identity)

    def add(self, xs: list[Lanes], strip: Strip, chain: str) -> None:
        low, w = self.low, self.low.w
        regs = [low.vector(x, strip) for x in xs]
        place, at = self._result_index(strip.index), strip.index[self.axis]
        news = self._join(len(self.levels) - 1, place, regs, at, strip)
        ends = []
        for level in reversed(range(len(self.levels) - 1)):
            # A block is full: its sum joins those of others, and the next one begins.
            count = RADIX ** (len(self.levels) - 1 - level)
            last = w.emit(f"and i64 {at.reg}, {count - 1}")
            ends.append(w.open_if(w.emit(f"icmp eq i64 {last}, {count - 1}")))
            news = self._join(level, place, news, at, strip)
            for buffer, elem in zip(self.levels[level + 1], self.elems, strict=True):
                low.write(buffer, place, Lanes("uniform", self.identity or "0", elem), strip)
        for end in reversed(ends):
            w.close_if(end)

    def _join(self, level: int, place: Index, regs: list[str], at: At, strip: Strip) -> list[str]:
        low = self.low
        olds = [low.vector(low.read(buffer, place, self.width), strip) for buffer in self.levels[level]]
        news = combine(low, self.op, olds, regs, self.width)
        if self.identity is None:
            news = self.choose_first(low.w.emit(f"icmp eq i64 {at.reg}, 0"), regs, news)
        for buffer, elem, new in zip(self.levels[level], self.elems, news, strict=True):
            low.write(buffer, place, Lanes("vector", new, elem), strip)
        return news

    def _result_index(self, index: Index) -> Index:
        return tuple(at for d, at in enumerate(index) if d != self.axis) or (ZERO,)

    def end(self) -> None:
        """A reduction to one number leaves it in its buffer."""
        for result in self.op.results:
            if not result.type.is_tile:
                self.low.scalars[result] = self.low.read(self.low.buffers[result], (ZERO,), 0).reg


def _half(low: Lowering, reg: str, elem: str, width: int, part: int) -> str:
    lanes = ", ".join(f"i32 {part * width + lane}" for lane in range(width))
    type_ = llvm_type(elem, 2 * width)
    return low.w.emit(f"shufflevector {type_} {reg}, {type_} poison, <{width} x i32> <{lanes}>")


def fill(low: Lowering, buffer: Buffer, constant: str) -> None:
    """One number in all elements of a buffer."""
    count = buffer.elements
    width = min(count, WIDTH)
    loop = low.w.open_loop(count, width)
    at = low.w.emit(f"getelementptr inbounds {memory_type(buffer.elem)}, ptr {buffer.reg}, i64 {loop.counter}")
    low.store_lanes(Lanes("affine", at, "ptr", 1, buffer.elem), splat(constant, buffer.elem, width), width)
    low.w.close_loop(loop)
