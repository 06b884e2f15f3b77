"""The text form of a graph, written: what `print(graph)` shows. `docs/grammar.md` has the grammar."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from types import MappingProxyType

from .graph import TOP, Graph, Region, Scope, Value, bind
from .registry import Primitive
from .types import Dim, DimProduct, is_name, show_shape

EMPTY: Mapping[Graph, str] = MappingProxyType({})


def print_graph(graph: Graph) -> str:
    """The graph as text. `parse_graph` reads it back."""
    lines = [f"graph {graph.name} {graph.level}"]
    subgraphs = graph.subgraphs
    for name, subgraph in subgraphs.items():
        lines += [f"subgraph {name}", *(f"  {line}" for line in print_graph(subgraph).splitlines()), "end"]
    names = {subgraph: name for name, subgraph in subgraphs.items()}
    scope, taken = TOP, set[str]()
    for value in graph.values:
        if value.scope != scope:
            scope = value.scope
            lines.append(_scope_line(scope))
        read_back = hint_from(value.name, value.op.name, scope, taken)
        taken.add(value.name)
        # A declared op is named after its instance, so that a variable called as the op says nothing more.
        known = read_back if isinstance(value.op, Primitive) else read_back or value.op.name
        hinted = value.hint is not None and value.hint != known and is_name(value.hint)
        lines.append(value_line(value, names) + (f" as {value.hint}" if hinted else ""))
    for region in graph.regions:
        if region.scope != scope:
            scope = region.scope
            lines.append(_scope_line(scope))
        lines.append(f"region {region.out.name} = {_call(region, names)}")
    lines += [f"output {name} = {value.name}" for name, value in graph.outputs.items()]
    lines += [f"update {name} = {value.name}" for name, value in graph.updates.items()]
    return "\n".join(lines) + "\n"


def value_line(value: Value, names: Mapping[Graph, str] = EMPTY) -> str:
    """The line of one value. `names` are those of the graphs among its attributes, where not their own."""
    return f"{value.name}: {value.dtype}[{', '.join(map(str, value.shape))}] = {_call(value, names)}"


def _call(call: Value | Region, names: Mapping[Graph, str]) -> str:
    args = [_argument(a) for a in call.args]
    return f"{call.op.name}({', '.join([*args, *(f'{k}={_show(v, names)}' for k, v in call.attrs.items())])})"


def _argument(arg: Value | None) -> str:
    if arg is None:
        return "none"
    if not isinstance(arg, Value):  # as verification shows a graph that somebody broke
        return repr(arg)
    return "'none'" if arg.name == "none" else arg.name


def _scope_line(scope: Scope) -> str:
    line = f"scope {scope.name or '-'} {scope.op or '-'} {scope.phase}"
    # A custom op's docstring is anybody's text: one line of it, nothing unprintable.
    formula = "".join(c for c in " ".join(scope.formula.split()) if c.isprintable())
    return f"{line}  # {formula}" if formula else line


def _show(value: object, names: Mapping[Graph, str]) -> str:
    if isinstance(value, Graph):
        return f"@{names.get(value, value.name)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Dim | DimProduct):
        return f"<{value.name}>" if isinstance(value, Dim) else f"<{value}>"
    if isinstance(value, tuple):
        return f"({', '.join(_show(part, names) for part in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    # Python's shortest digits read back as the same float.
    return repr(value)


_COUNTED = re.compile(r"(.+)_[0-9]+")


def hint_from(name: str, op: str, scope: Scope, taken: Container[str]) -> str | None:
    """The author's own name for a value, read off its name in the graph: what follows its scope's, unless the op's.

    `taken` holds the names that came before: `mean_1` after `mean` is a second `mean`.
    """
    counted = _COUNTED.fullmatch(name)
    if counted and counted[1] in taken:
        name = counted[1]
    if name == scope.name:
        return name.replace(".", "_")
    own = name.removeprefix(f"{scope.name}.") if scope.name else name
    return None if own == op or "." in own else own


def summary(graph: Graph) -> str:
    """A graph in a line, as `repr` shows it: what is fed, held, computed and returned."""
    fed = _few([f"{v.name}: {v.dtype}{show_shape(v.shape)}" for v in graph.inputs])
    held = [v.shape for v in graph.parameters]
    whole = sum(math.prod(size for size in shape if isinstance(size, int)) for shape in held)
    computed = sum(not v.is_leaf for v in graph.values)
    of = "ops" if graph.level == "declared" else "primitives"
    return (
        f"Graph({graph.name!r}: {fed or 'no inputs'}; {len(held)} parameters of {whole:,} elements; {computed} {of}; "
        f"outputs {_few(list(graph.outputs)) or 'none'})"
    )


def _few(names: list[str], most: int = 6) -> str:
    left = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + left


bind(Graph, __str__=print_graph, __repr__=summary)
