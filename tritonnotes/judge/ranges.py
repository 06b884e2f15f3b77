"""From which numbers leaves are drawn, so that the row numbers and class indices made of them are valid.

What an op wants of an index is asked backwards of the leaves that the index is made of. A range that is narrower than
need be is right, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..ir.core.graph import Value
from .executor import concrete
from .indices import PARTS

Range = tuple[float, float]
"""The lowest number and the highest."""


@dataclass(frozen=True)
class Ranges:
    """What leaves are to be drawn from: `of_leaves`, the intersection of all that was `ask`ed. `state` are the
    parameters and buffers that are not drawn, as far as they are known."""

    sizes: Mapping[str, int]
    state: Mapping[str, Tensor]
    of_leaves: dict[Value, Range] = field(default_factory=dict)

    def ask(self, value: Value, wanted: Range) -> None:
        """Have `value` lie in `wanted`, by ranges of the leaves that it is made of, where these can be told."""
        if value.dtype.kind == "bool" or self.known(value) is not None:
            return
        if value.is_leaf:
            low, high = self.of_leaves.get(value, (-math.inf, math.inf))
            self.of_leaves[value] = max(low, wanted[0]), min(high, wanted[1])
        elif value.op.name in PARTS:
            for arg in value.inputs:
                self.ask(arg, wanted)
        elif value.op.name in BACKWARDS:
            BACKWARDS[value.op.name](self, value, wanted)

    def known(self, value: Value) -> Range | None:
        """The range of what is not drawn: numbers of the graph, indices along an axis, held tensors, and views."""
        if value.op.name == "constant":
            number = float(value.attrs["value"])
            return number, number
        if value.op.name == "iota":
            return 0.0, float(max(concrete(value.attrs["size"], self.sizes) - 1, 0))
        if value.op.name == "dim_size":
            size = float(self.sizes[value.attrs["dim"]])
            return size, size
        if value.name in self.state and value.is_leaf:
            held = self.state[value.name]
            lowest, highest = held.aminmax() if held.numel() else (0, 0)
            return float(lowest), float(highest)
        if value.op.name in PARTS or value.op.name == "cast":
            parts = [known for arg in value.inputs if (known := self.known(arg)) is not None]
            if parts and len(parts) == len(value.inputs):
                return min(low for low, _ in parts), max(high for _, high in parts)
        return None


def _same_of(*places: int) -> Callable[[Ranges, Value, Range], None]:
    """For an op that gives one of these arguments, or a number between them: all of them lie in the range."""

    def ask(ranges: Ranges, value: Value, wanted: Range) -> None:
        for place in places:
            arg = value.args[place]
            if arg is not None:
                ranges.ask(arg, wanted)

    return ask


def _add(ranges: Ranges, value: Value, wanted: Range) -> None:
    a, b = value.inputs
    of_a, of_b = ranges.known(a), ranges.known(b)
    if of_b is not None:
        ranges.ask(a, (wanted[0] - of_b[0], wanted[1] - of_b[1]))
    elif of_a is not None:
        ranges.ask(b, (wanted[0] - of_a[0], wanted[1] - of_a[1]))
    else:
        for arg in (a, b):
            ranges.ask(arg, (math.ceil(wanted[0] / 2), math.floor(wanted[1] / 2)))


def _sub(ranges: Ranges, value: Value, wanted: Range) -> None:
    a, b = value.inputs
    of_a, of_b = ranges.known(a), ranges.known(b)
    if of_b is not None:
        ranges.ask(a, (wanted[0] + of_b[1], wanted[1] + of_b[0]))
    elif of_a is not None:
        ranges.ask(b, (of_a[1] - wanted[1], of_a[0] - wanted[0]))


def _mul(ranges: Ranges, value: Value, wanted: Range) -> None:
    for arg, other in (value.inputs, value.inputs[::-1]):
        if (factor := ranges.known(other)) is not None and factor[0] == factor[1] > 0:
            ranges.ask(arg, (math.ceil(wanted[0] / factor[0]), math.floor(wanted[1] / factor[0])))
            return


def _div(ranges: Ranges, value: Value, wanted: Range) -> None:
    arg, other = value.inputs
    if (divisor := ranges.known(other)) is not None and divisor[0] == divisor[1] > 0:
        ranges.ask(arg, (wanted[0] * divisor[0], wanted[1] * divisor[0]))


def _neg(ranges: Ranges, value: Value, wanted: Range) -> None:
    ranges.ask(value.inputs[0], (-wanted[1], -wanted[0]))


BACKWARDS: Mapping[str, Callable[[Ranges, Value, Range], None]] = {
    "cast": _same_of(0),
    "copy": _same_of(0),
    "floor": _same_of(0),
    "abs": _same_of(0),
    "clamp": _same_of(0),
    "where": _same_of(1, 2),
    "maximum": _same_of(0, 1),
    "minimum": _same_of(0, 1),
    "max": _same_of(0),
    "min": _same_of(0),
    "neg": _neg,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
}
"""What is asked of the arguments of an op, so that its result lies in a range."""
