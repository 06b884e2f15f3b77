"""What generated source may not hold, read from its syntax: each rule is a function from source to complaints.

The rules know Python's and Triton's words, and nothing of how the source was made. What a rule needs beside the text
(types of the pointers, sizes of a tile, the author's words) comes with `KernelFacts`.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MODULES = {"torch", "triton", "triton.language", "math"}
POINTED = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64", "i1": "int1"}
POINTED |= {"i32": "int32", "i64": "int64"}
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class KernelFacts:
    """A Triton type for each runtime argument, a value for each compile-time one, and the words of the author."""

    signature: Mapping[str, str] = field(default_factory=dict)
    constexprs: Mapping[str, int] = field(default_factory=dict)
    words: frozenset[str] = frozenset()


Rule = Callable[[ast.FunctionDef, KernelFacts], Iterable[str]]


def complaints(source: str, facts: Mapping[str, KernelFacts], words: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with a generated module, a line each: `function: rule: what`.

    `facts` by the name of the kernel; launchers are held to fewer rules, `main` to none.
    """
    module = ast.parse(source)
    found = [f"module: import: {name}" for name in foreign_imports(module)]
    if any(map(is_kernel, functions(module))):
        found += [f"module: unused: {name}" for name in unused_definitions(module)]
    for function in functions(module):
        known = facts.get(function.name, KernelFacts(words=words))
        rules = KERNEL_RULES if is_kernel(function) else {} if function.name == "main" else LAUNCHER_RULES
        for name, rule in rules.items():
            found += [f"{function.name}: {name}: {what}" for what in rule(function, known)]
        if is_kernel(function):
            found += [f"{function.name}: parentheses: {what}" for what in needless_parentheses(function, source)]
    return found


def functions(module: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in module.body if isinstance(node, ast.FunctionDef)]


def is_kernel(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(d) == "triton.jit" for d in function.decorator_list)


# -- the module --------------------------------------------------------------------------------------------------------


def foreign_imports(module: ast.Module) -> Iterator[str]:
    """Imports of anything but torch, triton and math, and imports that are not at the top."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            yield f"from {node.module}"
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name not in MODULES or node not in module.body)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield ast.unparse(node)


def unused_definitions(module: ast.Module) -> Iterator[str]:
    """Functions and imports that nothing in the module uses."""
    used = {n.id for n in ast.walk(module) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name not in used:
            yield node.name
        elif isinstance(node, ast.Import):
            bound = [(a.asname or a.name).partition(".")[0] for a in node.names]
            yield from (name for name in bound if name not in used)


# -- names -------------------------------------------------------------------------------------------------------------

HOUSE_WORDS = frozenset({"expm1", "log1p", "float16", "bfloat16", "float32", "float64"})


def numbered_names(function: ast.FunctionDef, facts: KernelFacts) -> Iterator[str]:
    """Names with a number that no author wrote: `tmp7`, `v3`, `mul_1`. One in the author's own `fc1_bias` may stay."""
    words = [w.split("_") for w in {_plain(w) for w in facts.words | HOUSE_WORDS}]
    # The second kernel for one op may say so.
    own = re.sub(r"_\d+$", "", function.name)
    for name in dict.fromkeys([own, *_bound_names(function)]):
        tokens = _plain(name).removesuffix("_ptr").split("_")
        if any(_has_digit(t) and not _is_covered(tokens, at, words) for at, t in enumerate(tokens)):
            yield name


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _has_digit(token: str) -> bool:
    return re.search(r"\d", token) is not None


def _is_covered(tokens: list[str], at: int, words: list[list[str]]) -> bool:
    """Whether the token lies inside an author's word that occurs whole."""
    return any(
        tokens[start : start + len(word)] == word
        for word in words
        for start in range(max(0, at - len(word) + 1), at + 1)
    )


def _bound_names(function: ast.FunctionDef) -> Iterator[str]:
    yield from (a.arg for a in _arguments(function))
    yield from (n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


# -- dead lines --------------------------------------------------------------------------------------------------------


def dead_lines(function: ast.FunctionDef, facts: KernelFacts) -> Iterator[str]:
    """Assignments and arguments that nobody reads, statements without effect, names for what has one."""
    reads = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    known = set(reads)
    # `run` takes the same arguments in every module.
    idle = [a.arg for a in _arguments(function) if a.arg not in known and function.name != "run"]
    yield from (f"argument {name}" for name in idle)
    yield from _overwritten(function.body, known)
    for node in ast.walk(function):
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call) and node is not function.body[0]:
            yield ast.unparse(node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and stored.count(node.value.id) < 2:
            yield f"{ast.unparse(node)}, a second name for one value"


def _overwritten(body: list[ast.stmt], known: set[str]) -> Iterator[str]:
    """Names that are assigned and never read, or assigned again before they are read."""
    waiting: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                waiting.discard(node.id)
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            waiting.discard(statement.target.id)
            if statement.target.id not in known:
                yield statement.target.id
        for target in _targets(statement):
            if target not in known or target in waiting:
                yield target
            waiting.add(target)
        for block in ("body", "orelse"):
            yield from _overwritten(getattr(statement, block, []), known)
        if not isinstance(statement, ast.Assign | ast.AugAssign | ast.Expr):
            waiting.clear()


def _targets(statement: ast.stmt) -> list[str]:
    """The names that a statement assigns; `_` is what is unpacked and left."""
    if isinstance(statement, ast.Assign):
        return [n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name) and n.id != "_"]
    if isinstance(statement, ast.For):
        return [n.id for n in ast.walk(statement.target) if isinstance(n, ast.Name)]
    return []


# -- repeated subexpressions -------------------------------------------------------------------------------------------


def repeated_expressions(function: ast.FunctionDef, facts: KernelFacts) -> Iterator[str]:
    """What is computed twice from the same values of the same variables, a · b and b · a being one.

    A pointer plus an offset that has a name is an address, which a load and a store may share.
    """
    versions: dict[str, int] = {}
    seen: dict[str, ast.expr] = {}
    found: dict[str, None] = {}

    def visit(node: ast.AST) -> str:
        """The node as text in which each variable bears its version."""
        if isinstance(node, ast.Name):
            return f"{node.id}@{versions.get(node.id, 0)}"
        parts = [visit(child) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
            parts = sorted([parts[0], parts[2]]) + [parts[1]]
        own = [repr(v) for _, v in ast.iter_fields(node) if isinstance(v, str | int | float | bool)]
        key = f"{type(node).__name__}({', '.join([*own, *parts])})"
        if isinstance(node, ast.expr) and _is_work(node):
            if key in seen:
                found.setdefault(ast.unparse(node))
            seen.setdefault(key, node)
        return key

    def walk(body: list[ast.stmt]) -> None:
        for statement in body:
            for name in ("iter", "test", "value"):
                part = getattr(statement, name, None)
                if isinstance(part, ast.expr):
                    visit(part)
            for target in _targets(statement):
                versions[target] = versions.get(target, 0) + 1
            if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                versions[statement.target.id] = versions.get(statement.target.id, 0) + 1
            for block in ("body", "orelse"):
                inner = getattr(statement, block, [])
                # What a loop changes is another value in each round.
                for changed in {t for s in inner for t in _assigned(s)} if isinstance(statement, ast.For) else ():
                    versions[changed] = versions.get(changed, 0) + 1
                walk(inner)

    walk(function.body)
    # The largest alone: what is inside a repeated expression is repeated with it.
    for text in found:
        if not any(text in other and text != other for other in found):
            yield text


def _assigned(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _is_work(node: ast.expr) -> bool:
    """Whether a machine computes something here that depends on a variable."""
    if not isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Call):
        return False
    if isinstance(node, ast.Call) and _called(node) == "tl.cast" and isinstance(node.args[0], ast.Name):
        return False  # another type for one number
    variables = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not _is_constant_name(n.id)]
    if isinstance(node, ast.Call) and _called(node) == "tl.program_id":
        return True
    return bool(variables) and not _is_address(node)


def _is_constant_name(name: str) -> bool:
    return name.isupper() or name in ("tl", "t") or name in dir(builtins)


def _is_address(node: ast.expr) -> bool:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
        return False
    return isinstance(node.left, ast.Name) and node.left.id.endswith("_ptr") and isinstance(node.right, ast.Name)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


# -- casts -------------------------------------------------------------------------------------------------------------


def idle_casts(function: ast.FunctionDef, facts: KernelFacts) -> Iterator[str]:
    """Casts of what has that type already, and casts of a cast that loses nothing."""
    types = Types(facts)
    for node in _in_order(function.body):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            types.known[node.target.id] = "int32"
        for call in _own_calls(node):
            cast = _cast(call)
            if cast is not None:
                have = types.of(cast[0])
                if have == cast[1]:
                    yield f"{ast.unparse(call)} is {have} already"
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            types.learn(node.targets[0].id, node.value)


def _in_order(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for block in ("body", "orelse"):
            yield from _in_order(getattr(statement, block, []))


def _own_calls(statement: ast.stmt) -> Iterator[ast.Call]:
    for name in ("iter", "test", "value"):
        part = getattr(statement, name, None)
        if isinstance(part, ast.AST):
            yield from (n for n in ast.walk(part) if isinstance(n, ast.Call))


def _cast(call: ast.Call) -> tuple[ast.expr, str] | None:
    """What is cast and to which type, where the call is a cast to a type that is spelled out."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "to" and len(call.args) == 1:
        return call.func.value, ast.unparse(call.args[0]).removeprefix("tl.")
    if _called(call) == "tl.cast" and len(call.args) == 2:
        return call.args[0], ast.unparse(call.args[1]).removeprefix("tl.")
    return None


@dataclass
class Types:
    """The element type of each expression of a kernel; '' for a mere number, None where it cannot be told."""

    facts: KernelFacts
    known: dict[str, str | None] = field(default_factory=dict)

    def learn(self, name: str, value: ast.expr) -> None:
        self.known[name] = self.of(value)

    def of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant):
            return "int1" if isinstance(node.value, bool) else ""
        if isinstance(node, ast.Name):
            if node.id in self.known:
                return self.known[node.id]
            kind = self.facts.signature.get(node.id, "")
            return f"*{POINTED[kind[1:]]}" if kind.startswith("*") else POINTED.get(kind, "")
        if isinstance(node, ast.Compare):
            return "int1"
        if isinstance(node, ast.UnaryOp):
            return self.of(node.operand)
        if isinstance(node, ast.Subscript):
            return self.of(node.value)
        if isinstance(node, ast.BinOp):
            return self._join(self.of(node.left), self.of(node.right))
        return self._call(node) if isinstance(node, ast.Call) else None

    def _join(self, a: str | None, b: str | None) -> str | None:
        if a is None or b is None:
            return None
        for one, other in ((a, b), (b, a)):
            if one == "" or one.startswith("*") or one == other:
                return one if one.startswith("*") else other
        floats = [t for t in (a, b) if t in FLOATS]
        if len(floats) == 1:
            return floats[0]
        order = FLOATS if floats else ("int1", "int32", "int64")
        return max(a, b, key=order.index)

    def _call(self, call: ast.Call) -> str | None:
        cast = _cast(call)
        if cast is not None:
            return cast[1]
        name = _called(call)
        if name == "tl.load":
            pointer = self.of(call.args[0])
            return pointer[1:] if pointer and pointer.startswith("*") else None
        if name in ("tl.arange", "tl.program_id", "tl.cdiv", "tl.num_programs"):
            return "int32"
        if name in ("tl.full", "tl.zeros"):
            return ast.unparse(call.args[-1]).removeprefix("tl.")
        if name == "tl.dot":
            return "float32"
        if name == "tl.where":
            return self._join(self.of(call.args[1]), self.of(call.args[2]))
        if name in ("tl.maximum", "tl.minimum", "power"):
            return self._join(self.of(call.args[0]), self.of(call.args[1]))
        return self.of(call.args[0]) if call.args else None


# -- masks -------------------------------------------------------------------------------------------------------------


def needless_masks(function: ast.FunctionDef, facts: KernelFacts) -> Iterator[str]:
    """Bounds that no lane can pass: the size is known, and tiles divide it."""
    tiles = {}
    for node in _in_order(function.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            block = _tile_of(node.value, facts)
            if block:
                tiles[node.targets[0].id] = block
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and isinstance(node.ops[0], ast.Lt):
            size = _number(node.comparators[0], facts)
            if size and node.left.id in tiles and size % tiles[node.left.id] == 0:
                yield f"{ast.unparse(node)} holds for every lane: {size} is whole tiles of {tiles[node.left.id]}"


def _tile_of(node: ast.expr, facts: KernelFacts) -> int:
    """The lanes of `program · ROWS + tl.arange(0, ROWS)`, 0 where an expression is no index."""
    lanes = [_number(n.args[1], facts) for n in ast.walk(node) if isinstance(n, ast.Call) and _called(n) == "tl.arange"]
    return lanes[0] or 0 if len(lanes) == 1 and not any(isinstance(n, ast.Compare) for n in ast.walk(node)) else 0


def _number(node: ast.expr, facts: KernelFacts) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return facts.constexprs.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _number(node.left, facts), _number(node.right, facts)
        return None if left is None or right is None else left * right
    return None


# -- parentheses -------------------------------------------------------------------------------------------------------


def needless_parentheses(function: ast.FunctionDef, source: str) -> Iterator[str]:
    """Statements with more parentheses than their syntax tree needs; `(row // 2) * 3` may have its own, for the eye."""
    lines = source.splitlines()
    for node in _in_order(function.body):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr) and not isinstance(node.value, ast.Constant):
            written = "\n".join(lines[node.lineno - 1 : node.end_lineno]).strip()
            if written.count("(") > ast.unparse(node).count("(") + sum(map(_is_scaled_index, ast.walk(node))):
                yield written


def _is_scaled_index(node: ast.AST) -> bool:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    return isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.FloorDiv | ast.Mod)


KERNEL_RULES: Mapping[str, Rule] = {
    "numbered name": numbered_names,
    "dead": dead_lines,
    "repeated": repeated_expressions,
    "idle cast": idle_casts,
    "needless mask": needless_masks,
}
LAUNCHER_RULES: Mapping[str, Rule] = {"numbered name": numbered_names, "dead": dead_lines}
