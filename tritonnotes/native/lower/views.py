"""Views: which element of the operand stands where an element of the result is asked for."""

from __future__ import annotations

from ..errors import Uncovered
from ..llvm.strips import ZERO, At, Index, index_vector
from ..llvm.writer import Writer, splat
from ..ttir.ttir import Op


def source_index(w: Writer, op: Op, index: Index, width: int) -> Index:
    """The index into the operand of a view, for an index into its result."""
    source, target = op.operands[0].type.dims, op.results[0].type.dims
    match op.name:
        case "tt.splat" | "tt.unsplat":
            return (ZERO,) * len(source)
        case "tt.expand_dims":
            axis = op.integer("axis")
            return index[:axis] + index[axis + 1 :]
        case "tt.broadcast":
            return tuple(ZERO if size == 1 else at for size, at in zip(source, index, strict=True))
        case "tt.trans":
            found = [ZERO] * len(index)
            for place, dim in enumerate(op.order):
                found[dim] = index[place]
            return tuple(found)
        case "tt.reshape":
            return reshaped(w, index, source, target, width)
    raise Uncovered(f"the view {op.name}", op.line)


def reshaped(w: Writer, index: Index, source: tuple[int, ...], target: tuple[int, ...], width: int) -> Index:
    """An index into `target` as one into `source` with the same elements in the same order. Sizes are powers of 2."""
    kept = [(size, at) for size, at in zip(target, index, strict=True) if size != 1]
    if [size for size, _ in kept] == [size for size in source if size != 1]:
        rest = iter(kept)
        return tuple(next(rest)[1] if size != 1 else ZERO for size in source)
    strides = _strides(target)
    if any(at.kind == "vector" for _, at in kept):
        return _all_lanes(w, index, source, target, width)
    base, lane_stride = "0", 0
    for at, stride, size in zip(index, strides, target, strict=True):
        if size == 1:
            continue
        if at.kind == "affine":
            lane_stride = stride
        if at.reg != "0":
            term = at.reg if stride == 1 else w.emit(f"mul nuw nsw i64 {at.reg}, {stride}")
            base = term if base == "0" else w.emit(f"add nuw nsw i64 {base}, {term}")
    # The lanes stay within one dimension of the source where that steps like them and is at least as long as a strip,
    # since a strip starts at a multiple of its width.
    home = [
        d
        for d, (stride, size) in enumerate(zip(_strides(source), source, strict=True))
        if stride == lane_stride and size >= width
    ]
    if lane_stride and not home:
        return _all_lanes(w, index, source, target, width)
    found = []
    for dim, (stride, size) in enumerate(zip(_strides(source), source, strict=True)):
        part = base
        if size == 1 or base == "0":
            part = "0"
        else:
            part = part if stride == 1 else w.emit(f"lshr i64 {part}, {stride.bit_length() - 1}")
            part = w.emit(f"and i64 {part}, {size - 1}")
        found.append(At("affine" if lane_stride and dim == home[-1] else "uniform", part))
    return tuple(found)


def _all_lanes(w: Writer, index: Index, source: tuple[int, ...], target: tuple[int, ...], width: int) -> Index:
    """The same with an index for each lane, however these lie."""
    type_ = f"<{width} x i64>"
    linear = splat("0", "i64", width)
    for at, stride, size in zip(index, _strides(target), target, strict=True):
        if size != 1:
            term = w.emit(f"mul {type_} {index_vector(w, at, width)}, {splat(str(stride), 'i64', width)}")
            linear = w.emit(f"add {type_} {linear}, {term}")
    found = []
    for stride, size in zip(_strides(source), source, strict=True):
        if size == 1:
            found.append(ZERO)
            continue
        part = w.emit(f"lshr {type_} {linear}, {splat(str(stride.bit_length() - 1), 'i64', width)}")
        found.append(At("vector", w.emit(f"and {type_} {part}, {splat(str(size - 1), 'i64', width)}")))
    return tuple(found)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, count = [], 1
    for size in reversed(shape):
        strides.append(count)
        count *= size
    return tuple(reversed(strides))
