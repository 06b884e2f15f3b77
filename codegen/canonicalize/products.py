"""Before planning, where no library call is wanted: products that no tile computes become sums."""

from __future__ import annotations

from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import copy_value

from ..analysis.axes import label_axes
from ..analysis.matmul import PRODUCTS, is_generable, lies_plain


def without_library_products(graph: Graph) -> Graph:
    """`graph` without a product that only the library computes: operands lie in memory as they are shown, and what no
    tile takes all the same, of float64 or with one row or column, is the sum that it is, slower but a kernel."""
    return _as_sums(_with_plain_operands(graph))


def _with_plain_operands(graph: Graph) -> Graph:
    if all(lies_plain(a) for v in graph.values if v.op.name in PRODUCTS for a in v.inputs):
        return graph
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else new[a] for a in value.args)
        if value.op.name in PRODUCTS:
            made.scope = value.scope
            args = tuple(a if a is None or lies_plain(a) else made.call("copy", a) for a in args)
        new[value] = copy_value(made, value, args)
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return made


def _as_sums(graph: Graph) -> Graph:
    axes = label_axes(graph)
    odd = {v for v in graph.values if v.op.name in PRODUCTS and not is_generable(axes, v)}
    if not odd:
        return graph
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else new[a] for a in value.args)
        if value in odd:
            made.scope = value.scope
            new[value] = found = _summed(value, *(a for a in args if a is not None))
            found.hint = value.hint
        else:
            new[value] = copy_value(made, value, args)
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return made


def _summed(value: Value, a: Value, b: Value) -> Value:
    """A product of two values, added up in float32 at least."""
    if value.dtype.itemsize == 2:
        a, b = P.cast(a, "float32"), P.cast(b, "float32")
    if value.op.name == "matmul_over_rows":
        rows = tuple(range(len(a.shape) - 1))
        total = P.sum(P.reshape(a, (*a.shape, 1)) * P.reshape(b, (*b.shape[:-1], 1, b.shape[-1])), rows)
    else:
        other = b if value.attrs["transpose_b"] else P.transpose(b, (1, 0))
        wide = P.reshape(a, (*a.shape[:-1], 1, a.shape[-1])) * P.reshape(other, (1,) * (len(a.shape) - 1) + other.shape)
        total = P.sum(wide, len(wide.shape) - 1)
    return P.cast(total, value.dtype)
