"""Linear layers whose rows are merged afterwards take them merged.

A language model's logits, (batch, time, classes), are flattened to the rows that its loss takes. The layer gives the
same numbers for rows that were merged before it; then loss and logits are iterated over the same rows, so that they
share kernels, and many classes are computed in chunks of rows (`chunks.py`).
"""

from __future__ import annotations

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.rewrite import copy_value
from ..core.types import Size, product_of

ROW_BY_ROW = ("elementwise", "cast")


def merge_rows(graph: Graph) -> Graph:
    """`graph` (declared) with the merging of leading axes done ahead of the linear layers before it, through what is
    elementwise. Without any it is the same object."""
    merged: dict[Value, None] = {}
    for value in graph.values:
        if _merges_rows(value):
            found: dict[Value, None] = {}
            if _collect(value.inputs[0], value.shape[0], found) and any(v.op.name == "linear" for v in found):
                merged |= found
    return _rewritten(graph, merged) if merged else graph


def _merges_rows(value: Value) -> bool:
    """Whether a value is another one with all axes but the last as one."""
    if value.op.name not in ("reshape", "flatten") or len(value.shape) != 2:
        return False
    source = value.inputs[0].shape
    return len(source) > 2 and value.shape == (product_of(source[:-1]), source[-1])


def _collect(value: Value, rows: Size, found: dict[Value, None]) -> bool:
    """Whether a value can be computed with its rows merged: it and what comes before it are noted in `found`. Where
    that ends an argument is merged itself."""
    if value in found:
        return True
    if value.op.name == "linear":
        found[value] = None
        _collect(value.inputs[0], rows, found)
        return True
    if value.op.kind not in ROW_BY_ROW or not all(_is_spread(a, value) for a in value.inputs):
        return False
    found[value] = None
    for arg in value.inputs:
        if arg.shape == value.shape:
            _collect(arg, rows, found)
    return True


def _is_spread(arg: Value, reader: Value) -> bool:
    """Whether an argument is as large as what reads it, or says the same for all rows."""
    return arg.shape == reader.shape or len(arg.shape) <= 1


def _rewritten(graph: Graph, merged: dict[Value, None]) -> Graph:
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    flat: dict[Value, Value] = {}

    def in_rows(value: Value) -> Value:
        if value not in flat:
            flat[value] = P.reshape(of(value), (product_of(value.shape[:-1]), value.shape[-1]))
        return flat[value]

    def of(value: Value) -> Value:
        if value not in new:
            new[value] = P.reshape(flat[value], value.shape)
        return new[value]

    for value in graph.values:
        made.scope = value.scope
        if value in merged:
            rows = product_of(value.shape[:-1])
            args = tuple(None if a is None else in_rows(a) if _has_rows(a, value) else of(a) for a in value.args)
            flat[value] = made.append(value.op, args, value.attrs, (rows, value.shape[-1]), value.dtype, value._name)
            flat[value].hint = value.hint
        elif _merges_rows(value) and value.inputs[0] in merged:
            new[value] = flat[value.inputs[0]]
        else:
            new[value] = copy_value(made, value, tuple(None if a is None else of(a) for a in value.args))
    made.outputs = {name: of(v) for name, v in graph.outputs.items()}
    made.updates = {name: of(v) for name, v in graph.updates.items()}
    return made


def _has_rows(arg: Value, reader: Value) -> bool:
    """Whether an argument of a merged value is merged, too: of a layer that is what it multiplies."""
    return arg is reader.args[0] if reader.op.name == "linear" else arg.shape == reader.shape
