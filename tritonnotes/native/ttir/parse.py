"""Reads printed Triton IR (`module.str_nodebug()`) into the data of `ttir`.

The text is what Triton 3.6 to 3.9 print alike. The Python bindings would hide dense constants, predicates and types.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import Uncovered
from .ttir import Block, Function, Op, Type, Value, parse_type

_RESULT = re.compile(r"(%[\w$.-]+(?:, %[\w$.-]+)*)(?::(\d+))?\s*=\s*(.*)")


_NAME = re.compile(r'"?([a-z_]+\.[\w.]+)"?\s*(.*)', re.S)


_VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")


_SYMBOL = re.compile(r'@("[^"]+"|[\w$.]+)')


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


_ATTRIBUTE = re.compile(r"(\w+) = (array<[^>]*>|[^,}]+)")


_LOOP = re.compile(r"(unsigned )?(%[\w$.-]+) = (\S+) to (\S+) step (\S+)\s*(.*)\{$")


_SUCCESSOR = re.compile(r"(\^\w+)(?:\(([^:)]*)[^)]*\))?")


def parse(text: str) -> dict[str, Function]:
    """The functions of a module, by name. Raises Uncovered for what has no counterpart here."""
    return _Parser(text).parse()


def split_top(text: str, separator: str = ",") -> list[str]:
    """Parts of a text between separators that are inside no bracket."""
    parts, depth, last, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if char in "<({[":
            depth += 1
        elif char in ")}]" or (char == ">" and text[at - 1] != "-"):
            depth -= 1
        elif depth == 0 and text.startswith(separator, at):
            parts.append(text[last:at])
            at += len(separator)
            last = at
            continue
        at += 1
    parts.append(text[last:])
    return [part.strip() for part in parts if part.strip()]


def _types(text: str) -> list[Type]:
    text = text.strip()
    if text.startswith("("):
        text = text[1 : text.rindex(")")]
    return [parse_type(part) for part in split_top(text)]


def _loaded(first: Type) -> Type:
    return Type(first.pointee, first.shape)


def _truth(first: Type) -> Type:
    return Type("i1", first.shape)


_RESULT_TYPE: dict[str, Callable[[Type], Type]] = {"tt.load": _loaded, "arith.cmpi": _truth, "arith.cmpf": _truth}
"""The result of operations that print only the type of an operand."""


_QUIET = frozenset({"tt.print", "tt.assert", "llvm.intr.assume"})
"""Operations whose text may hold anything, and which compute nothing."""


_ENDS = frozenset({"scf.yield", "scf.condition", "tt.return", "tt.reduce.return", "tt.scan.return"})


class _Parser:
    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.at = 0
        self.values: dict[str, Value] = {}

    def parse(self) -> dict[str, Function]:
        functions = {}
        while self.at < len(self.lines):
            line = self.next_line()
            if line.startswith("tt.func"):
                try:
                    function = self.function(line)
                except Uncovered as error:
                    raise Uncovered(error.what, self.at - 1 if error.line is None else error.line) from error
                functions[function.name] = function
        return functions

    def next_line(self) -> str:
        line = self.lines[self.at].strip()
        self.at += 1
        return line

    def function(self, line: str) -> Function:
        found = _SYMBOL.search(line)
        assert found is not None, line
        start, depth, end = line.index("(", found.end()), 0, 0
        for end in range(start, len(line)):
            depth += (line[end] == "(") - (line[end] == ")")
            if depth == 0:
                break
        self.values = {}
        args = self.arguments(line[start + 1 : end])
        blocks: list[Block] = []
        label = ""
        while True:
            ops, closing = self.operations()
            blocks.append(Block(args, tuple(ops), label))
            if not closing.startswith("^"):
                return Function(found.group(1).strip('"'), tuple(blocks))
            label, args = self.block_head(closing)

    def arguments(self, text: str) -> tuple[Value, ...]:
        """`%a: f32, %b: i32 {tt.divisibility = 16 : i32}`: names and types, bound from here on."""
        made = []
        for part in split_top(text):
            name, type_ = part.split(":", 1)
            value = Value(parse_type(split_top(type_, " {")[0]), name.strip())
            self.bind(name.strip(), (value,))
            made.append(value)
        return tuple(made)

    def block_head(self, line: str) -> tuple[str, tuple[Value, ...]]:
        head = line.split("//")[0].strip().removesuffix(":")
        label, _, args = head.partition("(")
        return label, self.arguments(args.removesuffix(")")) if args else ()

    def bind(self, name: str, values: tuple[Value, ...]) -> None:
        if len(values) == 1:
            self.values[name] = values[0]
        for index, value in enumerate(values):
            self.values[f"{name}#{index}"] = value

    def operands(self, text: str) -> tuple[Value, ...]:
        return tuple(self.values[name] for name in _VALUE.findall(text))

    def operations(self) -> tuple[list[Op], str]:
        """The operations up to the line that ends the block, and that line."""
        ops: list[Op] = []
        while True:
            line = self.next_line()
            if line.startswith(("}", "^")):
                return ops, line
            if line:
                ops.append(self.operation(line))

    def region(self, args: tuple[Value, ...] = ()) -> tuple[Block, str]:
        """A region of one block, and the line that closes it."""
        ops, closing = self.operations()
        if closing.startswith("^") and not ops:
            _, args = self.block_head(closing)
            ops, closing = self.operations()
        if closing.startswith("^"):
            raise Uncovered("a region of several blocks", self.at - 1)
        return Block(args, tuple(ops)), closing

    def operation(self, line: str) -> Op:
        number = self.at - 1
        names: list[str] = []
        found = _RESULT.match(line)
        if found:
            names, line = found.group(1).split(", "), found.group(3)
        match = _NAME.match(line)
        if match is None:
            raise Uncovered(f"an operation printed as {line[:60]!r}", number)
        kind, rest = match.groups()
        try:
            read = _READERS.get(kind, _Parser.plain)
            op, types = read(self, kind, rest, bool(names))
        except Uncovered as error:
            raise Uncovered(error.what, number if error.line is None else error.line) from error
        if len(names) > len(types):
            types = types * len(names)  # the two halves of a split print one type
        results = tuple(Value(t, names[0]) for t in types) if names else ()
        for name, bound in zip(names, [results] if len(names) == 1 else [(r,) for r in results], strict=True):
            self.bind(name, bound)
        # Where an operation stands in the source is printed behind its regions.
        return Op(kind, op.operands, results, op.attrs, op.words, op.regions, self.at - 1 if op.regions else number)

    def plain(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        """`name words %operands {attributes} : types`, as most operations print themselves."""
        if kind in _QUIET:
            return Op(kind), []
        strings = _STRING.findall(rest)
        rest = _STRING.sub("@string", rest)
        head, tail = _halves(rest, kind in _ENDS)
        attrs: dict[str, Any] = {key: value.strip() for key, value in _ATTRIBUTE.findall(head)}
        if strings:
            attrs["strings"] = tuple(text[1:-1] for text in strings)
        words = tuple(_VALUE.sub("", re.sub(r"\{.*\}", "", head)).replace(",", " ").split())
        return Op(kind, self.operands(head), (), attrs, words), _results(kind, tail) if has_results else []

    def constant(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        rest = re.sub(r"^\{[^}]*\}\s*", "", rest)
        text, _, type_ = rest.rpartition(" : ") if " : " in rest else (rest, "", "i1")
        result = parse_type(type_)
        text = text.strip()
        if text.startswith("dense<"):
            text = text[len("dense<") : -1]
        if text.startswith(("[", '"')):
            raise Uncovered("a constant of several different elements")
        value: int | float | str
        if text in ("true", "false"):
            value = int(text == "true")
        elif result.is_float:
            value = text if text.startswith("0x") else float(text)
        else:
            value = int(text, 0)
        return Op(kind, (), (), {"value": value}), [result]

    def combine(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        operands = self.operands(rest[: rest.index(")")])
        attrs = {"axis": rest.split("axis = ")[1].split(":")[0].strip(" }>"), "reverse": "reverse = true" in rest}
        region, closing = self.region()
        return Op(kind, operands, (), attrs, (), (region,)), _types(closing.rsplit("->", 1)[1])

    def carried(self, text: str) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        """`%a = %x, %b = %y`: what is carried in, and the arguments that it is bound to."""
        pairs = [part.split("=") for part in split_top(text)]
        inits = tuple(self.values[init.strip()] for _, init in pairs)
        args = tuple(Value(init.type, name.strip()) for (name, _), init in zip(pairs, inits, strict=True))
        for arg in args:
            self.bind(arg.name, (arg,))
        return inits, args

    def loop(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        found = _LOOP.match(rest)
        if found is None:
            raise Uncovered(f"a loop printed as {rest[:60]!r}")
        unsigned, name, low, high, step, more = found.groups()
        bounds = tuple(self.values[text] for text in (low, high, step))
        counter = Value(bounds[0].type, name)
        self.bind(name, (counter,))
        inits, args = self.carried(more[more.index("(") + 1 : more.index(")")]) if "iter_args(" in more else ((), ())
        region, _ = self.region((counter, *args))
        op = Op(kind, bounds + inits, (), {"unsigned": bool(unsigned)}, (), (region,))
        return op, [init.type for init in inits]

    def branch(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        found = _VALUE.match(rest)
        assert found is not None, rest
        condition = self.values[found.group(0)]
        types = _types(rest[rest.index("->") + 2 : rest.rindex("{")]) if "->" in rest else []
        then, closing = self.region()
        other, _ = self.region() if "else" in closing else (Block((), ()), "")
        return Op(kind, (condition,), (), {}, (), (then, other)), types

    def repeat(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        inits, args = self.carried(rest[1 : rest.index(")")]) if rest.startswith("(%") else ((), ())
        types = _types(split_top(rest[: rest.rindex("{")], "->")[-1]) if "->" in rest else []
        before, _ = self.region(args)
        after, _ = self.region()
        return Op(kind, inits, (), {}, (), (before, after)), types

    def call(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        found = _SYMBOL.match(rest)
        assert found is not None, rest
        passed = rest[found.end() + 1 : rest.index(")", found.end())]
        types = _types(split_top(rest, "->")[-1]) if has_results else []
        return Op(kind, self.operands(passed), (), {"callee": found.group(1).strip('"')}), types

    def jump(self, kind: str, rest: str, has_results: bool) -> tuple[Op, list[Type]]:
        """`cf.br ^bb1(%x : f32)` and `cf.cond_br %c, ^bb1, ^bb2(%y : i32)`: successors with their arguments."""
        condition = self.operands(rest[: rest.index("^")])
        successors = [(label, self.operands(args)) for label, args in _SUCCESSOR.findall(rest)]
        passed = tuple(value for _, values in successors for value in values)
        attrs = {"successors": tuple((label, len(values)) for label, values in successors)}
        return Op(kind, condition + passed, (), attrs), []


def _halves(rest: str, is_end: bool) -> tuple[str, str]:
    """What stands before the colon in front of the types, and what behind it. What ends a block has no brackets that
    could hold another colon."""
    if rest.startswith(": "):
        return "", rest[2:]
    parts = rest.rsplit(" : ", 1) if is_end else split_top(rest, " : ")
    return (parts[0], parts[1]) if len(parts) > 1 else (rest, "")


def _results(kind: str, tail: str) -> list[Type]:
    if "->" in tail:
        return _types(split_top(tail, "->")[-1])
    if " to " in tail:
        return [parse_type(tail.split(" to ")[1])]
    listed = split_top(tail)
    if not listed:
        raise Uncovered(f"{kind} without a type")
    first = parse_type(listed[-1 if kind == "arith.select" else 0])
    return [_RESULT_TYPE.get(kind, lambda same: same)(first)]


_Reader = Callable[[_Parser, str, str, bool], tuple[Op, list[Type]]]


_READERS: dict[str, _Reader] = {
    "arith.constant": _Parser.constant,
    "tt.reduce": _Parser.combine,
    "tt.scan": _Parser.combine,
    "scf.for": _Parser.loop,
    "scf.if": _Parser.branch,
    "scf.while": _Parser.repeat,
    "tt.call": _Parser.call,
    "cf.br": _Parser.jump,
    "cf.cond_br": _Parser.jump,
}
