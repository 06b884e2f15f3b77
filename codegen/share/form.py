"""What a kernel does, whatever it and its variables are called: kernels of one form can share one function.

A form has the names apart, in the order in which they are met, so that the names of two kernels of one form lie side
by side.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.tile_ir import Address, Kernel, Layout, Parameter, Step, spoken_name

POINTER = "_ptr"

NAMES = ("pointer", "arrivals", "inner", "seed", "place", "totals", "means", "squares", "rows")
"""Attributes of steps that name an argument or a variable."""


@dataclass(frozen=True)
class Form:
    """What a tile program does. `key` is equal for two that do the same. `stems` are the names of its variables,
    pointers without their ending, `ops` the instances of ops that it speaks of, `parts` the forms of what it calls."""

    key: Hashable
    stems: tuple[str, ...]
    ops: tuple[str, ...]
    parts: tuple[Form, ...] = ()


class _Numbers:
    """Numbers things by the order in which they are met."""

    def __init__(self) -> None:
        self.met: dict[Any, int] = {}

    def of(self, thing: Any) -> int:
        return self.met.setdefault(thing, len(self.met))


def stem_of(name: str) -> str:
    """What a pointer and the variable that is loaded from it have in common."""
    return name.removesuffix(POINTER)


def form_of(kernel: Kernel) -> Form:
    """The form of a tile program. All that its text is made of is in it: its layout, arguments, steps and what it
    calls. Of the plan that is the ops that it names."""
    counts = len(kernel.replicated_sums), len(kernel.operands), len(kernel.last_block)
    parts = tuple(form_of(part.kernel) for part in kernel.called)
    reader = _Reader(kernel)
    key = (
        kernel.kind,
        kernel.plan.tile,
        reader.layout(kernel.layout),
        tuple(map(reader.parameter, kernel.parameters)),
        tuple(map(reader.step, kernel.steps)),
        tuple(map(reader.name, kernel.returned)),
        tuple(tuple(map(reader.name, part.arguments)) for part in kernel.called),
        tuple(reader.covered()),
        counts,
        tuple(part.key for part in parts),
    )
    return Form(key, tuple(reader.names.met), tuple(reader.ops.met), parts)


def form_of_group(kernel: GroupedMatmulKernel, members: Iterable[Form]) -> Hashable:
    """What is equal for launches of several products that do the same."""
    places = {p.name: place for place, p in enumerate(kernel.parameters)}
    return (
        tuple((p.role, p.dtype, p.size) for p in kernel.parameters),
        tuple(tuple(places[name] for name in member.arguments) for member in kernel.members),
        tuple(form.key for form in members),
    )


class _Reader:
    """Reads one tile program. Functions that it calls are numbered by their place, axes by where they are met."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.functions = {part.kernel.name: place for place, part in enumerate(kernel.called)}
        self.names, self.ops, self.axes = _Numbers(), _Numbers(), _Numbers()

    def name(self, name: str) -> tuple[int, bool]:
        return self.names.of(stem_of(name)), name.endswith(POINTER)

    def axis(self, axis: int) -> Hashable:
        return axis if axis < 0 else (self.axes.of(axis), self.kernel.axes.sizes[axis])

    def layout(self, layout: Layout) -> Hashable:
        known = tuple(getattr(layout, f.name) for f in fields(layout) if f.name not in ("rows", "cols"))
        return tuple(map(self.axis, layout.rows)), tuple(map(self.axis, layout.cols)), known

    def parameter(self, parameter: Parameter) -> Hashable:
        return self.name(parameter.name), parameter.role, parameter.dtype, parameter.size

    def step(self, step: Step) -> Hashable:
        scope = step.scope
        said = scope and (self.ops.of(scope.name), scope.op, scope.formula, scope.derivative, scope.phase)
        attrs = tuple((name, self.attribute(name, value)) for name, value in step.attrs.items())
        args = tuple(map(self.name, step.args))
        return self.name(step.name), step.op, args, step.extent, step.dtype, attrs, step.is_named, said

    def attribute(self, name: str, value: Any) -> Hashable:
        if isinstance(value, Address):
            dims = tuple((self.axis(axis), behind, start) for axis, behind, start in value.dims)
            return dims, value.shape
        if name == "of_axis":
            return self.axis(value)
        if name == "function":
            return self.functions[value]
        if name in NAMES:
            return self.name(value)
        # 0.0 and -0.0 are equal, and so are 1 and True; they are not written alike.
        return value, repr(value)

    def covered(self) -> Iterable[Hashable]:
        """The ops that the function says it computes."""
        for piece in self.kernel.pieces:
            for value in (u.value for u in piece.units):
                yield self.ops.of(spoken_name(value)), value.scope.op, value.scope.phase
            yield from ((self.ops.of(spoken_name(v)), v.op.kind) for v in piece.recomputed)
