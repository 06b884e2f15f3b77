"""Convolutions and pools: calls of torch."""

from __future__ import annotations

import math
from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from .rows import Node, Row, Table, ints, refuse
from .shapes import padded
from .torch_call import torch_call, torch_calls

SAME = ("SAME_UPPER", "SAME_LOWER")


def _pads(
    x: Value, kernel: list[int], strides: list[int], dilations: list[int], pads: list[int] | None, auto_pad: str
) -> tuple[list[int], list[int]]:
    """What is added before each axis of positions, and after it."""
    count = len(kernel)
    if auto_pad not in SAME:
        both = [0] * (2 * count) if pads is None or auto_pad == "VALID" else pads
        return both[:count], both[count:]
    before, after = [], []
    positions = ints(x.shape[2:], f"with auto_pad={auto_pad!r} the shape of the positions")
    for size, k, step, hole in zip(positions, kernel, strides, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + (k - 1) * hole + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if auto_pad == "SAME_UPPER" else more)
        after.append(more if auto_pad == "SAME_UPPER" else less)
    return before, after


def _around(before: list[int], after: list[int]) -> list[int]:
    """Pads of all axes, of which the first two are samples and channels."""
    return [0, 0, *before, 0, 0, *after]


# -- convolutions ------------------------------------------------------------------------------------------------------


def _conv(
    x: Value, weight: Value, bias: Value | None = None, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, kernel_shape: list[int] | None = None, pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Value:  # fmt: skip
    kernel = ints(weight.shape[2:], "the kernel's shape")
    count = len(kernel)
    refuse(1 <= count <= 3, f"has {count} axes of positions; 1 to 3 are supported")
    strides, dilations = strides or [1] * count, dilations or [1] * count
    before, after = _pads(x, kernel, strides, dilations, pads, auto_pad)
    if before != after:
        x, before = padded(x, _around(before, after)), [0] * count
    call = f"aten.conv{count}d.default"
    return torch_call(call, x, weight, bias, tuple(strides), tuple(before), tuple(dilations), group)


def _conv_transpose(
    x: Value, weight: Value, bias: Value | None = None, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, kernel_shape: list[int] | None = None, output_padding: list[int] | None = None,
    output_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Value:  # fmt: skip
    """torch pads both ends alike: other pads are cut off the whole result."""
    kernel = ints(weight.shape[2:], "the kernel's shape")
    count = len(kernel)
    refuse(1 <= count <= 3, f"has {count} axes of positions; 1 to 3 are supported")
    strides, dilations = strides or [1] * count, dilations or [1] * count
    extra = output_padding or [0] * count
    whole = [(k - 1) * hole + 1 + more for k, hole, more in zip(kernel, dilations, extra, strict=True)]
    if output_shape is not None or auto_pad in SAME:
        sizes = ints(x.shape[2:], "the shape of the positions")
        wanted = output_shape or [size * step for size, step in zip(sizes, strides, strict=True)]
        over = [
            step * (size - 1) + span - want
            for step, size, span, want in zip(strides, sizes, whole, wanted[-count:], strict=True)
        ]
        extra = [more + max(-o, 0) for more, o in zip(extra, over, strict=True)]
        total = [max(o, 0) for o in over]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    else:
        both = [0] * (2 * count) if pads is None or auto_pad == "VALID" else pads
        before, after = both[:count], both[count:]
    alike = before == after
    call = f"aten.conv_transpose{count}d.{'default' if count == 1 else 'input'}"
    padding = tuple(before) if alike else (0,) * count
    late = any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    refuse(alike or not any(extra), "pads both ends differently beside output_padding; fold one into the other")
    refuse(not late, "output_padding is as large as the stride; make it smaller")
    made = torch_call(call, x, weight, bias, tuple(strides), padding, tuple(extra), group, tuple(dilations))
    return made if alike else _cut(made, before, after)


def _cut(x: Value, before: list[int], after: list[int]) -> Value:
    for axis, (low, high) in enumerate(zip(before, after, strict=True), 2):
        (size,) = ints(x.shape[axis : axis + 1], "the size of what is cut")
        x = P.narrow(x, axis, low, size - low - high)
    return x


# -- pools -------------------------------------------------------------------------------------------------------------


def _max_pool(
    node: Node, x: Value, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: list[int] | None = None, pads: list[int] | None = None, storage_order: int = 0,
    strides: list[int] | None = None,
) -> Any:  # fmt: skip
    count = len(kernel_shape)
    refuse(1 <= count <= 3, f"has {count} axes of positions; 1 to 3 are supported")
    strides, dilations = strides or [1] * count, dilations or [1] * count
    before, after = _pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    if before != after or any(2 * pad > k for pad, k in zip(before, kernel_shape, strict=True)):
        refuse(x.dtype.is_float, "pads ints at one end; cast them to a float first")
        refuse(not node.reads(1), "gives the places of its results, and pads both ends differently; do one of them")
        x, before = padded(x, _around(before, after), value=-math.inf), [0] * count
    how = tuple(kernel_shape), tuple(strides), tuple(before), tuple(dilations), bool(ceil_mode)
    if not node.reads(1):
        return torch_call(f"aten.max_pool{count}d.default", x, *how)
    refuse(count > 1 and not storage_order, "gives places of one axis, or in columns; read its first result alone")
    y, within = torch_calls(f"aten.max_pool{count}d_with_indices.default", x, *how, results=(0, 1))
    return y, _in_all(x, within)


def _in_all(x: Value, within: Value) -> Value:
    """Places in the whole tensor, of places within the positions of each channel."""
    channels, *positions = ints(x.shape[1:], "the shape of a sample")
    planes = P.index_along(within, 0) * channels + P.index_along(within, 1)
    return within + planes * math.prod(positions)


def _average_pool(
    x: Value, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Value:  # fmt: skip
    count = len(kernel_shape)
    refuse(1 <= count <= 3, f"has {count} axes of positions; 1 to 3 are supported")
    refuse(all(hole == 1 for hole in dilations or ()), "is dilated, which torch's average pools are not")
    strides = strides or [1] * count
    before, after = _pads(x, kernel_shape, strides, [1] * count, pads, auto_pad)
    how = tuple(kernel_shape), tuple(strides)
    call = f"aten.avg_pool{count}d.default"
    if before == after and all(2 * pad <= k for pad, k in zip(before, kernel_shape, strict=True)):
        return torch_call(call, x, *how, tuple(before), bool(ceil_mode), bool(count_include_pad))
    refuse(not ceil_mode, "pads both ends differently and rounds sizes up; do one of them")
    around, none = _around(before, after), (0,) * count
    pooled = torch_call(call, padded(x, around), *how, none, False, True)
    if count_include_pad:
        return pooled
    ones = P.broadcast_to(x.graph.constant(1.0, x.dtype), (1, 1, *ints(x.shape[2:], "the shape of the positions")))
    return pooled / torch_call(call, padded(ones, around), *how, none, False, True)


def _lp_pool(
    x: Value, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: list[int] | None = None,
    p: int = 2, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Value:  # fmt: skip
    powers = P.pow(P.abs(x), float(p))
    mean = _average_pool(powers, kernel_shape, auto_pad, ceil_mode, 1, dilations, pads, strides)
    return P.pow(mean * float(math.prod(kernel_shape)), 1.0 / p)


def _lrn(x: Value, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    """Squares are averaged over `size` channels around each."""
    low, rank = (size - 1) // 2, len(x.shape)
    channels, *positions = x.shape[1:]
    refuse(
        isinstance(channels, int) and all(isinstance(p, int) for p in positions),
        "needs known sizes; fix them with sizes={}",
    )
    pads = [0] * (2 * rank)
    pads[1], pads[1 + rank] = low, size - 1 - low
    squares = padded(x * x, pads)
    total = P.narrow(squares, 1, 0, ints((channels,), "channels")[0])
    for start in range(1, size):
        total = total + P.narrow(squares, 1, start, ints((channels,), "channels")[0])
    return x / P.pow(bias + (alpha / size) * total, beta)


WINDOWS: Table = {
    "Conv": (Row(_conv),),
    "ConvTranspose": (Row(_conv_transpose),),
    "MaxPool": (Row(_max_pool, takes_node=True),),
    "AveragePool": (Row(_average_pool),),
    "LpPool": (Row(_lp_pool, 2),),
    "LRN": (Row(_lrn),),
}
