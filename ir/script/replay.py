"""What an expression of a script would declare: it is run on stand-ins, in a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from .. import primitives as P
from ..core.errors import TritonNotesError
from ..core.graph import GIVEN, Graph, Value
from ..core.op import OPS
from ..core.types import Dim
from ..ops import shapes, statistics
from .expressions import Expr

STATE = ("parameter", "buffer")
"""The kinds of leaves that ops declare."""


@cache
def functions() -> SimpleNamespace:
    """The functions of `tn` that declare values, by name."""
    plain = {name: getattr(P, name) for name in P.__all__ if callable(getattr(P, name))}
    of_axes = {name: getattr(statistics, name) for name in ("sum", "amax", "amin")}
    views = {"reshape": shapes.reshape, "transpose": shapes.transpose}
    return SimpleNamespace(**(plain | {n: o for n, o in OPS.items() if not o.custom} | of_axes | views))


@dataclass(frozen=True)
class Form:
    """A way to write `result`: `build` makes the expression of those of `args`, the values that it reads."""

    result: Value
    args: tuple[Value, ...]
    build: Callable[..., Expr]


@dataclass(frozen=True)
class Declared:
    """What a form declares: values of the graph in order, of which it gives one, state in order, and updates."""

    values: tuple[Value, ...]
    state: tuple[Value, ...] = ()
    updates: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What a form is tried in: the graph, the names of the values that are to have one, the updates so far, and the
    script's variables of `Dim`s."""

    graph: Graph
    names: Mapping[Value, str]
    updates: Mapping[str, Value]
    dims: Mapping[str, str]


def declared(form: Form, following: Sequence[Value], setting: Setting) -> Declared | None:
    """What a form declares, if that is the first of `following`, values without leaves; None if it is anything else."""
    scratch = Graph("script")
    known: dict[Value, Value] = {}  # a stand-in to what it stands for
    stands = [_stand_in(scratch, value, known) for value in dict.fromkeys([*form.args, *_moved(form, setting)])]
    by_value = dict(zip(dict.fromkeys([*form.args, *_moved(form, setting)]), stands, strict=True))
    scratch.updates.update({n: by_value[v] for n, v in setting.updates.items() if v in by_value})
    before = dict(scratch.updates)
    _draw_streams(scratch, form, setting.graph, known)
    start = len(scratch.values)
    variables: dict[str, Any] = {variable: Dim(name) for name, variable in setting.dims.items()}
    variables |= {f"_{i}": by_value[value] for i, value in enumerate(form.args)}
    try:
        text = form.build(*(Expr(f"_{i}") for i in range(len(form.args)))).text
        out = eval(text, {"tn": functions(), "g": scratch}, variables)
    except (TritonNotesError, TypeError, ValueError, AttributeError):
        return None
    made = scratch.values[start:]
    state = [value for value in made if value.op.name in STATE]
    ops = [value for value in made if value.op.name not in (*STATE, "scalar")]
    if not isinstance(out, Value) or len(ops) > len(following):
        return None
    for value in state:
        if (match := _state_of(setting.graph, value)) is None:
            return None
        known[value] = match
    for value, wanted in zip(ops, following, strict=False):
        if not _is_same(value, wanted, known, setting.names):
            return None
        known[value] = wanted
    if known.get(out) is not form.result:
        return None
    moved = {name: known[v] for name, v in scratch.updates.items() if before.get(name) is not v}
    return Declared(tuple(following[: len(ops)]), tuple(known[v] for v in state), moved)


def _moved(form: Form, setting: Setting) -> list[Value]:
    """What stands in updates of the buffers that a form reads: an op that moves them moves that on."""
    return [setting.updates[v.name] for v in form.args if v.op.name == "buffer" and v.name in setting.updates]


def _stand_in(scratch: Graph, value: Value, known: dict[Value, Value]) -> Value:
    kept = value.op.name in STATE or value.op.name in ("constant", "dim_size")
    kind, attrs = (value.op.name, value.attrs) if kept else ("input", {})
    made = scratch.append(kind, (), attrs, value.shape, value.dtype, value.name if value.op.name in STATE else None)
    known[made] = value
    return made


def _draw_streams(scratch: Graph, form: Form, graph: Graph, known: dict[Value, Value]) -> None:
    """What dropout looks for in its graph: the seed, and the dropouts before it, whose count is its stream."""
    result = form.result
    if result.op.name != "dropout":
        return
    if (seed := result.args[1]) is not None:
        known[scratch.append("scalar", (), {}, (), seed.dtype, seed.name)] = seed
    for value in graph.values[: result.index]:
        if value.op is result.op:
            scratch.append(result.op, (), {}, (), value.dtype)


def _state_of(graph: Graph, made: Value) -> Value | None:
    """The parameter or buffer of a graph that an op would declare."""
    found = next((v for v in graph.leaves(*GIVEN) if v.name == made.name), None)
    return found if found is not None and _facts(found) == _facts(made) else None


def _is_same(made: Value, wanted: Value, known: Mapping[Value, Value], names: Mapping[Value, str]) -> bool:
    args = [None if a is None else known.get(a) for a in made.args]
    same_args = len(args) == len(wanted.args) and all(a is b for a, b in zip(args, wanted.args, strict=True))
    return same_args and _facts(made) == _facts(wanted) and made._name == names.get(wanted)


def _facts(value: Value) -> tuple[object, ...]:
    attrs = tuple((key, repr(attr)) for key, attr in sorted(value.attrs.items()))
    return value.op, attrs, value.shape, value.dtype
