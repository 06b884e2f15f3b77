"""Operators that show elements in another shape or order, or join and part tensors."""

from __future__ import annotations

from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Graph, Value
from ...ir.core.types import Shape, Size, as_dtype, bool_, broadcast, dims_in, int64, known_factor, product_of
from ...ir.ops import shapes
from ...ir.ops.parts import split
from .package import dtype_name
from .rows import Array, Node, Parts, Row, Table, ints, listed, number, refuse
from .torch_call import torch_call

ALL = 2**31 - 1
"""Ends from here on stand for the end of an axis."""


def filled(graph: Graph, value: Any, shape: Shape, dtype: str) -> Value:
    """A tensor of one number."""
    constant = graph.constant(value, as_dtype(dtype))
    return P.broadcast_to(constant, tuple(shape)) if shape else constant


def sizes_as_values(graph: Graph, sizes: Array) -> Value:
    """Sizes as a tensor of int64, known or not."""
    parts = [P.reshape(_size_as_value(graph, size), (1,)) for size in listed(sizes) or []]
    return P.reshape(P.cat(parts, 0), sizes.shape)


def _size_as_value(graph: Graph, size: Size) -> Value:
    count: Any = graph.constant(known_factor((size,)), int64)
    for dim in dims_in((size,)):
        whole = next((v for v in graph.inputs if dim in v.shape), None)
        refuse(whole is not None, f"computes with the size {dim}, which no input has as an axis")
        assert whole is not None
        along = P.count_along(whole, whole.shape.index(dim))
        assert isinstance(along, Value)
        counted = P.cast(along, int64)
        count = counted if count.op.name == "constant" and count.attrs["value"] == 1 else count * counted
    return count


def _reshape(x: Value, shape: Array, allowzero: int = 0) -> Value:
    """A 0 keeps the size in its place, unless zeros are allowed."""
    sizes = listed(shape) or []
    kept = [x.shape[i] if _is(size, 0) and not allowzero else size for i, size in enumerate(sizes)]
    return shapes.reshape(x, tuple(kept))


def _is(size: Size, wanted: int) -> bool:
    return isinstance(size, int) and size == wanted


def _flatten(x: Value, axis: int = 1) -> Value:
    at = axis + len(x.shape) if axis < 0 else axis
    return P.reshape(x, (product_of(x.shape[:at]), product_of(x.shape[at:])))


def _transpose(x: Value, perm: list[int] | None = None) -> Value:
    order = tuple(range(len(x.shape))[::-1] if perm is None else perm)
    return x if order == tuple(range(len(order))) else shapes.permute(x, order)


def _squeeze_by_attribute(x: Value, axes: list[int] | None = None) -> Value:
    found = [i for i, size in enumerate(x.shape) if _is(size, 1)] if axes is None else axes
    return shapes.squeeze(x, tuple(found)) if found else x


def _squeeze(x: Value, axes: Array | None = None) -> Value:
    return _squeeze_by_attribute(x, listed(axes))


def _unsqueeze_by_attribute(x: Value, axes: list[int]) -> Value:
    rank = len(x.shape) + len(axes)
    places = {axis % rank for axis in axes}
    old = iter(x.shape)
    return P.reshape(x, tuple(1 if axis in places else next(old) for axis in range(rank)))


def _unsqueeze(x: Value, axes: Array) -> Value:
    return _unsqueeze_by_attribute(x, listed(axes) or [])


def _expand(x: Value, shape: Array) -> Value:
    wanted = broadcast([x.shape, tuple(listed(shape) or ())], "expand")
    return x if wanted == x.shape else P.broadcast_to(x, wanted)


def _tile(x: Value, repeats: Array) -> Value:
    counts = listed(repeats) or []
    return x if all(_is(count, 1) for count in counts) else torch_call("aten.repeat.default", x, tuple(counts))


def _constant_of_shape(node: Node, shape: Array, value: Array | None = None) -> Value:
    one = 0.0 if value is None else number(value)
    return filled(node.graph, one, tuple(listed(shape) or ()), "float32" if value is None else value.dtype.name)


def _range(node: Node, start: Array, limit: Array, delta: Array) -> Value:
    """Numbers up to a symbolic size; all others are computed when a file is read."""
    first, size, step = number(start), number(limit), number(delta)
    refuse(_is(first, 0) and _is(step, 1), f"counts from {first} to {size} by {step}; only from 0 by 1 to a Dim")
    return P.index_along(filled(node.graph, 0, (size,), "int64"), 0)


def _eye_like(x: Value, dtype: int | None = None, k: int = 0) -> Value:
    diagonal = P.eq(P.index_along(x, 0) + k, P.index_along(x, 1))
    wanted = x.dtype if dtype is None else as_dtype(dtype_name(dtype))
    return diagonal if wanted is bool_ else P.cast(diagonal, wanted)


# -- joined and parted -------------------------------------------------------------------------------------------------


def _concat(*parts: Value, axis: int) -> Value:
    some = [part for part in parts if not _is(part.shape[axis], 0)] or [*parts[:1]]
    return P.cat(some, axis)


def _split_by_attribute(node: Node, x: Value, axis: int = 0, split: list[int] | None = None) -> Any:
    return _parts(x, axis, split, len(node.read))


def _split(node: Node, x: Value, sizes: Array | None = None, axis: int = 0, num_outputs: int | None = None) -> Any:
    return _parts(x, axis, listed(sizes), len(node.read))


def _parts(x: Value, axis: int, sizes: list[int] | None, count: int) -> Any:
    if sizes is None:
        (size,) = ints(x.shape[axis : axis + 1] if axis >= 0 else (x.shape[axis],), "the axis that is parted")
        each = -(-size // count)
        sizes = [*(each,) * (count - 1), size - each * (count - 1)]
    return tuple(split(x, sizes, axis))


def _split_to_sequence(x: Value, sizes: Array | None = None, axis: int = 0, keepdims: int = 1) -> Parts:
    (size,) = ints(x.shape[axis : axis + 1] if axis >= 0 else (x.shape[axis],), "the axis that is parted")
    each = [1] if sizes is None else listed(sizes) or []
    if sizes is None or sizes.ndim == 0:
        each = [min(each[0], size - start) for start in range(0, size, each[0])]
    parts = split(x, each, axis)
    return Parts(tuple(shapes.squeeze(part, axis) for part in parts) if sizes is None and not keepdims else parts)


def _sequence(*values: Value) -> Parts:
    return Parts(values)


def _sequence_at(parts: Parts, position: Array) -> Value:
    return parts.values[number(position)]


def _concat_from_sequence(parts: Parts, axis: int, new_axis: int = 0) -> Value:
    if not new_axis:
        return _concat(*parts.values, axis=axis)
    return P.cat([_unsqueeze_by_attribute(value, [axis]) for value in parts.values], axis)


def _slice_by_attributes(x: Value, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Value:
    return _sliced(x, starts, ends, axes, None)


def _slice(x: Value, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Value:
    return _sliced(x, listed(starts) or [], listed(ends) or [], listed(axes), listed(steps))


def _sliced(x: Value, starts: list[Any], ends: list[Any], axes: list[Any] | None, steps: list[Any] | None) -> Value:
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (place if axes is None else axes[place]) % len(x.shape)
        x = _part(x, axis, start, end, 1 if steps is None else steps[place])
    return x


def _part(x: Value, axis: int, start: Any, end: Any, step: int) -> Value:
    """Part of one axis: a view, or a call of torch where elements are left out in between or the size is symbolic."""
    size = x.shape[axis]
    if _is(start, 0) and step == 1 and (end == size if not isinstance(end, int) else end >= ALL or _is(size, end)):
        return x
    if isinstance(size, int):
        low, high, by = slice(start, end, step).indices(size)
        taken = range(low, high, by)
        if not taken:
            return P.narrow(x, axis, 0, 0)
        if by == 1:
            return P.narrow(x, axis, low, len(taken))
        ahead = x if by > 0 else torch_call("aten.flip.default", x, (axis,))
        first = low if by > 0 else size - 1 - low
        last = first + (len(taken) - 1) * abs(by)
        return ahead if by == -1 and len(taken) == size else torch_call(
            "aten.slice_copy.Tensor", ahead, axis, first, last + 1, abs(by)
        )  # fmt: skip
    if step == -1 and _is(start, -1) and isinstance(end, int) and end <= -ALL:
        return torch_call("aten.flip.default", x, (axis,))
    refuse(step > 0, f"goes backwards over axis {axis}, whose size is {size}; fix it with sizes={{}}")
    return torch_call("aten.slice_copy.Tensor", x, axis, start, end, step)


# -- pixels ------------------------------------------------------------------------------------------------------------


def _depth_to_space(x: Value, blocksize: int, mode: str = "DCR") -> Value:
    n, c, h, w = x.shape
    refuse(isinstance(c, int), f"has {c} channels; fix them with sizes={{}}")
    depth = ints((c,), "the number of channels")[0] // blocksize**2
    shape: Shape = (n, blocksize, blocksize, depth, h, w) if mode == "DCR" else (n, depth, blocksize, blocksize, h, w)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    return P.reshape(shapes.permute(P.reshape(x, shape), order), (n, depth, h * blocksize, w * blocksize))


def _space_to_depth(x: Value, blocksize: int, mode: str = "DCR") -> Value:
    n, c, *rest = x.shape
    h, w = ints(rest, "the shape of an image")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    parts = P.reshape(x, (n, c, h // blocksize, blocksize, w // blocksize, blocksize))
    return P.reshape(shapes.permute(parts, order), (n, c * blocksize**2, h // blocksize, w // blocksize))


# -- padding -----------------------------------------------------------------------------------------------------------

MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""ONNX's modes of padding, and torch's."""


def _pad_by_attributes(x: Value, pads: list[int], mode: str = "constant", value: float = 0.0) -> Value:
    return padded(x, pads, mode, value)


def _pad(
    x: Value, pads: Array, constant_value: Array | None = None, axes: Array | None = None, mode: str = "constant"
) -> Value:
    given, rank = listed(pads) or [], len(x.shape)
    if axes is not None:
        places = [axis % rank for axis in listed(axes) or []]
        every = [0] * (2 * rank)
        for i, axis in enumerate(places):
            every[axis], every[axis + rank] = given[i], given[i + len(places)]
        given = every
    return padded(x, given, mode, 0 if constant_value is None else number(constant_value))


def padded(x: Value, pads: list[int], mode: str = "constant", value: Any = 0) -> Value:
    """`pads` has what is added before each axis, then what is added after each."""
    rank = len(x.shape)
    last_first = [size for axis in reversed(range(rank)) for size in (pads[axis], pads[axis + rank])]
    if not any(last_first):
        return x
    if mode == "constant":
        refuse(x.dtype.kind != "bool", "pads truth values; cast them to ints first")
        return torch_call("aten.constant_pad_nd.default", x, tuple(last_first), value)
    inner = 2 * max(rank - 2, 1) if rank > 2 else 2 * rank
    refuse(not any(last_first[inner:]) and rank > 2, f"mode={mode!r} pads the first axes; pad positions alone")
    while len(last_first) > 2 and not any(last_first[-2:]):
        last_first = last_first[:-2]
    needed = [*last_first, *[0] * (inner - len(last_first))] if rank > 2 else last_first
    return torch_call("aten.pad.default", x, tuple(needed), MODES[mode])


SHAPES: Table = {
    "Reshape": (Row(_reshape, 5, known=(1,)),),
    "Flatten": (Row(_flatten),),
    "Transpose": (Row(_transpose),),
    "Squeeze": (Row(_squeeze_by_attribute), Row(_squeeze, 13, known=(1,))),
    "Unsqueeze": (Row(_unsqueeze_by_attribute), Row(_unsqueeze, 13, known=(1,))),
    "Expand": (Row(_expand, 8, known=(1,)),),
    "Tile": (Row(_tile, 6, known=(1,)),),
    "ConstantOfShape": (Row(_constant_of_shape, 9, known=(0,), takes_node=True),),
    "Range": (Row(_range, 11, known=(0, 1, 2), takes_node=True),),
    "EyeLike": (Row(_eye_like, 9),),
    "Concat": (Row(_concat, 4),),
    "Split": (Row(_split_by_attribute, 2, takes_node=True), Row(_split, 13, known=(1,), takes_node=True)),
    "SplitToSequence": (Row(_split_to_sequence, 11, known=(1,)),),
    "SequenceConstruct": (Row(_sequence, 11),),
    "SequenceAt": (Row(_sequence_at, 11, known=(1,)),),
    "ConcatFromSequence": (Row(_concat_from_sequence, 11),),
    "Slice": (Row(_slice_by_attributes), Row(_slice, 10, known=(1, 2, 3, 4))),
    "DepthToSpace": (Row(_depth_to_space),),
    "SpaceToDepth": (Row(_space_to_depth),),
    "Pad": (Row(_pad_by_attributes, 2), Row(_pad, 11, known=(1, 2, 3))),
}
