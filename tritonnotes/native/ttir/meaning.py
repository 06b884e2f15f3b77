"""What a kernel says, whatever it calls its variables and itself, and wherever it stands. Kernels that say the same
have the same IR: those of equal layers do, and one that an edit of the model has moved to another line.

Python's own bytecode says it: there, variables are numbers. Names of other things (helpers, modules, attributes) stay.
"""

from __future__ import annotations

import ast
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.runtime.jit import JITFunction

TRITON_MODULES = ("triton", "triton.language")


class _Unknown(Exception):
    """Something of which it is not known what it does to the IR."""


def meaning_of(kernel: JITFunction) -> str | None:
    """Equal for kernels that Triton makes the same IR of, given the same types and constants in the same places. None
    where that is not known: of closures, and of kernels that use anything but Triton's language, helpers that are
    `triton.jit` functions, and numbers."""
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
    if any(kernel is caller for caller in callers):
        raise _Unknown
    tree = kernel.parse()  # what Triton reads, not what Python runs
    if any(isinstance(node, ast.AnnAssign) for node in ast.walk(tree)):
        raise _Unknown  # Python forgets what is said of a variable, and Triton does not
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.decorator_list = []
    outer = compile(tree, "kernel", "exec", dont_inherit=True)
    (code,) = (found for found in outer.co_consts if isinstance(found, CodeType))
    if code.co_freevars or code.co_cellvars or kernel.fn.__closure__ or code.co_exceptiontable:
        raise _Unknown
    constants = list(code.co_consts)
    if ast.get_docstring(function, clean=False) is not None:
        constants[0] = None
    if any(isinstance(constant, CodeType) for constant in constants):
        raise _Unknown
    names = [(name, _global(kernel, name, (*callers, kernel))) for name in code.co_names]
    parameters = [
        (p.is_constexpr, p.annotation_type, _known(p.default) if p.has_default else "") for p in kernel.params
    ]
    kept = code.co_varnames[: len(parameters)] if keeps_names else ()
    return (
        *(code.co_code, repr(constants), names, parameters, kept, code.co_argcount, code.co_kwonlyargcount),
        *(code.co_flags, kernel.noinline, sys.version_info[:2]),
    )


def _global(kernel: JITFunction, name: str, callers: tuple[JITFunction, ...]) -> Any:
    """What a name stands for where it is one of the module around a kernel. It may be an attribute's as well."""
    if name not in kernel.__globals__:
        return ""
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
