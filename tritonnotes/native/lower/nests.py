"""A nest: loops over one tile shape with vector strips inside, and all operations of a slot in their body."""

from __future__ import annotations

from ..errors import Uncovered
from ..llvm.buffers import Buffer, padding
from ..llvm.elementwise import is_elementwise
from ..llvm.strips import WIDTH, ZERO, At, Lanes, Strip
from ..llvm.writer import Loop
from ..schedule.schedule import Places, Slot
from ..ttir.ttir import Op, Value
from .collect import gather_from
from .lowering import Lowering
from .memory import atomic, load, operands_over, store
from .reduce import CHAINS, RADIX, Across, Along, Reduction, needs_blocks
from .values import apply, evaluate, evaluate_all

UNROLLED_OPERATIONS = 32
"""A nest with more operations than this is not written out several times."""


def strip_dim(low: Lowering, slot: Slot) -> int:
    """The dimension that strips lie along: the one along which most accesses are to neighbours in memory."""
    shape = slot.shape or ()
    if all(size == 1 for size in shape):
        return len(shape) - 1
    last = max(d for d, size in enumerate(shape) if size > 1)

    def score(dim: int) -> tuple[float, int]:
        if shape[dim] == 1:
            return -1.0, 0
        found = 0.5 * (dim == last)
        for op in slot.ops:
            if op.name in ("tt.load", "tt.store", "tt.atomic_rmw"):
                found += low.analysis.step(op.operands[0], dim) == 1
        return found, -dim

    return max(range(len(shape)), key=score)


def keeps(low: Lowering, places: Places, slot: Slot, op: Op, value: Value) -> bool:
    """Whether a result of an operation in a nest is read where the operation is not, or other than at its own place."""
    if value in low.buffers:
        return True
    uses = low.analysis.consumers(value)
    return any(viewed or any(op not in at.ops for at in places.get(user, (_ELSEWHERE,))) for user, viewed in uses)


_ELSEWHERE = Slot("alone")
"""Of what is in no slot of the block: its end, and what stands in regions."""


def emit_nest(low: Lowering, slot: Slot, places: Places) -> None:
    """The loops of a slot. Along the strips: blocks, where a long sum asks for them, and copies of the body, so that
    the sums that are kept side by side stay in registers."""
    w, shape = low.w, slot.shape or ()
    dim = strip_dim(low, slot)
    length = shape[dim]
    width = min(length, WIDTH)
    strips = length // width
    reductions = _reductions(low, slot, dim, width, strips)
    for op in slot.ops:
        for result in op.results:
            if op not in reductions and result not in low.buffers and keeps(low, places, slot, op, result):
                low.buffers[result] = _buffer_for(low, result, dim)
    for op, reduction in reductions.items():
        low.locate(op)
        reduction.begin()
    loops, index = [], [ZERO] * len(shape)
    for d, size in enumerate(shape):
        if d != dim and size > 1:
            loops.append(w.open_loop(size))
            index[d] = At("uniform", loops[-1].counter)
    for op, reduction in reductions.items():
        low.locate(op)
        reduction.begin_row()
    along = [reduction for reduction in reductions.values() if isinstance(reduction, Along)]
    chains = along[0].chains if along else 1
    copies = chains if len(slot.ops) <= UNROLLED_OPERATIONS else 1
    block = RADIX * chains * width if any(reduction.in_blocks for reduction in along) else length
    blocks = w.open_loop(length, block) if block < length else None
    for reduction in along:
        reduction.begin_block()
    loop = w.open_loop(block, width * copies) if block > width * copies else None
    base = _sum(low, blocks.counter if blocks else "0", loop.counter if loop else "0")
    for copy in range(copies):
        index[dim] = ZERO if length == 1 else At("affine", _sum(low, base, str(copy * width)))
        chain = _chain(low, loop, copy, copies, chains, width)
        _body(low, slot, Strip(tuple(index), width), reductions, chain)
    if loop:
        w.close_loop(loop)
    for reduction in along:
        reduction.end_block()
    if blocks:
        w.close_loop(blocks)
    row = tuple(at for d, at in enumerate(index) if d != dim)
    for op, reduction in reductions.items():
        low.locate(op)
        reduction.end_row(row)
    for opened in reversed(loops):
        w.close_loop(opened)
    for op, reduction in reductions.items():
        low.locate(op)
        reduction.end()


def _reductions(low: Lowering, slot: Slot, dim: int, width: int, strips: int) -> dict[Op, Reduction]:
    found = [op for op in slot.ops if op.name == "tt.reduce"]
    along = [op for op in found if op.integer("axis") == dim]
    in_blocks = any(needs_blocks(op, strips) for op in along)
    return {
        op: Along(low, op, width, min(CHAINS, strips), in_blocks) if op in along else Across(low, op, width)
        for op in found
    }


def _buffer_for(low: Lowering, value: Value, dim: int) -> Buffer:
    """A buffer for a value that is computed in strips along `dim`. An operand of products alone lies as it is computed:
    the product turns it, if need be, faster than a strip is stored across rows."""
    shape = value.type.dims
    if len(shape) < 2 or any(user.name != "tt.dot" for user, _ in low.analysis.consumers(value)):
        return low.new_buffer(value.type)
    return low.new_buffer(value.type, dim, padding(shape[dim]))


def _sum(low: Lowering, a: str, b: str) -> str:
    if "0" in (a, b):
        return b if a == "0" else a
    return low.w.emit(f"add nuw nsw i64 {a}, {b}")


def _chain(low: Lowering, loop: Loop | None, copy: int, copies: int, chains: int, width: int) -> str:
    """The number of the side-by-side sum that a strip adds to: that of the strip, modulo their count."""
    if copies == chains or loop is None:
        return str(copy)
    number = low.w.emit(f"lshr i64 {loop.counter}, {width.bit_length() - 1}")
    return low.w.emit(f"and i64 {number}, {chains - 1}")


def _body(low: Lowering, slot: Slot, strip: Strip, reductions: dict[Op, Reduction], chain: str) -> None:
    for op in slot.ops:
        low.locate(op)
        if op.name == "tt.store":
            store(low, op, operands_over(low, op, strip), strip)
            continue
        if op.name == "tt.reduce":
            reductions[op].add(evaluate_all(low, op, strip), strip, chain)
            continue
        found = _result(low, op, strip)
        strip.computed[op.result] = found
        if op.result in low.buffers:
            low.write(low.buffers[op.result], strip.index, found, strip)


def _result(low: Lowering, op: Op, strip: Strip) -> Lanes:
    if op.name == "tt.load":
        return load(low, op, operands_over(low, op, strip), strip)
    if op.name in ("tt.atomic_rmw", "tt.atomic_cas"):
        return atomic(low, op, strip)
    if op.name == "tt.gather":
        return gather_from(low, op, strip)
    if is_elementwise(op.name):
        return apply(low, op, evaluate_all(low, op, strip), strip)
    raise Uncovered(f"the operation {op.name}", op.line)


def copy_tile(low: Lowering, value: Value, buffer: Buffer) -> None:
    """Puts a tile into a buffer."""
    if low.buffers.get(value) is buffer:
        return
    shape = buffer.shape
    longer = [d for d, size in enumerate(shape) if size > 1]
    minor = buffer.minor if buffer.minor is not None else len(shape) - 1
    dim = minor if shape[minor] > 1 or not longer else longer[-1]
    width = min(shape[dim], WIDTH)
    loops: list[Loop] = []
    index: list[At] = [ZERO] * len(shape)
    for d, size in enumerate(shape):
        if d != dim and size > 1:
            loops.append(low.w.open_loop(size))
            index[d] = At("uniform", loops[-1].counter)
    if shape[dim] > width:
        loops.append(low.w.open_loop(shape[dim], width))
        index[dim] = At("affine", loops[-1].counter)
    elif shape[dim] > 1:
        index[dim] = At("affine", "0")
    strip = Strip(tuple(index), width)
    low.write(buffer, strip.index, evaluate(low, value, strip.index, strip), strip)
    for loop in reversed(loops):
        low.w.close_loop(loop)
