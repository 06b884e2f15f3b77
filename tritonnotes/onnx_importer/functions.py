"""Operators that ONNX itself defines by others, written out; and the branch of an `If` whose condition is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.core.graph import Value
from .operators.package import element_type, onnx_package
from .operators.rows import Found, Known


def written_out(node: Any, given: Sequence[Found], opset: int) -> tuple[list[Any], int] | None:
    """The nodes that a node stands for, as ONNX defines its operator, and the operator set that they are written in;
    None for an operator that is defined by itself. Names within begin with that of its first result."""
    defs = onnx_package("onnx.defs")
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    if schema.has_function:
        body = schema.function_body
    elif schema.has_context_dependent_function:
        types = [_type_of(found) for found in given]
        body = onnx_package().FunctionProto()
        made = schema.get_context_dependent_function(node.SerializeToString(), types)
        if not made:
            return None
        body.ParseFromString(made)
    else:
        return None
    versions = [entry.version for entry in body.opset_import if not entry.domain]
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.name]
    return _in_place(node, body, defaults), max(versions, default=opset)


def _type_of(found: Found) -> bytes:
    """A `TypeProto` of what an input is; an empty one where it is left out."""
    helper = onnx_package("onnx.helper")
    if not isinstance(found, Value | Known):
        return bytes(onnx_package().TypeProto().SerializeToString())
    if isinstance(found, Value):
        name, shape = found.dtype.name, [size if isinstance(size, int) else str(size) for size in found.shape]
    else:
        name, shape = found.dtype, [*found.array.shape]
    return bytes(helper.make_tensor_type_proto(element_type(name), shape).SerializeToString())


def _in_place(node: Any, body: Any, defaults: Sequence[Any]) -> list[Any]:
    """The nodes of a definition with the names and attributes of the node that it stands for."""
    names = {"": ""}
    names |= dict(zip(body.input, [*node.input, *[""] * len(body.input)], strict=False))
    names |= {formal: actual for formal, actual in zip(body.output, node.output, strict=False) if actual}
    attributes = {a.name: a for a in (*defaults, *body.attribute_proto, *node.attribute)}
    first = next(name for name in node.output if name)
    return [_renamed(inner, names, attributes, first) for inner in body.node]


def _renamed(inner: Any, names: dict[str, str], attributes: Mapping[str, Any], prefix: str) -> Any:
    made = onnx_package().NodeProto()
    made.CopyFrom(inner)
    for name in inner.output:
        names.setdefault(name, f"{prefix}.{name}")
    made.input[:] = [names.get(name, name) for name in inner.input]
    made.output[:] = [names[name] for name in inner.output]
    del made.attribute[:]
    for attribute in inner.attribute:
        if not attribute.ref_attr_name:
            made.attribute.append(attribute)
            for graph in (made.attribute[-1].g, *made.attribute[-1].graphs):
                for position, node in enumerate(graph.node):
                    graph.node[position].CopyFrom(_renamed(node, names, attributes, prefix))
                for output in graph.output:
                    output.name = names.get(output.name, output.name)
        elif attribute.ref_attr_name in attributes:
            made.attribute.append(attributes[attribute.ref_attr_name])
            made.attribute[-1].name = attribute.name
    return made
