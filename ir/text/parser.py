"""The text form of a graph, read: what `print(graph)` shows (`core/printer.py`) reads back as the same graph.

One line says one thing:

    graph NAME LEVEL                                   first; LEVEL is declared or primitive
    NAME: DTYPE[SIZE, ...] = OP(ARG, ..., ATTR=VALUE, ...) as HINT
    scope NAME OP PHASE                                where the values below come from; - for nothing
    region NAME = OP(ARG, ..., ATTR=VALUE, ...)        what ends in NAME came of OP, which has its own gradient
    output NAME = NAME
    update NAME = NAME                                 what a run leaves in a parameter, buffer or slot
    subgraph NAME                                      a graph that attributes below name; its own lines follow, then
    end

An ARG names a value above, or is `none`; a value that is itself called none is written 'none'. A VALUE is true,
false, an int, a float (with a point, an exponent, inf or nan: never read as an int), 'text', a dtype, <dim>,
<3*dim*dim>, a tuple of these, or @NAME, a subgraph. `as HINT` stands only where the author's own name for a value is
not the last part of its name. Empty lines and what follows `#` at the start of a line or after a scope are for people.

All of a graph survives: names, scopes, regions, and hints but for those with letters beyond ASCII. What a scope's
comments say comes from the op, not the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..core.errors import FormatError, TritonNotesError
from ..core.graph import TOP, Graph, bind
from ..core.printer import hint_from
from ..core.types import DTYPES, Dim, Shape, as_shape
from .loading import MAX_CHARS, Builder, cut, find_dtype, find_int, find_op, find_scope, find_size, short

MAX_NESTING = 8
DIGITS = tuple("-0123456789")
GraphT = TypeVar("GraphT", bound=Graph)


_NAME = r"[A-Za-z0-9_.]+"
_VALUE = re.compile(rf"({_NAME}): ([a-z0-9]+)\[([^\]]*)\] = ({_NAME})\((.*)\)(?: as ({_NAME}))?")
_REGION = re.compile(rf"region ({_NAME}) = ({_NAME})\((.*)\)")
_ROOT = re.compile(rf"(output|update) ({_NAME}) = ({_NAME})")
_SCOPE = re.compile(rf"scope ({_NAME}|-) ({_NAME}|-) ([a-z]+) *(?:#.*)?")
_SUBGRAPH = re.compile(rf"subgraph ({_NAME})")
_HEADER = re.compile(rf"graph ({_NAME}) ([a-z]+)")
_TOKEN = re.compile(
    r"""\ *(?:
    (?P<text>'(?:[^'\\]|\\['\\])*')
    | (?P<dim><(?:[A-Za-z0-9_.*]|<[0-9][A-Za-z0-9_]*>)+>)
    | (?P<graph>@[A-Za-z0-9_.]+)
    | (?P<number>-?(?:inf|nan|[0-9][0-9.]*(?:e[-+]?[0-9]+)?)(?![A-Za-z0-9_.]))
    | (?P<word>[A-Za-z0-9_.]+)
    | (?P<mark>[(),=])
    )""",
    re.VERBOSE,
)

Args = list[str | None]
Attrs = dict[str, object]


def parse_graph(text: str, make: Callable[..., GraphT] = Graph) -> GraphT:  # type: ignore[assignment]
    """The graph that `print_graph` wrote, made by `make(name, level=...)`.

    Raises `FormatError`, with the number of the line, the line and the remedy, on anything that is not such a text:
    shapes and dtypes must be what the ops infer. Time is linear in the length; nothing is evaluated.
    """
    if len(text) > MAX_CHARS:
        raise FormatError(f"text of {len(text):,} characters; at most {MAX_CHARS:,} are read")
    readers: list[_Reader[Any]] = []  # those of the graph and of the subgraphs that are open, innermost last
    headless = True
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \r")
        if not line or line.startswith("#"):
            continue
        try:
            if headless:
                readers.append(_Reader(_header(line, Graph if readers else make)))
                headless = False
            elif found := _SUBGRAPH.fullmatch(line):
                readers[-1].open(found[1], len(readers))
                headless = True
            elif line == "end" and len(readers) > 1:
                inner = readers.pop()
                readers[-1].close(inner.builder.done())
            else:
                readers[-1].read(line)
        except TritonNotesError as error:
            raise FormatError(f"line {number}: {short(line)}: {cut(error)}") from None
    if not readers:
        raise FormatError("an empty text is no graph; it begins with a line such as 'graph digits declared'")
    if headless or len(readers) > 1:
        raise FormatError("the text ends within a subgraph; close it with a line 'end'")
    return readers[0].builder.done()


def _header(line: str, make: Callable[..., GraphT]) -> Builder[GraphT]:
    header = _HEADER.fullmatch(line)
    if header is None:
        raise FormatError("a graph begins with a line such as 'graph digits declared'")
    return Builder(make, header[1], header[2])


class _Reader(Generic[GraphT]):
    """The lines after the header, one by one."""

    def __init__(self, builder: Builder[GraphT]) -> None:
        self.builder = builder
        self.scope = TOP
        self.subgraphs: dict[str, Graph] = {}
        self.opened = ""

    def open(self, name: str, depth: int) -> None:
        """A subgraph begins."""
        if depth > MAX_NESTING:
            raise FormatError(f"subgraphs nest more than {MAX_NESTING} deep")
        if name in self.subgraphs:
            raise FormatError(f"the subgraph {short(name)} is given twice; each has its own name")
        self.opened = name

    def close(self, subgraph: Graph) -> None:
        """The subgraph that was opened last is read."""
        self.subgraphs[self.opened] = subgraph

    def read(self, line: str) -> None:
        if found := _VALUE.fullmatch(line):
            name, dtype, sizes, op_name, inside, hint = found.groups()
            op = find_op(op_name)
            hint = hint or hint_from(name, op.name, self.scope, self.builder.names)
            args, attrs = _arguments(inside, self.subgraphs)
            hint = None if op.kind == "leaf" and "." in name else hint
            self.builder.add(name, op, args, attrs, _shape(sizes), find_dtype(dtype), self.scope, hint)
        elif found := _SCOPE.fullmatch(line):
            self.scope = find_scope(*("" if word == "-" else word for word in found.groups()))
        elif found := _REGION.fullmatch(line):
            self.builder.region(find_op(found[2]), *_arguments(found[3], self.subgraphs), found[1], self.scope)
        elif found := _ROOT.fullmatch(line):
            (self.builder.output if found[1] == "output" else self.builder.update)(found[2], found[3])
        else:
            raise FormatError(
                "is no line of a graph; write 'name: float32[batch, 64] = op(args)', 'output name = value', …"
            )


def _shape(inside: str) -> Shape:
    parts = inside.split(", ") if inside else []
    return as_shape([find_int(p) if p[:1] in DIGITS and "*" not in p else find_size(p) for p in parts], "shape")


def _number(text: str) -> int | float:
    if re.fullmatch("-?[0-9]+", text):
        return find_int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # 1e999 would become inf, and 0.10000000000000001 another text: only what Python writes is read.
    if repr(value) != text:
        raise FormatError(f"{short(text)} is no number as this form writes it; write {value!r}")
    return value


def _arguments(inside: str, subgraphs: Mapping[str, Graph]) -> tuple[Args, Attrs]:
    """The arguments and attributes between a call's parentheses."""
    tokens = _Tokens(inside)
    args: Args = []
    attrs: Attrs = {}
    while tokens.text:
        kind, text = tokens.take()
        if kind == "word" and tokens.text == "=":
            tokens.take()
            if text in attrs:
                raise FormatError(f"attribute {short(text)} is given twice")
            attrs[text] = (
                _subgraph(tokens.take()[1], subgraphs) if tokens.kind == "graph" else tokens.value(MAX_NESTING)
            )
        elif attrs or not (kind in ("word", "number") or text == "'none'"):
            raise FormatError(
                f"{short(text)} is no argument; arguments are names of values, and stand before attributes"
            )
        else:
            args.append(None if text == "none" else text.strip("'"))
        if tokens.text:
            tokens.expect(",")
            if not tokens.text:
                raise FormatError("a call ends in a comma; take it out")
    return args, attrs


def _subgraph(text: str, subgraphs: Mapping[str, Graph]) -> Graph:
    found = subgraphs.get(text[1:])
    if found is None:
        raise FormatError(f"{short(text)} names no subgraph that comes before")
    return found


class _Tokens:
    """What stands between parentheses, token by token; `kind` and `text` are the next one's ('' at the end)."""

    def __init__(self, source: str) -> None:
        self.source, self.position = source, 0
        self.kind = self.text = ""
        self.take()

    def take(self) -> tuple[str, str]:
        taken = self.kind, self.text
        if self.position == len(self.source):
            self.kind = self.text = ""
            return taken
        found = _TOKEN.match(self.source, self.position)
        if found is None or found.lastgroup is None:
            raise FormatError(f"{short(self.source[self.position :])} cannot be read; see docs/grammar.md")
        self.position = found.end()
        self.kind, self.text = found.lastgroup, found[found.lastgroup]
        return taken

    def expect(self, mark: str) -> None:
        kind, text = self.take()
        if text != mark:
            raise FormatError(f"{mark!r} is wanted before {short(text)}")

    def value(self, depth: int) -> object:
        kind, text = self.take()
        if kind == "number":
            return _number(text)
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "dim":
            return find_size(text[1:-1]) if "*" in text else Dim(text[1:-1])
        if text in ("true", "false"):
            return text == "true"
        if text in DTYPES:
            return DTYPES[text]
        if text == "(" and depth:
            return self._tuple(depth)
        raise FormatError(
            f"{short(text)} is no attribute; write a number, true, 'text', a dtype, <dim>, a tuple of these or "
            "@subgraph"
        )

    def _tuple(self, depth: int) -> tuple[object, ...]:
        parts: list[object] = []
        while self.text != ")":
            parts.append(self.value(depth - 1))
            if self.text != ")" or len(parts) == 1:
                self.expect(",")
        self.take()
        return tuple(parts)


def _from_text(cls: type[GraphT], text: str) -> GraphT:
    """The graph that `str(graph)` shows. Raises `FormatError`, with the line, on anything else."""
    return parse_graph(text, make=cls)


bind(Graph, from_text=classmethod(_from_text))
