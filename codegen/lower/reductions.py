"""Reductions: along the rows of a tile, over all rows into partial sums, and of these into the result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import int32

from ..analysis.axes import Space
from ..analysis.idioms import largest_of
from ..analysis.moments import Moments
from ..analysis.units import PARTIAL, Unit
from ..analysis.views import cone_of, needs_kernel
from ..cost.traffic import compute_dtype
from ..plan.launches import KernelPlan
from ..support.facets import Axis, identity_of
from ..support.names import uncounted
from .arithmetic import dtype_of
from .builder import Builder
from .functions import REPLICATED_SUM
from .layout import cut_axes
from .loads import resolve
from .tile_ir import COL, ROW, SCALAR, TILE, Step


def reduce_rows(builder: Builder, value: Value) -> None:
    """A reduction along each row of the tile, or of its only row."""
    layout = builder.layout
    wanted = TILE if layout.rows and layout.cols else COL
    arg = builder.broadcast(resolve(builder, value.inputs[0]), wanted)
    extent = ROW if layout.rows else SCALAR
    attrs: dict[str, Any] = {"axis": Axis(0) if layout.is_flat else Axis(1, keeps=True)}
    attrs |= builder.mask_attrs(value.op.name, arg, rows=False)
    step = Step("", value.op.name, (arg.name,), extent, dtype_of(value, [arg]), attrs)
    place = _place_of(builder, value)
    if place is None:
        builder.assign(value, step)
        return
    attrs["place"] = builder.claim(place, "place")
    made = builder.assign(value, step)
    found = Step(attrs["place"], "place", (made.name,), ROW, int32, {}, True, place.scope, place)
    builder.steps[place] = builder.add(found)


def _place_of(builder: Builder, largest: Value) -> Value | None:
    """The place of a maximum in its row, where that is asked for too: both come of one reduction."""
    if not builder.layout.traversal.is_one_row:
        return None
    found = [v for v in builder.plan.values if largest_of(builder.row, v) is largest]
    return found[-1] if found else None


def accumulate(builder: Builder, value: Value) -> None:
    """A sum over all rows, of which each program leaves its part."""
    moments = builder.moments.get(value)
    if moments is not None:
        if value is moments.deviations:
            _gather(builder, moments)
        return
    (source,) = value.inputs
    layout = builder.layout
    arg = resolve(builder, source)
    have_cols = bool(builder.axes.of(source) & frozenset(layout.cols))
    keeps_cols = bool(builder.axes.of(value))
    arg = builder.broadcast(arg, (TILE if have_cols else ROW) if layout.cols else ROW)
    if layout.is_flat:
        axis = Axis(0)
    elif keeps_cols:
        axis = Axis(0, keeps=True)
    else:
        axis = Axis(None)
    attrs: dict[str, Any] = {"axis": axis, "reduction": value.op.name, "both": have_cols and not keeps_cols}
    # A sum of whole tiles must leave out what lies behind the columns too, where no row is missing.
    over_cols_alone = attrs["both"] and not layout.masks_rows
    attrs |= builder.mask_attrs(value.op.name, arg, rows=not over_cols_alone)
    # Rows are counted with 64 bits: what is taken of their numbers has these too.
    dtype = arg.dtype if arg.dtype.is_float else value.dtype
    attrs["identity"] = identity_of(value.op.name, arg.dtype)
    attrs["pointer"] = builder.partial(value, "partial out", dtype).name
    attrs["columns"] = keeps_cols
    attrs["address"] = builder.address(value)
    name = builder.claim(value, builder.described(value.op.name, [arg.name]))
    extent = COL if keeps_cols else SCALAR
    given = MappingProxyType(attrs)
    builder.add(Step(name, "accumulate", (arg.name,), extent, dtype, given, True, value.scope, value))


def _gather(builder: Builder, moments: Moments) -> None:
    """The moments of all rows, of which each program leaves those of its own."""
    value = moments.deviations
    arg = builder.broadcast(resolve(builder, moments.x), TILE)
    total = next(s.name for s in builder.ordered if s.value is moments.total and s.op == "accumulate")
    attrs: dict[str, Any] = {**builder.moments_left(moments, "partial out", arg.dtype), "both": False}
    attrs |= builder.mask_attrs("sum", arg, rows=True) | {"address": builder.address(value), "pointer": attrs["means"]}
    name = builder.claim(value, builder.described("moments", [arg.name]))
    given = MappingProxyType(attrs)
    builder.add(Step(name, "moments", (arg.name, total), COL, arg.dtype, given, True, value.scope, value))


def finalize(builder: Builder, value: Value) -> None:
    """A sum over all rows, of the parts that programs left."""
    dtype = compute_dtype(value.dtype)
    moments = builder.moments.get(value)
    if moments is not None:
        about = resolve(builder, moments.about).name
        power = 1 if value is moments.deviations else 2
        attrs: dict[str, Any] = {**builder.moments_left(moments, "partial in", dtype), "power": power}
        attrs |= {"reduction": "sum", "identity": identity_of("sum", dtype), "address": builder.address(value)}
        given = MappingProxyType(attrs)
        step = Step(builder.name_of(value), "deviations", (about,), ROW, dtype, given, True, value.scope, value)
        builder.hold(value, step)
        return
    attrs = {
        "reduction": value.op.name,
        "pointer": builder.partial(value, "partial in", dtype).name,
        "identity": identity_of(value.op.name, dtype),
        "address": builder.address(value),
    }
    extent = ROW if builder.layout.rows else SCALAR
    given = MappingProxyType(attrs)
    step = Step(builder.name_of(value), "finalize", (), extent, dtype, given, True, value.scope, value)
    builder.hold(value, step)


def replicate(builder: Builder, value: Value) -> None:
    """A replicated sum, as a kernel that every program runs over all rows and that leaves no partial sums."""
    members, leaves = cone_of(value)
    units = (*(Unit(m) for m in members if needs_kernel(m)), Unit(value, PARTIAL))
    rows = tuple(a for a in builder.axes.labels[value.inputs[0]] if a is not None)
    space = Space(rows, (), accumulates=True)
    storage = {leaf: leaf.dtype for leaf in leaves}
    name = builder.function_name(f"replicated_{_told_apart(value, builder.units.replicated)}")
    plan = KernelPlan(
        name=name, kind="column", units=units, loads=leaves, stores=(), storage=storage, partials=(value,), space=space,
        rounded=builder.plan.rounded,
    )  # fmt: skip
    kernel = builder.part(plan, cut_axes(builder.axes, plan, REPLICATED_SUM))
    step = next(s for s in kernel.steps if s.op == "accumulate")
    parameters = tuple(p for p in kernel.parameters if p.role != "partial out")
    builder.replicated_sums.append(replace(kernel, parameters=parameters, returned=(step.name,)))
    attrs = MappingProxyType({"function": kernel.name})
    made = Step(builder.name_of(value), "replicated", (), SCALAR, step.dtype, attrs, True, value.scope, value)
    builder.hold(value, made)


def _told_apart(value: Value, others: Iterable[Value]) -> str:
    """A name for a replicated sum that is its own: all kernels that take the sum call the same function."""
    short = uncounted(value)
    return value.name if any(o is not value and uncounted(o) == short for o in others) else short
