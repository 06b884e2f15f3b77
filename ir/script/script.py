"""A declared graph as a script that declares it, as its author could have written it.

Every expression is tried before it is written (`replay.py`): run on stand-ins it declares what the graph has, or
another form of it is taken. What is read once and bears no name of its own is written where it is read.
"""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..core.errors import DeclarationError
from ..core.graph import Graph, Value, bind
from ..core.types import dims_in
from .expressions import ATOM, Expr, identifier, literal
from .forms import forms, is_layer, lifted_end
from .replay import STATE, Declared, Form, Setting, declared

LONGEST = 72
"""Characters of an expression that is written inside another one."""

WIDE = 110
"""Characters of a line beyond which the arguments of a call get one of their own."""

OURS = ("tn", "g", "float")
"""What a script calls things of its own."""


def to_python(graph: Graph) -> str:
    """The graph as a Python script that declares it: `import tritonnotes as tn`, then the graph `g`.

    Values keep their names, and stand in the same order; a parameter or buffer that an op declares stands where the op
    does. Custom ops have to be declared before the script runs. Raises `DeclarationError` for a graph of primitives.
    """
    if graph.level != "declared":
        raise DeclarationError(
            f"to_python: graph {graph.name!r} is one of primitives, which no function of tn declares; give the graph "
            "as it is declared"
        )
    return _Script(graph).text()


class _Script:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.lines: list[str] = []
        self.values = [v for v in graph.values if v.op.name not in (*STATE, "input", "scalar")]
        self.reads = Counter(arg for v in graph.values for arg in v.inputs)
        self.reads.update([*graph.outputs.values(), *graph.updates.values()])
        self.readers: dict[Value, list[Value]] = {}
        for value in graph.values:
            for arg in value.inputs:
                self.readers.setdefault(arg, []).append(value)
        # The names that are fixed: given ones, those of layers, and those that no variable gives.
        self.names = {v: v.name for v in self.values if v._name is not None or is_layer(v.op) or not _is_variable(v)}
        self.taken = {*OURS, *(v.name for v in self.values if v not in self.names)}
        self.dims = self._variables_of_dims()
        self.variables: dict[Value, str] = {}
        self.waiting: list[tuple[Value, Expr, dict[str, int]]] = []
        self.roots = {*graph.outputs.values(), *graph.updates.values()}
        self.state = {kind: graph.leaves(kind) for kind in STATE}
        self.places = {value: place for kind in STATE for place, value in enumerate(self.state[kind])}
        # How many of a kind are declared by what is placed so far, and how many of them have been written.
        self.declared, self.written = dict.fromkeys(STATE, 0), dict.fromkeys(STATE, 0)
        self.updates: dict[str, Value] = {}

    def text(self) -> str:
        self._head()
        at = 0
        while at < len(self.values):
            at += self._write(at)
        self._flush()
        self._write_state({kind: len(self.state[kind]) for kind in STATE})
        for name, value in self.graph.updates.items():
            if self.updates.get(name) is not value:
                self.lines.append(f"g.update({self._read(self.graph[name])}, {self._read(value)})")
        self._outputs()
        return "\n".join(self.lines) + "\n"

    # -- head and foot -------------------------------------------------------------------------------------------------

    def _head(self) -> None:
        self.lines += ["import tritonnotes as tn", "", f"g = tn.Graph({json.dumps(self.graph.name)})"]
        self.lines += [f"{variable} = tn.Dim({json.dumps(name)})" for name, variable in self.dims.items()]
        for value in self.graph.inputs:
            dtype = f", {json.dumps(value.dtype.name)}" if value.dtype.name != "float32" else ""
            shape = literal(value.shape, self.dims)
            self.lines.append(f"{self._variable(value)} = g.input({json.dumps(value.name)}, {shape}{dtype})")

    def _variables_of_dims(self) -> dict[str, str]:
        shapes = [size for value in self.graph.values for size in value.shape]
        attrs = [size for value in self.graph.values for attr in value.attrs.values() for size in _sizes_in(attr)]
        counted = [value.attrs["dim"] for value in self.graph.values if value.op.name == "dim_size"]
        names = dict.fromkeys([*(dim.name for dim in dims_in([*shapes, *attrs])), *counted])
        return {name: self._claim(identifier(name, "dim")) for name in names}

    def _outputs(self) -> None:
        named = {name: self._read(value) for name, value in self.graph.outputs.items()}
        if all(name.isidentifier() and not keyword.iskeyword(name) for name in named):
            self._add("g.output(", ", ".join(f"{name}={value}" for name, value in named.items()), ")")
        else:
            inside = ", ".join(f"{json.dumps(name)}: {value}" for name, value in named.items())
            self._add("g.output(**{", inside, "})")

    # -- names ---------------------------------------------------------------------------------------------------------

    def _claim(self, wanted: str) -> str:
        variable, count = wanted, 0
        while variable in self.taken:
            count += 1
            variable = f"{wanted}_{count}"
        self.taken.add(variable)
        return variable

    def _variable(self, value: Value) -> str:
        """The variable of a value: its name, or what its author called it where that is another."""
        if value not in self.variables:
            own = value.hint if value.hint and value.hint.isidentifier() and not keyword.iskeyword(value.hint) else None
            wanted = own or identifier(value.name, "layer")
            is_bound = value.is_leaf or value in self.names
            self.variables[value] = self._claim(wanted) if is_bound else value.name
        return self.variables[value]

    def _read(self, value: Value) -> str:
        """A value as it is read: its variable, or what an op declared by its name."""
        if value in self.variables:
            return self.variables[value]
        if value in self.places and self.places[value] >= self.written[value.op.name]:
            return self._variable(value)
        return f"g[{json.dumps(value.name)}]"

    # -- values --------------------------------------------------------------------------------------------------------

    def _write(self, at: int) -> int:
        """Write what stands at a place, and how many values that are."""
        following = self.values[at : lifted_end(self.values, at) + 8]
        setting = Setting(self.graph, self.names, self.updates, self.dims)
        for form in forms(self.values, at, self.names, self.dims):
            found = declared(form, following, setting)
            if found is not None and self._is_whole(form, found) and self._is_in_order(found):
                self._place(form, found)
                return len(found.values)
        value = self.values[at]
        raise DeclarationError(
            f"to_python: {value.name!r}, {value.op.name}, has no form in Python; use str(graph) or to_json()"
        )

    def _is_whole(self, form: Form, found: Declared) -> bool:
        """Whether nothing else reads what has no name outside of a form, and no name is lost."""
        inside = set(found.values)
        for value in found.values:
            if value is form.result or value in self.names:
                continue
            if value.hint is not None or not inside.issuperset(self.readers.get(value, [])):
                return False
            if value in self.roots:
                return False
        return True

    def _is_in_order(self, found: Declared) -> bool:
        """Whether the state that an op declares is still to be declared, and stands together as the op declares it."""
        for kind in STATE:
            places = [self.places[value] for value in found.state if value.op.name == kind]
            if places and (places != [*range(places[0], places[0] + len(places))] or places[0] < self.declared[kind]):
                return False
        return True

    def _place(self, form: Form, found: Declared) -> None:
        taken = self._taken(form)
        self._declare_state([v for v in form.args if v in self.places], 1)
        args = [taken.get(value) or Expr(self._read(value)) for value in form.args]
        firsts = {value.op.name: value for value in reversed(found.state)}
        self._declare_state([*firsts.values()], 0)
        expression = form.build(*args)
        self.updates |= found.updates
        if self._is_inline(form.result) and len(expression.text) <= LONGEST:
            self.waiting.append((form.result, expression, dict(self.declared)))
            return
        self._flush()
        self._write_state(self.declared)
        for value in found.state:
            self.declared[value.op.name] += 1
            self.written[value.op.name] += 1
        self._assign(form.result, expression)

    def _is_inline(self, value: Value) -> bool:
        if value in self.names or value.hint is not None or self.reads[value] != 1:
            return False
        return value not in self.roots

    def _taken(self, form: Form) -> dict[Value, Expr]:
        """What waits and is written inside of a form: the last ones, if the form reads them in the order in which they
        stand. Else all that waits gets a line."""
        order = re.findall(r"\b_(\d+)\b", form.build(*(Expr(f"_{i}") for i in range(len(form.args)))).text)
        waiting = {value: place for place, (value, *_) in enumerate(self.waiting)}
        places = [waiting[form.args[int(i)]] for i in order if form.args[int(i)] in waiting]
        if places != [*range(len(waiting) - len(places), len(waiting))]:
            self._flush()
            return {}
        taken = {value: expression for value, expression, _ in self.waiting[len(waiting) - len(places) :]}
        del self.waiting[len(waiting) - len(places) :]
        return taken

    def _flush(self) -> None:
        """Write what waits, each as a line."""
        for value, expression, state in self.waiting:
            self._write_state(state)
            self._assign(value, expression)
        self.waiting.clear()

    def _assign(self, value: Value, expression: Expr) -> None:
        line = f"{self._variable(value)} = {expression.text}"
        if expression.text.endswith(")") and expression.binds == ATOM:
            head, _, inside = line.partition("(")
            self._add(f"{head}(", inside[:-1], ")")
        else:
            self.lines.append(line)

    def _add(self, head: str, inside: str, tail: str) -> None:
        """A line, or of a long one three: what stands inside gets its own, or more of them."""
        if len(head + inside + tail) <= WIDE:
            self.lines.append(f"{head}{inside}{tail}")
            return
        wrapped = textwrap.wrap(inside, WIDE, break_long_words=False, break_on_hyphens=False)
        self.lines += [head, *(f"    {line}" for line in wrapped), tail]

    # -- state ---------------------------------------------------------------------------------------------------------

    def _declare_state(self, values: Sequence[Value], beyond: int) -> None:
        """Have parameters and buffers declared up to these, or with `beyond` 1 also these."""
        for value in values:
            kind = value.op.name
            self.declared[kind] = max(self.declared[kind], self.places[value] + beyond)

    def _write_state(self, declared: Mapping[str, int]) -> None:
        for kind, count in declared.items():
            for value in self.state[kind][self.written[kind] : count]:
                self._declare(value)
            self.written[kind] = max(self.written[kind], count)

    def _declare(self, value: Value) -> None:
        attrs = dict(value.attrs)
        init = attrs.pop("init")
        shown = literal(attrs.pop("value"), {}) if init == "constant" else json.dumps(init)
        parts = [json.dumps(value.name), literal(value.shape, self.dims)]
        parts += [] if init == "zeros" else [shown]
        parts += [] if value.dtype.name == "float32" else [f'dtype="{value.dtype.name}"']
        parts += [f"{key}={literal(number, {})}" for key, number in attrs.items()]
        self._add(f"{self._variable(value)} = g.{value.op.name}(", ", ".join(parts), ")")


def _is_variable(value: Value) -> bool:
    """Whether a variable gives a value the name that it has."""
    name = value.name
    return name.isidentifier() and not keyword.iskeyword(name) and name not in OURS


def _sizes_in(attr: object) -> Iterable[object]:
    return attr if isinstance(attr, tuple) else [attr]


bind(Graph, to_python=to_python)
