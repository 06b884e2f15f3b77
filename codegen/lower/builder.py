"""A tile program while it is built: its steps, the arguments they need, and the names of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.numbers import is_exact
from tritonnotes.ir.core.types import Dim, DType, Shape, dims_in, int32, int64

from ..analysis.idioms import RowValues
from ..analysis.moments import Moments
from ..analysis.units import OPERAND, PARTIAL, Units
from ..analysis.views import Place, base_of, memory_of, place_of
from ..plan.launches import KernelPlan
from ..support.facets import identity_of
from ..support.names import LaunchNames, Names, describe, identifier, uncounted
from .index_math import Indexing
from .inline import with_operands, with_replicated_sums
from .tile_ir import COL, ROW, SCALAR, TILE, Address, Kernel, Layout, Parameter, Step


class Builder:
    """Collects the steps of one kernel.

    `destinations` say where a value is stored that belongs to other memory; memories have their own names, or what they
    are `called`. `part` makes the tile program of another kernel that this one calls, from its plan and layout.
    """

    def __init__(
        self,
        units: Units,
        plan: KernelPlan,
        layout: Layout,
        destinations: Mapping[Value, Value],
        called: Mapping[Value, str],
        part: Callable[[KernelPlan, Layout], Kernel],
    ) -> None:
        self.units = units
        self.axes = units.axes
        self.plan = plan
        self.layout = layout
        self.row = RowValues(units.axes, frozenset(layout.cols))
        self.destinations = destinations
        self.called = called
        self.part = part
        self.moments = {u.value: u.moments for u in plan.units if u.moments is not None}
        self.computed = {u.value for u in plan.units if u.part != PARTIAL} | set(plan.recomputed)
        self.values = self._of_whole_tiles()
        self.read_here = {base_of(a) for v in self.values for a in v.inputs}
        self.read_here |= {moments.x for moments in self.moments.values()}
        self.names = Names()
        self.names.taken.add(plan.name)
        self.functions: set[str] = set()
        self.parameters: dict[tuple[str, Value | str], Parameter] = {}
        self.steps: dict[Value, Step] = {}
        self.ordered: list[Step] = []
        self.memory_names: dict[Value, str] = {}
        self.replicated_sums: list[Kernel] = []
        self.prologue: list[Kernel] = []
        self.operands: dict[tuple[Value, Address], Step] = {}
        self.inner = ""
        self._claim_memory_names()

    def kernel(self) -> Kernel:
        """The tile program, with the sizes that it needs as arguments."""
        self._needed_sizes()
        parameters = sorted(self.parameters.values(), key=Parameter.place)
        made = Kernel(self.plan, self.layout, tuple(parameters), tuple(self.ordered), self.axes)
        used = Indexing(made).names() | {s.name for s in self.ordered if s.op == "argument"}
        kept = tuple(p for p in made.parameters if p.role != "size" or p.name in used)
        return with_operands(with_replicated_sums(replace(made, parameters=kept), self.replicated_sums), self.prologue)

    def _of_whole_tiles(self) -> tuple[Value, ...]:
        """The values that are computed of a whole tile, in order: not those that only operands are made of."""
        if not self.plan.products:
            return self.plan.values
        needed: set[Value] = set()
        todo = [u.value for u in self.plan.units if u.part != OPERAND]
        while todo:
            value = todo.pop()
            if value not in needed:
                needed.add(value)
                is_product = any(value is p for p in self.plan.products)
                todo += () if is_product else [s for s in map(base_of, value.inputs) if s in self.computed]
        return tuple(v for v in self.plan.values if v in needed)

    # -- names --

    def _claim_memory_names(self) -> None:
        """Arguments first: their names are the users' own."""
        memories = [memory_of(v) for v in self.plan.loads] + [self.destinations.get(v, v) for v in self.plan.stores]
        for memory in memories:
            if memory not in self.memory_names:
                self.memory_names[memory] = self.claim(memory)

    def claim(self, value: Value, described: str = "") -> str:
        """A free name for a value: its author's own, else what it is `described` as."""
        hint = value.hint or ""
        scope = identifier(value.scope.name)
        whole = uncounted(value)
        if value.is_leaf or value in self.called:
            return self.names.claim(self.called.get(value, ""), whole)
        scoped = f"{scope}_{hint}" if hint and scope and scope != hint else ""
        return self.names.claim(hint, scoped, described, whole)

    def function_name(self, name: str) -> str:
        """A free name for a function that the kernel calls."""
        made = LaunchNames(self.units.graph, self.functions).claim(identifier(name))
        self.functions.add(made)
        self.names.taken.add(made)
        return made

    def name_of(self, value: Value) -> str:
        """The name of the memory that a value lies in, or a free one."""
        return self.memory_names.get(value) or self.claim(value)

    def described(self, op: str, args: Iterable[str]) -> str:
        """What an operation on steps is, as a name; empty if it would be long."""
        return describe(op, [self._text(a) for a in args])

    def _text(self, name: str) -> str:
        step = next(s for s in self.ordered if s.name == name)
        return str(step.attrs["number"]) if step.op == "number" else name

    # -- steps --

    def add(self, step: Step) -> Step:
        self.ordered.append(step)
        return step

    def assign(self, value: Value, step: Step) -> Step:
        """Add a step that computes a value, by a name that fits it."""
        described = self.described(step.op, step.args)
        if value in self.memory_names:
            name = self.memory_names[value]
        else:
            name = self.claim(value, described) if value.hint else self.names.claim(described, uncounted(value))
        attrs = MappingProxyType(dict(step.attrs))
        is_named = value.hint is not None
        named = replace(step, name=name, attrs=attrs, is_named=is_named, scope=value.scope, value=value)
        return self.hold(value, named)

    def hold(self, value: Value, step: Step) -> Step:
        """Add the step that has a value. What memory has with 16 bits is rounded here, if anything here reads it."""
        is_read = value in self.plan.rounded and value in self.read_here
        if is_read and value.op.name not in EXTREMA and not self.is_rounded(step, value.dtype):
            raw = self.add(replace(step, name=self.names.claim(f"{step.name}_unrounded"), is_named=False))
            attrs = MappingProxyType({"rounds": value.dtype})
            step = replace(step, op="round_to", args=(raw.name,), attrs=attrs)
        self.steps[value] = self.add(step)
        return step

    def has_rounded(self, value: Value, step: Step, dtype: DType) -> bool:
        """Whether a value, which a step has, is at numbers of a dtype of 16 bits."""
        return (base_of(value) in self.plan.rounded and value.dtype is dtype) or self.is_rounded(step, dtype)

    def is_rounded(self, step: Step, dtype: DType) -> bool:
        """Whether a step has no more digits than a dtype of 16 bits."""
        if step.op in _SELECTING:
            args = step.args[step.op == "where" :]
            return all(self.is_rounded(next(s for s in self.ordered if s.name == a), dtype) for a in args)
        if step.op == "number":
            return is_exact(step.attrs["value"], dtype)
        return dtype in (step.attrs.get("rounds"), step.attrs.get("storage"))

    def broadcast(self, step: Step, extent: str) -> Step:
        """A step repeated to the extent that a reduction runs over, where it has another."""
        if step.extent == extent:
            return step
        name = self.names.claim(f"{step.name}_repeated" if step.name.isidentifier() else "repeated")
        return self.add(Step(name, "repeat", (step.name,), extent, step.dtype, {}, True, step.scope, step.value))

    def extent_of(self, axes: frozenset[int]) -> str:
        """Which of the tile's axes a step has that has these."""
        has_rows = bool(axes & frozenset(self.layout.rows))
        has_cols = bool(axes & frozenset(self.layout.cols))
        return {(True, True): TILE, (True, False): ROW, (False, True): COL, (False, False): SCALAR}[has_rows, has_cols]

    def mask_attrs(self, op: str, arg: Step, rows: bool) -> dict[str, Any]:
        """Lanes outside the tensor must not reach a reduction: they take its identity."""
        lanes_outside = self.layout.masks_rows if rows else self.layout.masks_cols
        if not lanes_outside:
            return {}
        return {"masked": True, "identity": identity_of(op, arg.dtype), "mask": "row" if rows else "col"}

    # -- arguments --

    def parameter(self, key: tuple[str, Value | str], name: str, role: str, value: Value, dtype: DType) -> Parameter:
        """The argument of this key, which may be read and written."""
        have = self.parameters.get(key)
        if have is None:
            self.parameters[key] = have = Parameter(name, role, value, dtype)
        elif {have.role, role} == {"in", "out"}:
            self.parameters[key] = have = Parameter(have.name, "inout", value, dtype)
        return have

    def partial(self, value: Value, role: str, dtype: DType) -> Parameter:
        """The argument for the partial sums of a value."""
        stem = uncounted(value)
        memory = self.names.claim(f"{value.hint or stem}_partial", f"{stem}_partial")
        return self.parameter(("partial", value), f"{memory}_ptr", role, value, dtype)

    def moments_left(self, moments: Moments, role: str, dtype: DType) -> dict[str, str]:
        """The arguments for what programs leave of moments: of each column its sum, what the mean has lost to rounding
        and the squares, and once how many rows they are of."""
        left = {"totals": moments.total, "means": moments.deviations, "squares": moments.squares}
        found = {what: self.partial(value, role, dtype).name for what, value in left.items()}
        key, stem = ("rows", moments.deviations), uncounted(moments.deviations)
        if key not in self.parameters:
            name = f"{self.names.claim(f'{stem}_rows')}_ptr"
            self.parameters[key] = Parameter(name, role, moments.deviations, int32, of_rows=True)
        return {**found, "rows": self.parameters[key].name}

    def size_parameter(self, dim: Dim) -> Parameter:
        key = ("size", dim.name)
        if key not in self.parameters:
            name = self.names.claim(dim.name)
            self.parameters[key] = Parameter(name, "size", None, int64, (dim,))
        return self.parameters[key]

    def address(self, value: Value, place: Place | None = None) -> Address:
        """The address of a value's elements in the memory where it lies, or in another `place`."""
        place = place or place_of(value)
        labels = self.axes.labels[value]
        dims = [(axis, behind(place.shape, i), place.starts[i]) for i, axis in enumerate(labels) if axis is not None]
        # An axis of which one element is left is not iterated, but counts from where that element lies.
        fixed = [
            (-1, behind(place.shape, i), place.starts[i])
            for i, axis in enumerate(labels)
            if axis is None and place.starts[i]
        ]
        return Address((*dims, *fixed), place.shape)

    def _needed_sizes(self) -> None:
        """The sizes that grid, masks and offsets are made of."""
        shapes = [self.layout.row_shape, self.layout.col_shape]
        for step in self.ordered:
            address = step.attrs.get("address")
            if address is not None:
                shapes.append(address.shape[0 if step.op in ("take_rows", "operand") else 1 :])
        for dim in (dim for shape in shapes for dim in dims_in(shape)):
            self.size_parameter(dim)


EXTREMA = ("max", "min")
"""Where these are rounded, what they are taken of is."""


_SELECTING = frozenset({"copy", "neg", "abs", "where", "maximum", "minimum", "max", "min", "repeat"})
"""What gives only numbers that its arguments have, or their negatives."""


def behind(shape: Shape, axis: int) -> Shape:
    """The sizes behind an axis in memory; those of 1 move nothing."""
    return tuple(size for size in shape[axis + 1 :] if size != 1)
