"""The JSON form of a graph, version 1. A file is data: nothing in it is imported, evaluated or run.

    {"format": "tritonnotes.graph", "version": 1, "name": NAME, "level": "declared" or "primitive",
     "values": [{"name": NAME, "op": OP, "dtype": DTYPE, "shape": [SIZE, ...],
                 "args": [NAME or null, ...], "attrs": {KEY: ATTR}, "hint": NAME,
                 "scope": [NAME, OP, PHASE]}, ...],
     "regions": [{"op": OP, "args": [...], "attrs": {...}, "out": NAME, "scope": [...]}, ...],
     "outputs": {NAME: NAME}, "updates": {NAME: NAME}}

A SIZE is an int, or the name of a `Dim`. An ATTR is true, false, an int, a string, {"float": "0.5"},
{"dtype": "int64"}, {"dim": "batch"} or an array of ATTRs. Floats are strings because JSON has no nan and no inf, and
readers of bare decimals round them each in its own way: they hold Python's shortest digits, which read back as the
same float (every nan as one). `args`, `attrs`, `hint`, `scope` and `regions` may be left out where they are empty, and
a hint with letters beyond ASCII is. Values stand before their users; dtype and shape are what the op infers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from .errors import FormatError, TritonNotesError
from .graph import TOP, Graph, Region, Value
from .loading import MAX_CHARS, MAX_VALUES, Builder, cut, find_dtype, find_op, find_scope, short
from .types import Dim, DType, Shape, as_shape, is_name

FORMAT = "tritonnotes.graph"
VERSION = 1
# The schema nests 5 deep, and tuples in attributes may nest a little.
MAX_DEPTH = 12
GraphT = TypeVar("GraphT", bound=Graph)


# -- writing --


def to_json(graph: Graph) -> str:
    """The graph as JSON text, one value a line. `from_json` reads it back exactly."""
    values = ",\n".join(f"  {json.dumps(_value(v))}" for v in graph.values)
    head = {"format": FORMAT, "version": VERSION, "name": graph.name, "level": graph.level}
    tail: dict[str, object] = {"regions": [_region(r) for r in graph.regions]} if graph.regions else {}
    tail["outputs"] = {name: v.name for name, v in graph.outputs.items()}
    tail["updates"] = {name: v.name for name, v in graph.updates.items()}
    return f'{json.dumps(head)[:-1]}, "values": [\n{values}\n], {json.dumps(tail)[1:]}\n'


def _value(value: Value) -> dict[str, object]:
    shape = [size.name if isinstance(size, Dim) else size for size in value.shape]
    head = {"name": value.name, "op": value.op.name, "dtype": value.dtype.name, "shape": shape}
    return head | ({"hint": value.hint} if value.hint and is_name(value.hint) else {}) | _call(value)


def _region(region: Region) -> dict[str, object]:
    return {"op": region.op.name, "out": region.out.name} | _call(region)


def _call(call: Value | Region) -> dict[str, object]:
    scope = [call.scope.name, call.scope.op, call.scope.phase] if call.scope != TOP else []
    parts = {
        "args": [None if a is None else a.name for a in call.args],
        "attrs": {key: _tagged(value) for key, value in call.attrs.items()},
        "scope": scope,
    }
    return {key: part for key, part in parts.items() if part}


def _tagged(value: object) -> object:
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, Dim):
        return {"dim": value.name}
    return [_tagged(part) for part in value] if isinstance(value, tuple) else value


# -- reading --


def from_json(text: str | bytes, make: Callable[..., GraphT] = Graph) -> GraphT:  # type: ignore[assignment]
    """The graph that `to_json` wrote, made by `make(name, level=...)`.

    Raises `FormatError`, saying where and what to do, on anything outside the schema. Size, depth and digits are
    bounded before the text is parsed; counts, names, attributes, shapes and dtypes before they are believed.
    """
    document = _parsed(text)
    try:
        return _graph(document, make)
    except FormatError:
        raise
    except TritonNotesError as error:
        raise FormatError(f"the file: {cut(error)}") from None


def _graph(document: object, make: Callable[..., GraphT]) -> GraphT:
    top = _fields(
        document,
        "the file",
        {
            "format": str,
            "version": int,
            "name": str,
            "level": str,
            "values": list,
            "outputs": dict,
            "updates": dict,
        },
        {"regions": list},
    )
    if top["format"] != FORMAT or top["version"] != VERSION:
        raise FormatError(
            f"the file: format {short(top['format'])} version {top['version']}; this reads {FORMAT!r} version {VERSION}"
        )
    if len(top["values"]) > MAX_VALUES:
        raise FormatError(f"the file: {len(top['values']):,} values; at most {MAX_VALUES:,} are read, split the graph")
    builder = Builder(make, top["name"], top["level"])
    for index, entry in enumerate(top["values"]):
        _each(partial(_add_value, builder, entry), f"values[{index}]", entry)
    for index, entry in enumerate(top.get("regions", [])):
        _each(partial(_add_region, builder, entry), f"regions[{index}]", entry)
    for kind, add in (("outputs", builder.output), ("updates", builder.update)):
        for name, value in top[kind].items():
            if not isinstance(value, str):
                raise FormatError(f"{kind} {short(name)}: is {short(value)}; it must be the name of a value")
            _each(partial(add, name, value), f"{kind} {short(name)}", None)
    return builder.done()


def _each(add: Callable[[], object], where: str, entry: object) -> None:
    try:
        add()
    except TritonNotesError as error:
        name = entry.get("name") if isinstance(entry, dict) else None
        raise FormatError(f"{where}{f' {short(name)}' if isinstance(name, str) else ''}: {cut(error)}") from None


_CALL: Mapping[str, type] = {"args": list, "attrs": dict, "scope": list}


def _add_value(builder: Builder[Any], entry: object) -> None:
    fields = _fields(entry, "a value", {"name": str, "op": str, "dtype": str, "shape": list}, {**_CALL, "hint": str})
    hint = fields.get("hint")
    op, dtype = find_op(fields["op"]), find_dtype(fields["dtype"])
    scope = _scope(fields.get("scope", []))
    builder.add(fields["name"], op, _args(fields), _attrs(fields), _shape(fields["shape"]), dtype, scope, hint)


def _add_region(builder: Builder[Any], entry: object) -> None:
    fields = _fields(entry, "a region", {"op": str, "out": str}, _CALL)
    scope = _scope(fields.get("scope", []))
    builder.region(find_op(fields["op"]), _args(fields), _attrs(fields), fields["out"], scope)


def _fields(given: object, what: str, required: Mapping[str, type], optional: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise FormatError(f"{what}: is {short(given)}; it must be an object with {', '.join(required)}")
    takes = {**required, **optional}
    missing = [key for key in required if key not in given]
    if missing:
        raise FormatError(f"{what}: lacks {', '.join(missing)}; add it")
    for key, value in given.items():
        if key not in takes:
            raise FormatError(f"{what}: has an unknown field {short(key)}; its fields are {', '.join(takes)}")
        if type(value) is not takes[key]:
            raise FormatError(f"{what}: {key} is {short(value)}; it must be a {takes[key].__name__}")
    return given


def _args(fields: Mapping[str, Any]) -> list[str | None]:
    args = fields.get("args", [])
    for arg in args:
        if arg is not None and not isinstance(arg, str):
            raise FormatError(f"args: holds {short(arg)}; arguments are names of values, or null")
    return args


def _attrs(fields: Mapping[str, Any]) -> dict[str, object]:
    return {key: _untagged(value) for key, value in fields.get("attrs", {}).items()}


def _untagged(value: object) -> object:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return tuple(map(_untagged, value))
    if isinstance(value, dict) and len(value) == 1:
        ((tag, text),) = value.items()
        if tag in ("float", "dtype", "dim") and isinstance(text, str):
            return {"float": _float, "dtype": find_dtype, "dim": Dim}[tag](text)
    raise FormatError(
        f'attrs: {short(value)} is no attribute; write true, 1, "text", {{"float": "0.5"}}, '
        '{"dtype": "int64"}, {"dim": "batch"} or an array of these'
    )


def _float(text: str) -> float:
    try:
        value = float(text) if len(text) <= 32 else None
    except ValueError:
        value = None
    # 1e999 would become inf, and "١" one: only what Python writes is read.
    if value is None or repr(value) != text:
        raise FormatError(
            f'attrs: {short(text)} is no float as this form writes it; write Python\'s repr, such as "1e-05"'
        )
    return value


def _shape(sizes: list[object]) -> Shape:
    checked: list[int | Dim] = []
    for size in sizes:
        if type(size) is int:
            checked.append(size)
        elif isinstance(size, str):
            checked.append(Dim(size))
        else:
            raise FormatError(f"shape: holds {short(size)}; sizes are ints, or names of Dims")
    return as_shape(checked, "shape")


def _scope(scope: list[object]) -> Any:
    if not scope:
        return TOP
    if len(scope) != 3 or not all(isinstance(part, str) for part in scope):
        raise FormatError("scope: must be [name, op, phase], three strings")
    return find_scope(*map(str, scope))


# -- JSON itself --

# A string that is never closed counts as one up to the end, so that no text is looked at twice.
_STRING = re.compile(r'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]++")


def _parsed(text: str | bytes) -> object:
    if not isinstance(text, str | bytes):
        raise FormatError(f"a graph file is str or bytes, got {type(text).__name__}")
    if len(text) > MAX_CHARS:
        raise FormatError(f"the file: {len(text):,} characters; at most {MAX_CHARS:,} are read")
    try:
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise FormatError(f"the file: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=lambda digits: _refuse(digits, 'a float is written {"float": "0.5"}'),
            parse_constant=lambda name: _refuse(name, 'write {"float": "nan"}, {"float": "inf"} or {"float": "-inf"}'),
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"the file: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None


def _check_depth(text: str) -> None:
    # json.loads recurses: what nests too deep is refused before it is parsed.
    depth = 0
    for bracket in _NO_BRACKET.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise FormatError(f"the file: nests more than {MAX_DEPTH} deep; the schema needs 6")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise FormatError(f"the file: the key {short(twice)} is given twice in one object; keep one")
    return made


def _int(digits: str) -> int:
    # Python takes quadratic time to read long integers, and refuses past 4,300 digits; int64 has 19.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        _refuse(digits, "an int must fit int64")
    return int(digits)


def _refuse(text: str, remedy: str) -> NoReturn:
    raise FormatError(f"the file: holds the number {short(text)}; {remedy}")
