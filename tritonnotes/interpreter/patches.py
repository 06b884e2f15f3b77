"""`triton.language` redirected to the interpreter for as long as a launch lasts, and put back after it.

Triton's own `_patch_lang` searches every module anew for each launch and each call of a helper (0.4 ms each).
Here it runs once; what it changed is recorded, and a launch only sets and restores those attributes.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import triton.language as tl
import triton.runtime.interpreter as upstream
from triton.runtime.jit import JITFunction

from . import builder as build
from . import fastpaths
from .rewrite import AND, ASSIGN, NOT, OR, RANGE, rewrite

_ABSENT = object()
_REWRITTEN = "__tritonnotes_rewritten__"
_Patch = tuple[Any, str, Any, Any]


def _assign(value: Any) -> Any:
    if isinstance(value, tl.tensor):
        return value
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_assign(item) for item in value)
    return build.semantic.to_tensor(value, False)


def _range(*bounds: Any) -> Iterator[tl.tensor]:
    wide = any(isinstance(bound, tl.tensor) and bound.dtype.primitive_bitwidth == 64 for bound in bounds)
    constant, dtype = (build.builder.get_int64, tl.int64) if wide else (build.builder.get_int32, tl.int32)
    for value in range(*(int(tl.core._unwrap_if_constexpr(bound)) for bound in bounds)):
        yield tl.tensor(constant(value), dtype)


def _language_range(arg1: Any, arg2: Any = None, step: Any = None, **hints: Any) -> Iterator[tl.tensor]:
    start, stop = (0, arg1) if arg2 is None else (arg1, arg2)
    return _range(start, stop, 1 if step is None else step)


def _join(operands: tuple[Callable[[], Any], ...], stops: bool, method: str) -> Any:
    """`and` or `or` as the JIT has it: constants decide at once, tensors are all computed and joined."""
    joined = None
    value: Any = None
    for operand in operands:
        value = tl.core._unwrap_if_constexpr(operand())
        if not isinstance(value, tl.tensor):
            if bool(value) is stops:
                return value
        else:
            joined = value if joined is None else getattr(joined, method)(value)
    return value if joined is None else joined


def _and(*operands: Callable[[], Any]) -> Any:
    return _join(operands, False, "logical_and")


def _or(*operands: Callable[[], Any]) -> Any:
    return _join(operands, True, "logical_or")


def _not(operand: Any) -> Any:
    operand = tl.core._unwrap_if_constexpr(operand)
    return build.semantic.not_(operand) if isinstance(operand, tl.tensor) else not operand


_OPERATIONS = {ASSIGN: _assign, RANGE: _range, AND: _and, OR: _or, NOT: _not}


def rewritten(kernel: JITFunction) -> Callable[..., Any]:
    """The Python function for `kernel`, made on first use and kept for as long as the kernel lives."""
    known = kernel.fn.__dict__.get(_REWRITTEN)
    if known is None or known[0] is not kernel.src:
        # Triton lets a function's source be replaced; the cached function belongs to one source.
        known = (kernel.src, rewrite(kernel, _OPERATIONS))
        kernel.fn.__dict__[_REWRITTEN] = known
    return known[1]


def _index(self: tl.tensor) -> int:
    return int(self.handle.data.item())


def _call_helper(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
    return rewritten(self)(*args, **kwargs)


def _reduce(input: Any, axis: Any, combine_fn: Any, keep_dims: Any = False, **_: Any) -> Any:
    unwrap = tl.core._unwrap_if_constexpr
    return build.Reduction(unwrap(axis), combine_fn, unwrap(keep_dims)).apply(input)


def _builtin(member: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs["_semantic"] = build.semantic
        return member(*args, **kwargs)

    return call


def _bound_helper(helper: JITFunction) -> Callable[..., Any]:
    return lambda *args, **kwargs: rewritten(helper)(*args, **kwargs)


def _record() -> list[_Patch]:
    """(object, name, original, replacement) of everything a launch replaces."""
    # Triton imports its compiler late, and the compiler keeps copies of functions of `tl`: never of replacements.
    importlib.import_module("triton.compiler.code_generator")
    namespace = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = upstream._patch_lang(namespace)
    places = {(id(owner), name): (owner, name) for owner, name, _ in scope._changes}
    replaced = {key: vars(owner)[name] for key, (owner, name) in places.items()}
    scope.restore()

    patches: list[_Patch] = []
    for key, (owner, name) in places.items():
        original = vars(owner).get(name, _ABSENT)
        replacement = replaced[key]
        if tl.core.is_builtin(original) and getattr(replacement, "__name__", "") == "<lambda>":
            # A builtin is `wrapper(fn)`, and the wrapper only insists on the argument that is given here.
            replacement = _builtin(getattr(original, "__wrapped__", original))
        patches.append((owner, name, original, replacement))
    for name, member in vars(tl.tensor).items():
        if isinstance(member, JITFunction):  # x.sum() and its like
            patches.append((tl.tensor, name, member, _bound_helper(member)))
    own: list[tuple[Any, str, Any]] = [
        (tl, "reduce", _reduce),
        (tl.core, "reduce", _reduce),
        (tl, "range", _language_range),
        (tl.core, "range", _language_range),
        (JITFunction, "__call__", _call_helper),
        (upstream, "_get_np_dtype", build.np_dtype),
        (tl.tensor, "__index__", _index),  # Triton 3.6 fails here with a numpy of today
        (tl.tensor, "__init__", fastpaths.tensor_init),
        (tl.block_type, "with_element_ty", fastpaths.with_element_ty),
    ]
    places_of_replicated = {(id(owner), name) for owner, name, _ in own}
    patches = [patch for patch in patches if (id(patch[0]), patch[1]) not in places_of_replicated]
    patches += [(owner, name, vars(owner).get(name, _ABSENT), new) for owner, name, new in own]
    return patches


class Redirection:
    """Context manager: attributes are set on the outermost entry and restored on its exit, come what may."""

    def __init__(self) -> None:
        self._patches: list[_Patch] | None = None
        self._depth = 0

    def __enter__(self) -> None:
        if self._patches is None:
            self._patches = _record()
        self._depth += 1
        if self._depth == 1:
            for owner, name, _, replacement in self._patches:
                setattr(owner, name, replacement)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            assert self._patches is not None
            for owner, name, original, _ in self._patches:
                if original is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)


redirected = Redirection()
