"""A failing case as a script: kernel and reference with what they use of their author's files, and the tensors."""

from __future__ import annotations

import ast
import base64
import inspect
import io
import textwrap
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ir.core.errors import KernelError
from .own_files import imports_of_own_files, own_file

MOST_BYTES = 2**18
"""Of the tensors of a script, packed."""


def reproduction(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    arguments: tuple[Any, ...],
    how: Mapping[str, Any],
    title: str,
) -> str:
    """A script that checks `kernel` with `reference` on `arguments`. Raises `KernelError` where one of the functions
    has no source of its own or of files that import from each other in a circle, or where the tensors are too large."""
    texts: list[str] = []
    names: list[str] = []
    functions = [("kernel", kernel), ("reference", reference)]
    functions += [("grid", how["grid"])] if callable(how.get("grid")) else []
    for role, function in functions:
        try:
            text, name = _source(function, role)
        except RecursionError:
            raise KernelError(f"reproduction: files of the {role} import from each other in a circle") from None
        names.append(name)
        if text and text not in texts:
            texts.append(text)
    future, body = _future_first(texts)
    imported = [
        f"# Imports {name}, which this script does not hold: {file}, sha256 {digest}."
        for name, file, digest in imports_of_own_files("\n".join(body))
    ]
    spelled = {key: names[-1] if callable(value) else repr(value) for key, value in how.items() if value is not None}
    given = "".join(f"    {key}={value},\n" for key, value in spelled.items())
    return "\n".join(
        [
            f'"""{title}: written by tritonnotes; run it with `python`."""',
            *future,
            *imported,
            *body,
            "import base64, io, zlib",
            "",
            "import torch",
            "import tritonnotes",
            "",
            f"packed = (\n{_packed(arguments)})",
            "arguments = torch.load(io.BytesIO(zlib.decompress(base64.b85decode(packed))), weights_only=True)",
            "certificate = tritonnotes.check(",
            f"    {names[0]},\n    {names[1]},\n    *arguments,\n{given}    edge_cases=False,\n)",
            "print(certificate)",
            "raise SystemExit(0 if certificate.ok else 1)",
            "",
        ]
    )  # fmt: skip


def _packed(arguments: tuple[Any, ...]) -> str:
    held = io.BytesIO()
    kept = [a.detach().cpu() if isinstance(a, Tensor) else a for a in arguments]
    torch.save([_alone(a) for a in kept], held)
    packed = base64.b85encode(zlib.compress(held.getvalue(), 9)).decode("ascii")
    if len(packed) > MOST_BYTES:
        raise KernelError(
            f"reproduction: the tensors take {len(packed):,} bytes, more than {MOST_BYTES:,}; check smaller ones"
        )
    return "".join(f"    {line!r}\n" for line in textwrap.wrap(packed, 100, break_on_hyphens=False))


def _alone(argument: Any) -> Any:
    """A tensor without what else lies in its storage, unless its strides say that it is a part of something."""
    return argument.clone() if isinstance(argument, Tensor) and argument.is_contiguous() else argument


def _source(function: Any, role: str) -> tuple[str, str]:
    """The text that defines a function, and how it is called behind it: torch's own by its name; another one by its
    own lines and those of its file that it uses."""
    while not inspect.isfunction(function) and hasattr(function, "fn"):
        function = function.fn  # of a kernel, and of what tunes one
    name = getattr(function, "__name__", "")
    for module in (torch, torch.nn.functional, torch.special):
        if name and getattr(module, name, None) is function:
            return "", f"{module.__name__}.{name}"
    if not inspect.isfunction(function):
        raise KernelError(f"reproduction: the {role} is {function!r}, which has no source; pass a function of a file")
    try:
        file, lines = inspect.getsourcefile(function), inspect.findsource(function)[0]
    except (OSError, TypeError):
        raise KernelError(f"reproduction: the {role} {name} has no source; define it in a file") from None
    if function.__code__.co_freevars:
        around = ", ".join(function.__code__.co_freevars)
        raise KernelError(
            f"reproduction: the {role} {name} uses {around} of the function around it; define it at the level of its "
            "file"
        )
    whole = "".join(lines)
    node = _definition(whole, function)
    used = _used(whole, node)
    head = f"# -- of {file.rpartition('/')[2] if file else 'a file'} --"
    if isinstance(node, ast.Lambda):
        return "\n".join([head, *used]), f"({ast.get_source_segment(whole, node)})"
    return "\n".join([head, *used, textwrap.dedent(_lines(whole, node))]), name


def _definition(whole: str, function: Any) -> ast.Lambda | ast.FunctionDef:
    line = function.__code__.co_firstlineno
    kind = ast.Lambda if function.__name__ == "<lambda>" else ast.FunctionDef
    found = [n for n in ast.walk(ast.parse(whole)) if isinstance(n, kind) and _first_line(n) == line]
    if len(found) != 1:
        raise KernelError(f"reproduction: line {line} has {len(found)} functions; give each a line of its own")
    return found[0]


def _used(whole: str, node: ast.AST) -> list[str]:
    """The statements of a file that `node` uses, and that these use, in the order of the file."""
    return _defining(whole, _names_in(node), (_first_line(node), getattr(node, "end_lineno", None)))


def _defining(whole: str, wanted: set[str], own: tuple[int, int | None] = (0, None)) -> list[str]:
    """The statements of a file that define the names `wanted`, and what these use, but for the one on the lines `own`.
    Those that import from files of the same author stand as what they import."""
    statements = [s for s in ast.parse(whole).body if not (isinstance(s, ast.If) and "__name__" in ast.unparse(s.test))]
    binds = [_bound(statement) for statement in statements]
    read: dict[int, set[str]] = {}
    waiting = [wanted]
    while waiting:
        names = waiting.pop()
        for place, statement in enumerate(statements):
            is_itself = (_first_line(statement), statement.end_lineno) == own
            if not is_itself and names & binds[place]:
                if place not in read:
                    waiting.append(_names_in(statement))
                read.setdefault(place, set()).update(names & binds[place])
    future = [s for s in statements if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    taken = [_needed(whole, s, read[place]) for place, s in enumerate(statements) if place in read]
    return [*(_lines(whole, s) for s in future), *taken]


def _names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _needed(whole: str, statement: ast.stmt, names: set[str]) -> str:
    """A statement; of an import the names that are read, or their source where it is of a file of the author's."""
    file = _imported_file(statement)
    if isinstance(statement, ast.ImportFrom) and file is not None:
        of = {name: next((a.name for a in statement.names if _name_of(a) == name), name) for name in sorted(names)}
        defined = _defining(file.read_text(encoding="utf-8"), set(of.values()))
        renamed = [f"{name} = {original}" for name, original in of.items() if name != original]
        return "\n".join([f"# -- of {file.name} --", *defined, *renamed])
    if isinstance(statement, ast.Import | ast.ImportFrom):
        statement.names = [a for a in statement.names if _name_of(a) in names]
        return ast.unparse(statement)
    return _lines(whole, statement)


def _imported_file(statement: ast.stmt) -> Path | None:
    """The file of the same author that `from module import ...` reads."""
    if not isinstance(statement, ast.ImportFrom) or statement.module is None or statement.level:
        return None
    return own_file(statement.module)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a file defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    file = _imported_file(statement)
    if file is not None and any(alias.name == "*" for alias in getattr(statement, "names", ())):
        bound = (_bound(inner) for inner in ast.parse(file.read_text(encoding="utf-8")).body)
        return {name for found in bound for name in found if not name.startswith("_")}
    imported = [alias for n in ast.walk(statement) if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names]
    return names | set(map(_name_of, imported))


def _name_of(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _first_line(node: Any) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def _lines(whole: str, node: Any) -> str:
    return "\n".join(whole.splitlines()[_first_line(node) - 1 : node.end_lineno])


def _future_first(texts: list[str]) -> tuple[list[str], list[str]]:
    """The lines `from __future__`, which stand first in a file, and the texts without them."""
    future: dict[str, None] = {}
    bodies = []
    for text in texts:
        kept = []
        for line in text.splitlines():
            if line.startswith("from __future__ import"):
                future[line] = None
            else:
                kept.append(line)
        bodies.append("\n".join([*kept, ""]))
    return list(future), bodies
