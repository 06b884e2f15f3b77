"""What a kernel says, whatever it calls its variables and itself, and wherever it stands. Kernels that say the same
have the same IR: those of equal layers do, and one that an edit of the model has moved to another line.

It is the syntax tree that Triton reads, with numbers for names. Python's bytecode would not do: there `a and b` is the
same as two `if`s, and Triton computes both sides of it.
"""

from __future__ import annotations

import ast
import builtins
import sys
from types import FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.runtime.jit import JITFunction

TRITON_MODULES = ("triton", "triton.language")

SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp, ast.Global, ast.Nonlocal,
)  # fmt: skip
"""What gives names a scope of their own, or another one."""


class _Unknown(Exception):
    """Something of which it is not known what it does to the IR."""


def meaning_of(kernel: JITFunction) -> str | None:
    """Equal only for kernels that Triton makes the same IR of, given the same types and constants in the same places.
    None where that is not known: of closures, and of kernels that use anything but Triton's language, helpers that are
    `triton.jit` functions, and constants."""
    try:
        return repr(_meaning(kernel, (), keeps_names=False))
    except _Unknown:
        return None


def described(value: Any) -> str | None:
    """A constant as text that says everything about it; None for objects of which that is not known."""
    if value is None or isinstance(value, (bool, int, float, str, tl.dtype)):
        return f"{type(value).__name__} {value!r}"
    return None


def _meaning(kernel: JITFunction, callers: tuple[JITFunction, ...], *, keeps_names: bool) -> tuple[Any, ...]:
    """Of a function. One that is called keeps the names of its parameters, by which arguments may be passed."""
    if any(kernel is caller for caller in callers) or kernel.fn.__closure__:
        raise _Unknown
    function = kernel.parse().body[0]  # what Triton reads, not what Python runs
    assert isinstance(function, ast.FunctionDef)
    function.decorator_list = []
    if ast.get_docstring(function, clean=False) is not None:
        del function.body[0]
    nodes = [node for node in ast.walk(function) if node is not function]
    if any(isinstance(node, SCOPES) for node in nodes):
        raise _Unknown
    taken = [node.arg for node in nodes if isinstance(node, ast.arg)]
    named = [node for node in nodes if isinstance(node, ast.Name)]
    local = dict.fromkeys([*taken, *(node.id for node in named if not isinstance(node.ctx, ast.Load))])
    if any(name in kernel.__globals__ or hasattr(builtins, name) for name in local):
        raise _Unknown  # it may be either, by where it is read
    numbers = {name: f"local {number}" for number, name in enumerate(local)}
    numbers |= {name: name for name in taken if keeps_names}
    found: dict[str, Any] = {}
    for node in named:
        if node.id not in local:
            if node.id not in found:
                found[node.id] = len(found), _global(kernel, node.id, (*callers, kernel))
            node.id = f"global {found[node.id][0]}"
        else:
            node.id = numbers[node.id]
    for argument in (node for node in nodes if isinstance(node, ast.arg)):
        argument.arg = numbers[argument.arg]
    function.name = ""
    parameters = [
        (p.is_constexpr, p.annotation_type, _known(p.default) if p.has_default else "") for p in kernel.params
    ]
    return (
        ast.dump(function),
        [meaning for _, meaning in found.values()],
        parameters,
        kernel.noinline,
        sys.version_info[:2],
    )


def _global(kernel: JITFunction, name: str, callers: tuple[JITFunction, ...]) -> Any:
    """What a name stands for that is none of the function's own."""
    if name not in kernel.__globals__:
        return f"builtin {name}"
    value = kernel.__globals__[name]
    if isinstance(value, JITFunction):
        return _meaning(value, callers, keeps_names=True)
    if isinstance(value, ModuleType):
        if value.__name__ in TRITON_MODULES:
            return value.__name__
        raise _Unknown
    if isinstance(value, FunctionType) and value.__module__.startswith("triton.language."):
        return f"{value.__module__}.{value.__qualname__}"
    return _known(value)


def _known(value: Any) -> str:
    if isinstance(value, tl.constexpr):
        return f"constexpr {_known(value.value)}"
    text = described(value)
    if text is None:
        raise _Unknown
    return text
