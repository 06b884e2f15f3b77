"""Elementwise primitives, the dtypes that kernels compute in, and what a program does otherwise that holds a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, bool_, int32, int64

from ..analysis.idioms import SOFTMAX, match, selected_of
from ..analysis.views import base_of
from ..cost.traffic import compute_dtype
from .builder import Builder
from .loads import resolve
from .tile_ir import COL, ROW, SCALAR, TILE, Address, Step

KEEPS_INT32 = ("where", "min", "max", "maximum", "minimum", "copy")
"""What gives int32 of int32, as indices are in a kernel, where the graph has int64."""

ARITHMETIC, INDEXING = ("add", "sub", "mul", "pow"), ("argmax", "argmin")
"""What may leave int32, and the ops whose own arithmetic does not: it gives places in a tensor."""


def compute(builder: Builder, value: Value) -> None:
    """An elementwise primitive, on as much of the tile as its arguments have."""
    args = [resolve(builder, a) for a in value.inputs]
    dtype = dtype_of(value, args)
    if value.dtype is int64 and dtype is int64 and value.op.name in ARITHMETIC:
        args = [_widened(builder, a) if a.dtype is int32 and a.op != "number" else a for a in args]
    extent = _join(a.extent for a in args)
    op, attrs = value.op.name, dict[str, Any]()
    if op == "round_to":
        # What is wider than 16 bits is computed in its own dtype.
        is_done = dtype is value.dtype or builder.has_rounded(value.inputs[0], args[0], value.dtype)
        op, attrs = ("cast", {}) if is_done else ("round_to", {"rounds": value.dtype})
    builder.assign(value, Step("", op, tuple(a.name for a in args), extent, dtype, attrs))


def _widened(builder: Builder, step: Step) -> Step:
    """An index as int64, as the graph has it."""
    name = builder.names.claim(f"{step.name}_wide")
    return builder.add(Step(name, "cast", (step.name,), step.extent, int64, {}, False, step.scope, step.value))


def dtype_of(value: Value, args: Sequence[Step]) -> DType:
    """What a primitive of these steps is computed in."""
    dtype = compute_dtype(value.dtype)
    keeps = value.op.name in KEEPS_INT32 or (value.op.name in ARITHMETIC and value.scope.op in INDEXING)
    if dtype is not int64 or not keeps:
        return dtype
    strong = [a.dtype for a in args if (a.op != "number" or a.dtype is int32) and a.dtype is not bool_]
    # Indices are int32 in a kernel, and so is what is chosen among them.
    return int32 if strong and all(d is int32 for d in strong) else int64


def _join(extents: Iterable[str]) -> str:
    known = set(extents)
    if TILE in known or {ROW, COL} <= known:
        return TILE
    return ROW if ROW in known else COL if COL in known else SCALAR


def exponentiate_again(builder: Builder, value: Value) -> bool:
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
    dtype = builder.steps[exponential].dtype
    less = builder.add(Step(name, "sub", args, TILE, dtype, {}, False, value.scope, value))
    builder.assign(value, Step("", "exp", (less.name,), TILE, less.dtype))
    return True


def select(builder: Builder, value: Value) -> bool:
    """Where a maximum is that over a single column of a row in memory, load that element: alone, or less a number of
    the row."""
    found = selected_of(builder.row, value, builder.computed)
    if found is None:
        return False
    load = resolve(builder, found.x)
    address = load.attrs["address"]
    attrs = MappingProxyType({**load.attrs, "address": _of_first(address, builder.row.wide)})
    row = resolve(builder, found.number)
    step = Step("", "select", (row.name,), ROW, load.dtype, attrs, scope=value.scope, value=value)
    if found.less is None:
        builder.assign(value, step)
        return True
    name = builder.names.claim(f"{load.name}_at_{row.name}")
    selected = builder.add(replace(step, name=name, is_named=False))
    builder.assign(value, Step("", "sub", (selected.name, resolve(builder, found.less).name), ROW, load.dtype))
    return True


def _of_first(address: Address, wide: Collection[int]) -> Address:
    """The address of the first element of each row: where a part of a tensor begins stays in it."""
    kept = ((-1 if axis in wide else axis, behind, start) for axis, behind, start in address.dims)
    return Address(tuple(d for d in kept if d[0] >= 0 or d[2]), address.shape)


ROW_IDIOMS = (select, exponentiate_again)
"""What a program does otherwise that holds one whole row: it loads what it selects, and keeps no exponentials. Each
computes a value, or says that it cannot."""


LOOP_IDIOMS = (select,)
"""What a program does otherwise that loops along its rows: a loop for one element of each would read all of them."""


def needed(steps: Sequence[Step]) -> list[Step]:
    """The steps that what leaves the kernel is made of."""
    found: set[str] = set()
    for step in reversed(steps):
        if step.op in ("store", "accumulate") or step.name in found:
            found |= {step.name, *step.args}
    return [s for s in steps if s.name in found]
