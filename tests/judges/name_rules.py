"""What names in generated source must be, read from its syntax: nothing has the name of another thing that it hides."""

from __future__ import annotations

import ast
from collections.abc import Iterator

MODULES = {"math", "torch", "triton", "tl"}


def name_complaints(source: str) -> list[str]:
    """What is wrong with the names of a generated module, a line each. Raises `SyntaxError` for what is no Python."""
    module = ast.parse(source)
    compile(module, "<generated>", "exec")  # finds what ast.parse lets pass, such as a parameter that is there twice
    defined = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    assigned = (t for node in module.body if isinstance(node, ast.Assign) for t in node.targets)
    defined += [t.id for t in assigned if isinstance(t, ast.Name)]
    found = [f"module: defines {name} twice" for name in sorted({n for n in defined if defined.count(n) > 1})]
    found += [f"module: redefines {name}" for name in sorted(set(defined) & MODULES)]
    for function in (node for node in module.body if isinstance(node, ast.FunctionDef)):
        found += [f"{function.name}: {what}" for what in _of_function(function, set(defined))]
    return found


def _of_function(function: ast.FunctionDef, defined: set[str]) -> Iterator[str]:
    arguments = function.args
    taken = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    # A name that is given a default of the same name, such as `launch=launch`, is meant to stand in for it.
    given = {a.arg for a, d in _defaults(arguments) if isinstance(d, ast.Name) and d.id == a.arg}
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    local = {*taken, *stored} - given
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in local:
                yield f"calls {node.func.id}, which is a variable here"
            kernel = node.args[0] if node.func.id == "launch" else None
            if isinstance(kernel, ast.Name) and (kernel.id in local or kernel.id not in defined):
                yield f"launches {kernel.id}, which is no function here"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES & local:
            yield f"{node.value.id}.{node.attr}, where {node.value.id} is a variable"
    for name in sorted(set(taken) & stored - _augmented(function)):
        yield f"assigns its argument {name}"
    for block in _blocks(function):
        yield from _assigned_twice(block)


def _defaults(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    late = positional[len(positional) - len(arguments.defaults) :]
    yield from zip(late, arguments.defaults, strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def _blocks(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(function):
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                yield block


def _assigned_twice(block: list[ast.stmt]) -> Iterator[str]:
    """A variable that is given a new value in the same block where the old one is no part of it."""
    seen: set[str] = set()
    for statement in block:
        if isinstance(statement, ast.Assign):
            read = {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
            targets = (n for t in statement.targets for n in ast.walk(t))
            names = [n.id for n in targets if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            for name in names:
                if name in seen and name not in read and name != "_":
                    yield f"assigns {name} twice"
                seen.add(name)


def _augmented(function: ast.FunctionDef) -> set[str]:
    nodes = (n.target for n in ast.walk(function) if isinstance(n, ast.AugAssign))
    return {n.id for n in nodes if isinstance(n, ast.Name)}
