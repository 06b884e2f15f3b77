"""The names of a formula's local variables, read off its frame when it returns.

They become the names of values, and so of the variables in generated kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .graph import Graph, Value

_OWN_MODULES = frozenset(
    f"{__name__.rpartition('.core.')[0]}.{module}"
    for module in (
        *(f"core.{name}" for name in ("apply", "graph", "op", "optimizer", "registry", "types")),
        *(f"primitives.{name}" for name in ("chunked", "collectives", "contractions", "elementwise", "leaves")),
        *(f"primitives.{name}" for name in ("derivative", "reductions", "shapes")),
        "passes.gradients",
    )
)
"""Their variables are nobody's names for anything."""

_PACKAGE = f"{__name__.partition('.ir.')[0]}."
_FORMULAS = f"{_PACKAGE}ir."
"""Nor are those of our code above `ir`, which stands between a formula and the ops that it calls."""


@contextmanager
def capture_names(graph: Graph, start: int) -> Iterator[None]:
    """Name the values that `graph` gains from index `start` on after the variables of the functions that make them."""

    def on_return(frame: FrameType, event: str, arg: Any) -> None:
        if event != "return" or _is_own(frame.f_globals.get("__name__", "")):
            return
        code = frame.f_code
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        for name, value in frame.f_locals.items():
            if name in parameters:  # an argument is the caller's value, to be named by the caller
                continue
            if isinstance(value, Value) and value.graph is graph and value.index >= start and value.hint is None:
                value.hint = name

    with _at_returns(on_return):
        yield


def _is_own(module: str) -> bool:
    return module in _OWN_MODULES or (module.startswith(_PACKAGE) and not module.startswith(_FORMULAS))


Hook = Callable[[FrameType, str, Any], None]


@contextmanager
def _at_returns(hook: Hook) -> Iterator[None]:
    """Call `hook` when functions of this thread return. A profiler or a tracer of Python's pauses meanwhile."""
    profiler = sys.getprofile()
    if profiler is None or callable(profiler):
        sys.setprofile(hook)
        try:
            yield
        finally:
            sys.setprofile(profiler)
        return
    # A profiler written in C, such as cProfile's, cannot be put back from here: it stays, and returns are traced.
    tracer = sys.gettrace()

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        frame.f_trace_lines = False
        return on_event

    def on_event(frame: FrameType, event: str, arg: Any) -> Any:
        hook(frame, event, arg)
        return on_event

    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(tracer)
