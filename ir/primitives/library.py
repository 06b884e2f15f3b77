"""Library ops: one call of torch for what has no formula here, and torch's own gradient of it.

A call is kept as plain data. `call` is the name of an overload, `arguments` are what it is given by position and
`options` what it is given by name, as pairs. In them "%0" stands for the first value, "none" for None, "device" for
the device of the run, "torch.NAME" for what torch calls so, and "'text" for a text; lists are tuples. A result is the
one numbered `which`, counted through tuples and lists. Its shape and dtype are said beside it, since only torch knows
them; where torch is there, it is asked whether they are right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..core.errors import DeclarationError
from ..core.graph import Graph, Value
from ..core.registry import ANY_NUMBER, PRIMITIVES, Primitive
from ..core.types import DType, Shape, as_shape
from .derivative import Cotangents

RESULT, GRADIENT = "library", "library_gradient"
LIBRARY_OPS = (RESULT, GRADIENT)
"""The primitives that torch computes by a call that is named in their attributes."""

NONE, DEVICE, TEXT, TENSOR, OF_TORCH = "none", "device", "'", "%", "torch."

_CALL = re.compile(r"[A-Za-z_]\w{0,63}\.[A-Za-z_]\w{0,99}\.[A-Za-z_]\w{0,63}", re.ASCII)
_WORD = re.compile(r"%(0|[1-9]\d{0,3})|none|device|torch\.[a-z_][a-z0-9_]{0,63}|'.*", re.ASCII | re.DOTALL)


class Torch:
    """What torch says of a call: bound from above, where there is torch. `check` raises `DeclarationError` for a call
    that torch does not have, that does more than to compute, or that gives something else; `reached` are the numbers of
    the values that a result's gradient reaches; `result` and `gradient` compute in float64."""

    check: Callable[[Sequence[Value], Mapping[str, Any]], None]
    reached: Callable[[Sequence[Value], Mapping[str, Any]], frozenset[int]]
    result: Callable[..., Any]
    gradient: Callable[..., Any]


def library(
    graph: Graph,
    args: Sequence[Value],
    call: str,
    arguments: tuple[object, ...],
    options: tuple[object, ...],
    which: int,
    shape: Shape,
    dtype: DType,
    name: str | None = None,
) -> Value:
    """Result number `which` of a call of torch, of this shape and dtype."""
    return graph.call(
        RESULT, *args, name=name, call=call, arguments=arguments, options=options, which=which, shape=shape, dtype=dtype
    )


def check_call(args: Sequence[object], attrs: Mapping[str, Any]) -> None:
    """Raise `DeclarationError` unless the attributes name a call, and its values are those of `args`, each once."""
    call, arguments, options = attrs["call"], attrs["arguments"], attrs["options"]
    if type(call) is not str or not _CALL.fullmatch(call):
        raise DeclarationError(f"library: call is {call!r}; it names an overload, as 'aten.conv2d.default' does")
    pairs = isinstance(options, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is str and pair[0].isidentifier()
        for pair in options
    )
    if not isinstance(arguments, tuple) or not pairs:
        raise DeclarationError(f"library: {call}: arguments are a tuple, and options a tuple of pairs (name, value)")
    words = [part for part in parts_of((arguments, tuple(pair[1] for pair in options))) if isinstance(part, str)]
    odd = [word for word in words if not _WORD.fullmatch(word)]
    if odd:
        raise DeclarationError(f"library: {call}: {odd[0]!r} is no argument; a text begins with a quote")
    if [word for word in words if word.startswith(TENSOR)] != [f"{TENSOR}{i}" for i in range(len(args))]:
        raise DeclarationError(f"library: {call}: its arguments name {len(args)} values in order, from %0 on")


def parts_of(value: object) -> Iterator[object]:
    """What a tuple holds, tuples in it opened."""
    if isinstance(value, tuple):
        for part in value:
            yield from parts_of(part)
    else:
        yield value


def call_key(value: Value) -> object:
    """The same for two values of one call: of all its results, or of all gradients of one result."""
    attrs = value.attrs
    return (
        value.op.name, repr((attrs["call"], attrs["arguments"], attrs["options"])),
        attrs.get("result"), tuple(map(id, value.inputs)),
    )  # fmt: skip


def call_of(value: Value) -> tuple[Value, ...]:
    """The values that a call is given, of which `value` is a result or a gradient."""
    return value.inputs[1:] if value.op.name == GRADIENT else value.inputs


def same_call(one: Value, other: Value) -> bool:
    """Whether two values are of the same call of torch: results of it or gradients."""
    a, b = one.attrs, other.attrs
    named = all(repr(a[key]) == repr(b[key]) for key in ("call", "arguments", "options"))
    mine, its = call_of(one), call_of(other)
    return named and len(mine) == len(its) and all(x is y for x, y in zip(mine, its, strict=True))


def _infer_library(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    check_call(args, attrs)
    Torch.check(args, attrs)
    return as_shape(attrs["shape"], attrs["call"]), attrs["dtype"]


def _library_vjp(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    reached = Torch.reached(args, attrs)
    said = {key: attrs[key] for key in ("call", "arguments", "options")}
    return tuple(
        d.graph.call(GRADIENT, d, *args, **said, result=attrs["which"], which=number) if number in reached else None
        for number in range(len(args))
    )


PRIMITIVES[RESULT] = Primitive(
    RESULT,
    "contraction",
    _infer_library,
    lambda *arrays, **attrs: Torch.result(arrays, MappingProxyType(attrs)),
    _library_vjp,
    ANY_NUMBER,
)


def _infer_gradient(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    _, *given = args
    check_call(given, attrs)
    Torch.check(args, attrs)
    if not 0 <= attrs["which"] < len(given):
        raise DeclarationError(f"{GRADIENT}: {attrs['call']}: there is no value {attrs['which']}")
    of = given[attrs["which"]]
    return of.shape, of.dtype


def _gradient_vjp(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    raise DeclarationError(f"{attrs['call']}: is a call of torch here, whose second derivatives are not supported")


PRIMITIVES[GRADIENT] = Primitive(
    GRADIENT,
    "contraction",
    _infer_gradient,
    lambda *arrays, **attrs: Torch.gradient(arrays, MappingProxyType(attrs)),
    _gradient_vjp,
    ANY_NUMBER,
)
