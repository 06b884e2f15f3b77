"""Where the steps of a kernel take values from: numbers, indices, random numbers, arguments and memory."""

from __future__ import annotations

from types import MappingProxyType

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Dim, DType, float32, float64, host, int32, int64

from ..analysis.views import is_drawn, is_number, is_view, memory_of
from ..cost.traffic import compute_dtype
from ..support.expressions import ZERO, number
from ..support.names import describe, identifier, uncounted
from .builder import Builder, behind
from .tile_ir import COL, ROW, SCALAR, Address, Parameter, Step


def resolve(builder: Builder, value: Value) -> Step:
    """The step that holds a value: computed here, a number, an index, an argument, or loaded."""
    if value in builder.steps:
        return builder.steps[value]
    if is_number(value):
        return _number(builder, memory_of(value))
    if value.op.name == "iota":
        return _index(builder, value)
    if is_drawn(value):
        return _draw(builder, value)
    if value.dtype is host:
        return _argument(builder, value)
    if is_view(value):
        builder.steps[value] = found = resolve(builder, value.inputs[0])
        return found
    return _load(builder, value)


def _number(builder: Builder, value: Value) -> Step:
    dtype = value.dtype if value.dtype is not host else float32
    written = number(value.attrs["value"])
    attrs = MappingProxyType({"number": written, "value": value.attrs["value"]})
    name = f"number {written} {dtype}"
    found = next((s for s in builder.ordered if s.name == name), None)
    return found or builder.add(Step(name, "number", (), SCALAR, compute_dtype(dtype), attrs, False))


def _index(builder: Builder, value: Value) -> Step:
    (axis,) = builder.axes.of(value) or (None,)
    if axis is None:
        name = builder.names.claim("zero_index")
        return builder.add(Step(name, "number", (), SCALAR, int32, {"number": ZERO}, False))
    extent = ROW if axis in builder.layout.rows else COL
    attrs = MappingProxyType({"of_axis": axis})
    name = f"index {axis}"
    found = next((s for s in builder.ordered if s.name == name), None)
    builder.steps[value] = found = found or builder.add(Step(name, "index", (), extent, int32, attrs, False))
    return found


def _draw(builder: Builder, value: Value) -> Step:
    """Random numbers are made where they are needed, from the place of each element."""
    drawn = memory_of(value)
    (seed,) = drawn.inputs
    key = ("scalar", seed)
    if key not in builder.parameters:
        name = builder.names.claim(seed.name.rpartition(".")[2], identifier(seed.name))
        builder.parameters[key] = Parameter(name, "scalar", seed, int64)
    attrs = {
        "address": builder.address(value),
        "seed": builder.parameters[key].name,
        "stream": drawn.attrs["stream"],
    }
    name = builder.names.claim(value.hint or "", identifier(value.name))
    extent = builder.extent_of(builder.axes.of(value))
    is_named, given = value.hint is not None, MappingProxyType(attrs)
    step = Step(name, "uniform", (), extent, float32, given, is_named, value.scope, value)
    builder.steps[value] = builder.add(step)
    return step


def _argument(builder: Builder, value: Value) -> Step:
    """A number that the host knows: a size goes in as an int, everything else as a float."""
    if value.op.name == "dim_size":
        parameter = builder.size_parameter(Dim(value.attrs["dim"]))
        dtype = float32
    else:
        dtype = _scalar_dtype(builder)
        stem = identifier(value.hint or (value.name.rpartition(".")[2] if value.is_leaf else ""))
        described = describe(value.op.name, [_host_text(a) for a in value.inputs])
        key = ("scalar", value)
        if key not in builder.parameters:
            name = builder.names.claim(stem, described, uncounted(value))
            name = f"{name}_ptr" if dtype is float64 else name
            builder.parameters[key] = Parameter(name, "scalar", value, dtype)
        parameter = builder.parameters[key]
    name = parameter.name.removesuffix("_ptr") if parameter.dtype is float64 else parameter.name
    attrs = MappingProxyType({"pointer": parameter.name} if parameter.is_pointer else {})
    step = Step(name, "argument", (), SCALAR, dtype, attrs, parameter.is_pointer, value=value)
    builder.steps[value] = builder.add(step)
    return step


def _scalar_dtype(builder: Builder) -> DType:
    """Arguments arrive as float32; a kernel on float64 reads them from memory instead."""
    return float64 if any(v.dtype is float64 for v in (*builder.plan.values, *builder.plan.loads)) else float32


def _host_text(value: Value) -> str:
    if value.op.name == "constant":
        return str(number(value.attrs["value"]))
    return identifier(value.hint or value.name.rpartition(".")[2])


def memory_parameter(builder: Builder, memory: Value) -> Parameter:
    """The argument for memory that is read."""
    name = builder.name_of(memory)
    return builder.parameter(("memory", memory), f"{name}_ptr", "in", memory, builder.plan.storage[memory])


def _load(builder: Builder, value: Value) -> Step:
    memory = memory_of(value)
    storage = builder.plan.storage[memory]
    name = builder.name_of(memory)
    parameter = builder.parameter(("memory", memory), f"{name}_ptr", "in", memory, storage)
    if value is not memory:
        part = value.hint if value.op.name == "narrow" and value.hint else ""
        name = builder.names.claim(part, f"{name}_{identifier(value.hint or 'view')}")
    extent = builder.extent_of(builder.axes.of(value))
    attrs = MappingProxyType({"pointer": parameter.name, "address": builder.address(value), "storage": storage})
    step = Step(name, "load", (), extent, compute_dtype(storage), attrs, True, value=value)
    builder.steps[value] = builder.add(step)
    return step


def gather(builder: Builder, value: Value) -> None:
    """Rows taken by number: a load whose rows another step names."""
    table, index = value.inputs
    memory = memory_of(table)
    storage = builder.plan.storage[memory]
    parameter = memory_parameter(builder, memory)
    labels = builder.axes.labels[value][len(index.shape) :]
    dims = [(a, behind(table.shape, i), 0) for i, a in enumerate(labels, 1) if a is not None]
    attrs = {"pointer": parameter.name, "address": Address(tuple(dims), table.shape), "storage": storage}
    row = resolve(builder, index)
    extent = builder.extent_of(builder.axes.of(value))
    builder.assign(value, Step("", "take_rows", (row.name,), extent, compute_dtype(storage), attrs))


def store(builder: Builder, value: Value) -> None:
    """A result that goes to memory."""
    step = builder.steps[value]
    memory = builder.destinations.get(value, value)
    storage = memory.dtype if memory is not value else builder.plan.storage[value]
    name = builder.memory_names[memory]
    parameter = builder.parameter(("memory", memory), f"{name}_ptr", "out", memory, storage)
    joined = builder.units.joined.get(value)
    # A leaf takes its new value in that value's order, even if no other kernel iterates over the leaf.
    address = builder.address(value, joined[1] if joined else None)
    attrs = MappingProxyType({"pointer": parameter.name, "address": address, "storage": storage})
    extent = builder.extent_of(builder.axes.of(value))
    builder.add(Step(f"store {parameter.name}", "store", (step.name,), extent, storage, attrs, value=value))
