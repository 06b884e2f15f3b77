"""What a program does otherwise that holds one whole row: it loads what it selects, and keeps no exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from tritonnotes.ir.core.graph import Value

from ..analysis.idioms import SOFTMAX, match, selected_of
from ..analysis.views import base_of
from .builder import Builder
from .loads import resolve
from .tile.tile_ir import ROW, TILE, Address, Step


def exponentiate_anew(builder: Builder, value: Value) -> bool:
    """eˣ / Σ eˣ as eˣ⁻ˡ, where l = ln Σ eˣ is known: the exponentials of the sum need not be kept for it."""
    found = match(SOFTMAX, value, builder.row)
    if found is None:
        return False
    exponential, total = found["exponential"], found["total"]
    log = next((v for v in builder.steps if v.op.name == "log" and base_of(v.inputs[0]) is total), None)
    if log is None or exponential not in builder.computed:
        return False
    args = resolve(builder, exponential.inputs[0]).name, builder.steps[log].name
    name = builder.names.claim(f"{args[0]}_less_{args[1]}")
    less = builder.add(Step(name, "sub", args, TILE, builder.steps[exponential].dtype, {}, False, value.scope))
    builder.assign(value, Step("", "exp", (less.name,), TILE, less.dtype))
    return True


def select(builder: Builder, value: Value) -> bool:
    """Where a maximum is that over a single column of a row in memory, load that element: alone, or less a number of
    the row."""
    found = selected_of(builder.row, value)
    if found is None:
        return False
    x, number = found
    less = None
    if x in builder.computed and x.op.name == "sub" and not builder.row.is_wide(x.inputs[1]):
        x, less = base_of(x.inputs[0]), x.inputs[1]
    load = resolve(builder, x) if x not in builder.computed else None
    if load is None or load.op != "load" or load.extent != TILE:
        return False
    if builder.axes.labels[x][-1:] != builder.layout.cols:
        return False
    address = load.attrs["address"]
    rows = Address(tuple(d for d in address.dims if d[0] not in builder.row.wide), address.shape)
    attrs = MappingProxyType({**load.attrs, "address": rows})
    row = resolve(builder, number)
    step = Step("", "select", (row.name,), ROW, load.dtype, attrs, scope=value.scope)
    if less is None:
        builder.assign(value, step)
        return True
    name = builder.names.claim(f"{load.name}_at_{row.name}")
    selected = builder.add(replace(step, name=name, is_named=False))
    builder.assign(value, Step("", "sub", (selected.name, resolve(builder, less).name), ROW, load.dtype))
    return True


IDIOMS = (select, exponentiate_anew)
"""Each computes a value otherwise, or says that it cannot."""


def needed(steps: Sequence[Step]) -> list[Step]:
    """The steps that what leaves the kernel is made of."""
    found: set[str] = set()
    for step in reversed(steps):
        if step.op in ("store", "accumulate") or step.name in found:
            found |= {step.name, *step.args}
    return [s for s in steps if s.name in found]
