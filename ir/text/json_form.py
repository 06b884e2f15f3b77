"""The JSON form of a graph, version 1. A file is data: nothing in it is imported, evaluated or run.

    {"format": "tritonnotes.graph", "version": 1, "name": NAME, "level": "declared" or "primitive",
     "values": [{"name": NAME, "op": OP, "dtype": DTYPE, "shape": [SIZE, ...],
                 "args": [NAME or null, ...], "attrs": {KEY: ATTR}, "hint": NAME,
                 "scope": [NAME, OP, PHASE]}, ...],
     "regions": [{"op": OP, "args": [...], "attrs": {...}, "out": NAME, "scope": [...]}, ...],
     "outputs": {NAME: NAME}, "updates": {NAME: NAME},
     "subgraphs": {NAME: {"name": NAME, "level": ..., "values": ..., "outputs": ..., "updates": ...}, ...}}

A SIZE is an int, the name of a `Dim`, or a product, "3*batch*time". An ATTR is true, false, an int, a string,
{"float": "0.5"}, {"dtype": "int64"}, {"dim": SIZE}, an array of these, or {"graph": NAME}, one of the subgraphs. Floats
are strings because JSON has no nan and no inf, and readers of bare decimals round them each in its own way: they hold
Python's shortest digits, which read back as the same float (every nan as one). `args`, `attrs`, `hint`, `scope`,
`regions` and `subgraphs` may be left out where they are empty, and a hint with letters beyond ASCII is. Values stand
before their users; dtype and shape are what the op infers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from ..core.errors import FormatError, TritonNotesError
from ..core.graph import TOP, Graph, Region, Value, bind
from ..core.types import Dim, DimProduct, DType, Shape, Size, as_shape, check_name, is_name
from .loading import MAX_CHARS, MAX_VALUES, Builder, cut, find_dtype, find_op, find_scope, find_size, short

FORMAT = "tritonnotes.graph"
VERSION = 1
# The schema nests 5 deep, 7 with a subgraph, and tuples in attributes may nest a little.
MAX_DEPTH = 12
GraphT = TypeVar("GraphT", bound=Graph)
Names = Mapping[Graph, str]


# -- writing --


def to_json(graph: Graph) -> str:
    """The graph as JSON text, one value a line. `from_json` reads it back exactly."""
    fields = _document(graph)
    values = ",\n".join(f"  {json.dumps(value)}" for value in fields["values"])
    head = {"format": FORMAT, "version": VERSION, "name": graph.name, "level": graph.level}
    tail = {key: field for key, field in fields.items() if key not in ("name", "level", "values")}
    return f'{json.dumps(head)[:-1]}, "values": [\n{values}\n], {json.dumps(tail)[1:]}\n'


def _document(graph: Graph) -> dict[str, Any]:
    subgraphs = graph.subgraphs
    names = {subgraph: name for name, subgraph in subgraphs.items()}
    made: dict[str, Any] = {"name": graph.name, "level": graph.level}
    made["values"] = [_value(v, names) for v in graph.values]
    if graph.regions:
        made["regions"] = [_region(r, names) for r in graph.regions]
    made["outputs"] = {name: v.name for name, v in graph.outputs.items()}
    made["updates"] = {name: v.name for name, v in graph.updates.items()}
    if subgraphs:
        made["subgraphs"] = {name: _document(subgraph) for name, subgraph in subgraphs.items()}
    return made


def _value(value: Value, names: Names) -> dict[str, object]:
    shape = [size if isinstance(size, int) else _written(size) for size in value.shape]
    head = {"name": value.name, "op": value.op.name, "dtype": value.dtype.name, "shape": shape}
    return head | ({"hint": value.hint} if value.hint and is_name(value.hint) else {}) | _call(value, names)


def _written(size: Dim | DimProduct) -> str:
    return size.name if isinstance(size, Dim) else str(size)


def _dim_size(text: str) -> Size:
    return find_size(text) if "*" in text else Dim(text)


def _region(region: Region, names: Names) -> dict[str, object]:
    return {"op": region.op.name, "out": region.out.name} | _call(region, names)


def _call(call: Value | Region, names: Names) -> dict[str, object]:
    scope = [call.scope.name, call.scope.op, call.scope.phase] if call.scope != TOP else []
    parts = {
        "args": [None if a is None else a.name for a in call.args],
        "attrs": {key: _tagged(value, names) for key, value in call.attrs.items()},
        "scope": scope,
    }
    return {key: part for key, part in parts.items() if part}


def _tagged(value: object, names: Names) -> object:
    if isinstance(value, Graph):
        return {"graph": names[value]}
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, Dim | DimProduct):
        return {"dim": _written(value)}
    return [_tagged(part, names) for part in value] if isinstance(value, tuple) else value


# -- reading --


def from_json(text: str | bytes, make: Callable[..., GraphT] = Graph) -> GraphT:  # type: ignore[assignment]
    """The graph that `to_json` wrote, made by `make(name, level=...)`.

    Raises `FormatError`, saying where and what to do, on anything outside the schema. Size, depth and digits are
    bounded before the text is parsed; counts, names, attributes, shapes and dtypes before they are believed.
    """
    document = _parsed(text)
    try:
        return _read(document, make)
    except FormatError:
        raise
    except TritonNotesError as error:
        raise FormatError(f"the file: {cut(error)}") from None


_GRAPH: Mapping[str, type] = {"name": str, "level": str, "values": list, "outputs": dict, "updates": dict}


def _read(document: object, make: Callable[..., GraphT]) -> GraphT:
    top = _fields(document, "the file", {"format": str, "version": int, **_GRAPH}, _MORE)
    if top["format"] != FORMAT or top["version"] != VERSION:
        raise FormatError(
            f"the file: format {short(top['format'])} version {top['version']}; this reads {FORMAT!r} version {VERSION}"
        )
    return _graph(top, make)


def _graph(top: Mapping[str, Any], make: Callable[..., GraphT]) -> GraphT:
    if len(top["values"]) > MAX_VALUES:
        raise FormatError(f"the file: {len(top['values']):,} values; at most {MAX_VALUES:,} are read, split the graph")
    subgraphs: dict[str, Graph] = {}
    for name, entry in top.get("subgraphs", {}).items():
        _each(partial(_add_subgraph, subgraphs, name, entry), f"subgraphs {short(name)}", None)
    builder = Builder(make, top["name"], top["level"])
    for index, entry in enumerate(top["values"]):
        _each(partial(_add_value, builder, entry, subgraphs), f"values[{index}]", entry)
    for index, entry in enumerate(top.get("regions", [])):
        _each(partial(_add_region, builder, entry, subgraphs), f"regions[{index}]", entry)
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


_MORE: Mapping[str, type] = {"regions": list, "subgraphs": dict}
_CALL: Mapping[str, type] = {"args": list, "attrs": dict, "scope": list}


def _add_subgraph(subgraphs: dict[str, Graph], name: str, entry: object) -> None:
    subgraphs[check_name(name, "subgraph")] = _graph(_fields(entry, "a subgraph", _GRAPH, _MORE), Graph)


def _add_value(builder: Builder[Any], entry: object, subgraphs: Mapping[str, Graph]) -> None:
    fields = _fields(entry, "a value", {"name": str, "op": str, "dtype": str, "shape": list}, {**_CALL, "hint": str})
    hint = fields.get("hint")
    op, dtype = find_op(fields["op"]), find_dtype(fields["dtype"])
    scope = _scope(fields.get("scope", []))
    args, attrs = _args(fields), _attrs(fields, subgraphs)
    builder.add(fields["name"], op, args, attrs, _shape(fields["shape"]), dtype, scope, hint)


def _add_region(builder: Builder[Any], entry: object, subgraphs: Mapping[str, Graph]) -> None:
    fields = _fields(entry, "a region", {"op": str, "out": str}, _CALL)
    scope = _scope(fields.get("scope", []))
    builder.region(find_op(fields["op"]), _args(fields), _attrs(fields, subgraphs), fields["out"], scope)


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


def _attrs(fields: Mapping[str, Any], subgraphs: Mapping[str, Graph]) -> dict[str, object]:
    return {key: _attr(value, subgraphs) for key, value in fields.get("attrs", {}).items()}


def _attr(value: object, subgraphs: Mapping[str, Graph]) -> object:
    if not isinstance(value, dict) or [*value] != ["graph"]:
        return _untagged(value)
    name = value["graph"]
    if not isinstance(name, str) or name not in subgraphs:
        raise FormatError(f"attrs: {short(name)} is none of the subgraphs")
    return subgraphs[name]


def _untagged(value: object) -> object:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return tuple(map(_untagged, value))
    if isinstance(value, dict) and len(value) == 1:
        ((tag, text),) = value.items()
        if tag in ("float", "dtype", "dim") and isinstance(text, str):
            return {"float": _float, "dtype": find_dtype, "dim": _dim_size}[tag](text)
    raise FormatError(
        f'attrs: {short(value)} is no attribute; write true, 1, "text", {{"float": "0.5"}}, '
        '{"dtype": "int64"}, {"dim": "batch"}, an array of these or {"graph": "chunk"}'
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
    checked: list[Size] = []
    for size in sizes:
        if type(size) is int:
            checked.append(size)
        elif isinstance(size, str):
            checked.append(_dim_size(size))
        else:
            raise FormatError(f"shape: holds {short(size)}; sizes are ints, names of Dims, or products of them")
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
            raise FormatError(f"the file: nests more than {MAX_DEPTH} deep; the schema needs 8")


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


def _from_json(cls: type[GraphT], text: str | bytes) -> GraphT:
    """The graph that `to_json` wrote. Raises `FormatError` on anything else; nothing in it is run."""
    return from_json(text, make=cls)


bind(Graph, to_json=to_json, from_json=classmethod(_from_json))
