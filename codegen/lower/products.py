"""Matrix products, tile by tile, and the operands that a kernel computes for itself."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import dims_in, float32, int32

from ..analysis.axes import Labels, Space
from ..analysis.matmul import Operand, is_ragged, operands, summed, summed_with
from ..analysis.units import OPERAND, Unit
from ..analysis.views import base_of, is_free, is_host, memory_of, operand_cone
from ..support.names import uncounted
from .builder import Builder
from .functions import MATMUL_OPERAND
from .layout import cut_axes
from .loads import memory_parameter
from .tile_ir import ROW, TILE, Address, Parameter, Step


def multiply(builder: Builder, value: Value) -> None:
    """A matrix product, tile by tile: its operands are read from memory along the axis that is summed over."""
    others = (v for v in builder.values if v.op.kind != "contraction")
    plainly = {memory_of(a) for v in others for a in v.inputs}
    args = [_operand(builder, operand, plainly) for operand in operands(builder.axes, value)]
    builder.inner = builder.inner or builder.names.claim("inner")
    attrs: dict[str, Any] = {"summed": summed(value), "inner": builder.inner}
    if builder.layout.split_k:
        attrs |= _split_attrs(builder, value)
    for dim in dims_in(summed(value)):
        builder.size_parameter(dim)
    args.sort(key=lambda step: step.extent != ROW)
    builder.assign(value, Step("", "product", tuple(a.name for a in args), TILE, float32, attrs))


def _split_attrs(builder: Builder, value: Value) -> dict[str, Any]:
    """Where programs that share the sum leave their parts, and count themselves."""
    name = builder.names.claim(f"{value.hint or uncounted(value)}_split_k")
    pointer = builder.parameter(("partial", value), f"{name}_ptr", "partial out", value, float32).name
    builder.parameters["arrivals", value] = Parameter("arrivals_ptr", "arrivals", None, int32)
    return {"pointer": pointer, "arrivals": "arrivals_ptr", "address": builder.address(value)}


def _operand(builder: Builder, operand: Operand, plainly: set[Value]) -> Step:
    """One side of a product: computed here, or loaded, by a name of its own where its memory is read otherwise too."""
    memory = memory_of(operand.value)
    if memory in builder.computed:
        return _fuse_prologue(builder, operand)
    address = Address(tuple((axis, behind, 0) for axis, behind in operand.dims), operand.shape)
    known = builder.operands.get((memory, address))
    if known is not None:
        return known
    parameter, storage = memory_parameter(builder, memory), builder.plan.storage[memory]
    attrs = {"pointer": parameter.name, "address": address, "storage": storage, "behind": operand.behind}
    extent = builder.extent_of(frozenset(axis for axis, _ in operand.dims))
    name = builder.memory_names[memory]
    if memory in plainly or any(m is memory for m, _ in builder.operands):
        name = builder.names.claim(f"{name}_{'rows' if extent == ROW else 'columns'}")
    step = builder.add(Step(name, "operand", (), extent, storage, MappingProxyType(attrs), True, value=memory))
    builder.operands[memory, address] = step
    return step


def _fuse_prologue(builder: Builder, operand: Operand) -> Step:
    """An operand that is computed here, block by block: a function of the rows and columns of a block."""
    value = operand.value
    rows, cols = (tuple(a for a in some if a is not None) for some in _ends(builder.axes.labels[value]))
    members = operand_cone(value, builder.computed)
    loads = dict.fromkeys(
        s
        for v in members
        for s in map(base_of, v.inputs)
        if s not in set(members) and not is_free(s) and not is_host(s)
    )
    name = builder.function_name(f"tile_{uncounted(value)}_{builder.plan.name}")
    plan = replace(
        builder.plan, name=name, kind="elementwise", units=tuple(Unit(v, OPERAND) for v in members), recomputed=(),
        space=Space(rows, cols), loads=tuple(loads), stores=(), partials=(), finalizes=(),
        loop_reads=None, split_k=0,
    )  # fmt: skip
    extent = builder.extent_of(frozenset(axis for axis, _ in operand.dims))
    mine = builder.layout.masks_rows if extent == ROW else builder.layout.masks_cols
    along = is_ragged(summed_with(operand, builder.plan.products))
    masks_rows, masks_cols = (mine, along) if not operand.behind else (along, mine)
    layout = replace(cut_axes(builder.axes, plan, MATMUL_OPERAND), masks_rows=masks_rows, masks_cols=masks_cols)
    kernel = builder.part(plan, layout)
    builder.prologue.append(replace(kernel, returned=(kernel.steps[-1].name,)))
    attrs = MappingProxyType({"function": name, "leading": bool(operand.behind)})
    return builder.add(
        Step(builder.name_of(value), "operand", (), extent, value.dtype, attrs, True, value.scope, value)
    )


def _ends(labels: Labels) -> tuple[Labels, Labels]:
    """The axes of a matrix's rows, and of its columns."""
    return labels[:-1], labels[-1:]
