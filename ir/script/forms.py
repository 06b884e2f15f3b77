"""How values are written: for each a few forms, the one that reads best first. Which holds, `replay.py` says."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.graph import Value
from ..core.op import Op
from ..core.registry import Operator
from ..core.types import Dim, DimProduct, DType, product_of
from ..ops.declare import Declare
from .expressions import (
    AND,
    COMPARISON,
    OR,
    POWER,
    PRODUCT,
    SUM,
    Expr,
    called,
    infix,
    literal,
    number,
    prefix,
)
from .replay import STATE, Form

Dims = dict[str, str]
LIFTED = ("constant", "dim_size", "cast")
"""What Python's numbers and sizes become beside a Value, and what brings two dtypes together."""


def is_layer(op: Operator) -> bool:
    """Whether an op declares parameters of its own, and so always has a name."""
    defaults = [p.default for p in op.__signature__.parameters.values()] if isinstance(op, Op) else []
    return any(isinstance(default, Declare) for default in defaults) or op.name == "instance_norm"


OPERATORS: Mapping[str, Callable[..., Expr]] = {
    "add": infix("+", SUM), "sub": infix("-", SUM), "mul": infix("*", PRODUCT), "div": infix("/", PRODUCT),
    "pow": infix("**", POWER), "eq": infix("==", COMPARISON), "ne": infix("!=", COMPARISON),
    "lt": infix("<", COMPARISON), "le": infix("<=", COMPARISON), "gt": infix(">", COMPARISON),
    "ge": infix(">=", COMPARISON), "logical_and": infix("&", AND), "logical_or": infix("|", OR),
    "neg": prefix("-"), "logical_not": prefix("~"),
}  # fmt: skip
REDUCTIONS: Mapping[str, str] = {"sum": "sum", "max": "amax", "min": "amin"}
"""Primitives that reduce, and the functions of `tn` that call them."""

INNER = frozenset(("running_mean", "running_var"))
"""Ops that others declare, of which `tn` has no function."""

FUNCTIONS: Mapping[str, str] = {"cross_entropy_of_probabilities": "cross_entropy"}
"""Ops that a function of another name declares."""


def lifted_end(values: Sequence[Value], start: int) -> int:
    """Where the first value stands that is no number or cast beside another."""
    end = start
    while end < len(values) and (values[end].op.name in LIFTED or _is_size_product(values[end])):
        end += 1
    return end


def _is_size_product(value: Value) -> bool:
    return value.op.name == "mul" and value.dtype.name == "host"


def forms(values: Sequence[Value], start: int, names: Mapping[Value, str], dims: Dims) -> Iterator[Form]:
    """The ways to write what stands at `start` of a graph's values without its leaves, `names` being those of values
    that are to have one."""
    end = lifted_end(values, start)
    for value in values[end : end + 1]:
        inside = {v: v for v in values[start:end]}
        for short in (True, False):
            known = {v: _written(v, inside, short, dims) for v in inside}
            yield from _named(_forms_of(values, end, value, known, names, dims), names)
            if not inside:
                break
    if values[start].op.name in LIFTED:
        yield from _named(_lifted(values[start]), names)


def _named(found: Iterator[Form], names: Mapping[Value, str]) -> Iterator[Form]:
    """Forms that give a name to what is to have one and has no argument for it."""
    for form in found:
        name = names.get(form.result)
        if name is None or isinstance(form.result.op, Op):
            yield form
            continue
        yield Form(form.result, form.args, _keeping(form.build, name))


def _keeping(build: Callable[..., Expr], name: str) -> Callable[..., Expr]:
    return lambda *args: called("g.keep_name", [build(*args).text, json.dumps(name)])


def _written(value: Value, inside: Mapping[Value, Value], short: bool, dims: Dims) -> Expr | Value | None:
    """A lifted value where it is read: a number, a size, or the value that was cast; None for what has no such form."""
    if value.op.name == "constant":
        return number(value.attrs["value"], short=short)
    if value.op.name == "dim_size":
        return Expr(dims[value.attrs["dim"]])
    if value.op.name == "cast":
        (source,) = value.inputs
        return _written(source, inside, short, dims) if source in inside else source
    sizes = _sizes(value, inside)
    made = None if sizes is None else product_of(sizes)
    return Expr(literal(made, dims), PRODUCT) if isinstance(made, DimProduct) else None


def _sizes(value: Value, inside: Mapping[Value, Value]) -> list[Any] | None:
    """The factors of a product of sizes."""
    if value.op.name == "constant" and float(value.attrs["value"]).is_integer():
        return [int(value.attrs["value"])]
    if value.op.name == "dim_size":
        return [Dim(value.attrs["dim"])]
    parts = [_sizes(v, inside) for v in value.inputs] if _is_size_product(value) else [None]
    return None if any(part is None for part in parts) else [size for part in parts if part for size in part]


def _lifted(value: Value) -> Iterator[Form]:
    """A number or a cast by itself."""
    dtype = json.dumps(value.dtype.name)
    if value.op.name == "cast":
        yield Form(value, value.inputs, lambda x: called("tn.cast", [x.text, dtype]))
    if value.op.name == "constant":
        shown = number(value.attrs["value"], short=False).text
        yield Form(value, (), lambda: called("g.constant", [shown]))
        yield Form(value, (), lambda: called("g.constant", [shown, dtype]))


def _forms_of(
    values: Sequence[Value],
    at: int,
    value: Value,
    known: Mapping[Value, Expr | Value | None],
    names: Mapping[Value, str],
    dims: Dims,
) -> Iterator[Form]:
    if isinstance(value.op, Op):
        yield from _op_forms(values, at, value, known, names, dims)
        return
    following = values[at + 1] if at + 1 < len(values) else None
    if following is not None and following.op.name == "reshape" and following.args[0] is value:
        yield from _with_reshape(value, following, known)
    arguments = _Arguments(value.args, known)
    if value.op.name in OPERATORS:
        yield Form(value, arguments.read, arguments.into(OPERATORS[value.op.name]))
    if (build := _PRIMITIVES.get(value.op.name)) is not None:
        yield from (Form(value, arguments.read, arguments.into(made)) for made in build(value, dims))
    elif value.op.kind == "elementwise":
        yield Form(value, arguments.read, arguments.into(_function(value.op.name)))
    yield Form(value, arguments.read, arguments.into(_general(value, names, dims)))


class _Arguments:
    """The arguments of a call: `read` are values that the script has, the others are written where they stand."""

    def __init__(self, args: Sequence[Value | None], known: Mapping[Value, Expr | Value | None]) -> None:
        self._parts: list[int | Expr] = []
        read: list[Value] = []
        for arg in args:
            part = known.get(arg, arg) if arg is not None else Expr("None")
            if isinstance(part, Expr):
                self._parts.append(part)
                continue
            value = arg if part is None else part
            assert value is not None
            self._parts.append(len(read))
            read.append(value)
        self.read = tuple(read)

    def into(self, build: Callable[..., Expr]) -> Callable[..., Expr]:
        """`build` of all arguments, as a function of those that are read."""
        return lambda *given: build(*(given[p] if isinstance(p, int) else p for p in self._parts))


def _function(name: str, *more: str) -> Callable[..., Expr]:
    return lambda *args: called(f"tn.{name}", [*(a.text for a in args), *more])


def _general(value: Value, names: Mapping[Value, str], dims: Dims) -> Callable[..., Expr]:
    """What writes any op: `g.call`."""
    attrs = {key: _attr(attr, dims) for key, attr in value.attrs.items()}
    named = {"name": json.dumps(names[value])} if value in names and isinstance(value.op, Op) else {}
    return lambda *args: called("g.call", [json.dumps(value.op.name), *(a.text for a in args)], **named, **attrs)


def _attr(attr: object, dims: Dims) -> str:
    """An attribute as `g.call` takes it; a dtype by its name."""
    return json.dumps(attr.name) if isinstance(attr, DType) else literal(attr, dims)


# -- primitives --------------------------------------------------------------------------------------------------------


def _with_reshape(value: Value, shaped: Value, known: Mapping[Value, Expr | Value | None]) -> Iterator[Form]:
    """A reduction without the axes that it reduces, and one element of an axis."""
    arguments = _Arguments(value.args, known)
    if value.op.name in REDUCTIONS:
        name, axes = REDUCTIONS[value.op.name], value.attrs["axes"]
        for shown in _axes(axes, len(value.shape)):
            yield Form(shaped, arguments.read, arguments.into(_function(name, *shown)))
    if value.op.name == "narrow" and value.attrs["length"] == 1:
        key = ", ".join([*(":" for _ in range(value.attrs["axis"])), str(value.attrs["start"])])
        yield Form(shaped, arguments.read, arguments.into(lambda x: Expr(f"{x.within(8)}[{key}]")))


def _axes(axes: Sequence[int], rank: int) -> list[tuple[str, ...]]:
    """Axes as an argument behind the first: none for all of them, the last as −1."""
    everything: list[tuple[str, ...]] = [()] if len(axes) == rank else []
    if len(axes) == 1:
        return [*everything, ("-1",) if axes[0] == rank - 1 else (str(axes[0]),)]
    return [*everything, (str(tuple(axes)),)]


def _kept(value: Value, dims: Dims) -> Iterator[Callable[..., Expr]]:
    for shown in _axes(value.attrs["axes"], len(value.shape)):
        yield _function(REDUCTIONS[value.op.name], *(shown or ("None",)), "keepdim=True")


def _shaped(name: str, value: Value, dims: Dims) -> Iterator[Callable[..., Expr]]:
    yield _function(name, literal(value.attrs["shape"], dims))


def _matmul(value: Value, dims: Dims) -> Iterator[Callable[..., Expr]]:
    if value.attrs["transpose_b"]:
        yield _function("matmul", "transpose_b=True")
    else:
        yield infix("@", PRODUCT)


def _joined(value: Value, dims: Dims) -> Iterator[Callable[..., Expr]]:
    axis = value.attrs["axis"]
    last = "-1" if axis == len(value.shape) - 1 else str(axis)
    yield lambda *args: called("tn.cat", [f"[{', '.join(a.text for a in args)}]", last])


def _swapped(value: Value, dims: Dims) -> Iterator[Callable[..., Expr]]:
    axes = value.attrs["axes"]
    moved = [axis for axis, source in enumerate(axes) if axis != source]
    if axes == (1, 0):
        yield lambda x: Expr(f"{x.within(8)}.T")
    if len(moved) == 2:
        yield _function("transpose", *map(str, moved))


_PRIMITIVES: Mapping[str, Callable[[Value, Dims], Iterator[Callable[..., Expr]]]] = {
    **dict.fromkeys(REDUCTIONS, _kept),
    "reshape": lambda value, dims: _shaped("reshape", value, dims),
    "broadcast_to": lambda value, dims: _shaped("broadcast_to", value, dims),
    "matmul": _matmul,
    "cat": _joined,
    "transpose": _swapped,
    "narrow": lambda value, dims: iter([_function("narrow", *(str(a) for a in value.attrs.values()))]),
}
"""Primitives with attributes that functions of `tn` write otherwise."""


# -- ops ---------------------------------------------------------------------------------------------------------------


def _op_forms(
    values: Sequence[Value],
    at: int,
    value: Value,
    known: Mapping[Value, Expr | Value | None],
    names: Mapping[Value, str],
    dims: Dims,
) -> Iterator[Form]:
    """A call of the function of `tn`: with the parameters that it declares, or given; then by `g.call`."""
    op = value.op
    assert isinstance(op, Op)
    if not op.custom and op.name not in INNER:
        for declares in (STATE, ("parameter",), ()):
            for drops in (True, False):
                wanted = _wanted(values, at, value, declares, dims)
                yield from _op_form(value, wanted, known, names, drops)
    arguments = _Arguments(value.args, known)
    yield Form(value, arguments.read, arguments.into(_general(value, names, dims)))


Wanted = dict[str, Value | str | tuple[str, ...] | None]
"""The arguments of a function by its own names: values, and literals; a tuple of literals stands for `*sizes`."""


def _op_form(
    value: Value,
    wanted: Wanted,
    known: Mapping[Value, Expr | Value | None],
    names: Mapping[Value, str],
    drops: bool,
) -> Iterator[Form]:
    """The call with arguments by position as far as they go, then by name; with `drops` without defaults."""
    op = value.op
    assert isinstance(op, Op)
    placed: list[Value | Expr] = []
    named: dict[str, Value | Expr] = {}
    by_position = True
    for name, parameter in op.__signature__.parameters.items():
        if name not in wanted:
            by_position = False
            continue
        given = wanted[name]
        if isinstance(given, tuple):
            placed += [Expr(part) for part in given]
            continue
        shown = given if isinstance(given, Value) else Expr("None" if given is None else given)
        if drops and isinstance(shown, Expr) and shown.text == _default(parameter):
            by_position = False
            continue
        is_size = isinstance(shown, Value) or name in _BY_POSITION
        by_position = by_position and is_size and parameter.kind is not parameter.KEYWORD_ONLY
        if by_position:
            placed.append(shown)
        else:
            named[name] = shown
    if value in names and op.takes_name:
        named["name"] = Expr(json.dumps(names[value]))
    parts = [*placed, *named.values()]
    arguments = _ArgumentsOrText(parts, known)
    function = f"tn.{FUNCTIONS.get(op.name, op.name)}"

    def build(*args: Expr) -> Expr:
        texts = [a.text for a in args]
        return called(function, texts[: len(placed)], **dict(zip(named, texts[len(placed) :], strict=True)))

    yield Form(value, arguments.read, arguments.into(build))


class _ArgumentsOrText(_Arguments):
    """Arguments, some of which are text already."""

    def __init__(self, parts: Sequence[Value | Expr], known: Mapping[Value, Expr | Value | None]) -> None:
        super().__init__([part if isinstance(part, Value) else None for part in parts], known)
        self._parts = [p if isinstance(part, Value) else part for p, part in zip(self._parts, parts, strict=True)]


_BY_POSITION = frozenset(
    ("out_features", "num_embeddings", "embedding_dim", "num_groups", "dim", "start_dim", "end_dim", "p")
)
"""Numbers that are given by position, as users of torch give them."""


def _default(parameter: inspect.Parameter) -> str | None:
    default = parameter.default
    if default is None or isinstance(default, bool | int | float | str):
        return "None" if default is None else literal(default, {})
    return None


def _wanted(values: Sequence[Value], at: int, value: Value, declares: Sequence[str], dims: Dims) -> Wanted:
    """What the function of an op is to be given, without the leaves of the kinds `declares` that it can declare."""
    op = value.op
    assert isinstance(op, Op)
    parameters = [p for p in op.__signature__.parameters.values() if p.name != "name"]
    args = dict(zip(op.arg_names, value.args, strict=True))
    own = {n for n, v in args.items() if v is not None and v.op.name in declares and v.name == f"{value.name}.{n}"}
    takes = [p.name for p in parameters]
    renamed = {n: takes[i] for i, n in enumerate(op.arg_names) if n not in takes and i < len(takes)}
    wanted: Wanted = {}
    for name, arg in args.items():
        front = renamed.get(name, name)
        if front in takes and name not in own:
            wanted[front] = arg
    wanted |= {name: literal(attr, dims) for name, attr in value.attrs.items() if name in takes}
    if "dim" in wanted and isinstance(value.attrs.get("dim"), tuple):
        wanted["dim"] = _dim(value)
    if op.name in _SPECIAL:
        _SPECIAL[op.name](wanted, value, own, Around(values[at + 1 :], dims))
    return wanted


def _dim(value: Value) -> str:
    """Axes as one number where they are one, and as None where they are all."""
    (x, *_), dim = value.inputs, value.attrs["dim"]
    rank = len(x.shape)
    if value.op.name != "normalize" and sorted(dim) == [*range(rank)] and rank != 1:
        return "None"
    if len(dim) != 1:
        return str(dim)
    return "-1" if dim[0] == rank - 1 else str(dim[0])


@dataclass(frozen=True)
class Around:
    """The values that follow an op, and the script's variables of `Dim`s."""

    following: Sequence[Value]
    dims: Dims


Special = Callable[[Wanted, Value, set[str], Around], None]


def _linear(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    _, weight, bias = value.args
    assert weight is not None
    wanted.pop("out_features", None)
    if "weight" in own:
        wanted["out_features"] = str(weight.shape[0])
    if bias is None:
        wanted["bias"] = "False"


def _embedding(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    weight = value.args[1]
    assert weight is not None
    if "weight" in own:
        wanted["num_embeddings"], wanted["embedding_dim"] = map(str, weight.shape)
    if value.attrs["padding_idx"] < 0:
        wanted.pop("padding_idx")


def _normalized(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    (x, *_), dims = value.inputs, value.attrs["dims"]
    if dims != 1:
        wanted["normalized_shape"] = str(x.shape[len(x.shape) - dims :])


def _sizes_one_by_one(attribute: str) -> Special:
    def adapt(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
        front = "sizes" if attribute == "shape" else attribute
        wanted.pop(attribute, None)
        (x,) = value.inputs
        new = len(value.attrs[attribute]) - len(x.shape)
        # An axis that stays as it is is −1, so that no Dim need be named.
        stays = [new <= i and x.shape[i - new] == part for i, part in enumerate(value.attrs[attribute])]
        stays = [stay and attribute == "shape" for stay in stays]
        sizes = [literal(part, around.dims) for part in value.attrs[attribute]]
        shown = ["-1" if stay else size for stay, size in zip(stays, sizes, strict=True)]
        wanted[front] = tuple(shown)

    return adapt


def _weight_norm(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    if value.attrs["dim"] == -1:
        wanted["dim"] = "None"


def _prelu(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    weight = value.args[1]
    assert weight is not None
    if "weight" in own:
        wanted["num_parameters"] = str(weight.shape[0]) if weight.shape else "1"
        wanted["init"] = repr(weight.attrs.get("value"))


def _running(wanted: Wanted, value: Value, own: set[str], around: Around) -> None:
    """Norms with running statistics: what moves them stands behind, and says how much."""
    x, mean = value.args[:2]
    moving = next((v for v in around.following[:8] if v.op.name == "running_mean" and v.args[0] is x), None)
    if moving is not None:
        counted = moving.args[2] is not None
        wanted["momentum"] = "None" if counted else repr(moving.attrs["momentum"])
    if value.op.name == "instance_norm":
        wanted["use_input_stats"] = str(value.attrs["training"])
        if {"weight", "bias"} <= own:
            wanted["affine"] = "True"
        if {"running_mean", "running_var"} <= own:
            wanted["track_running_stats"] = "True"
    elif mean is None:
        del wanted["running_mean"], wanted["running_var"]
        wanted["track_running_stats"] = "False"


_SPECIAL: Mapping[str, Special] = {
    "linear": _linear,
    "embedding": _embedding,
    "layer_norm": _normalized,
    "rms_norm": _normalized,
    "expand": _sizes_one_by_one("shape"),
    "permute": _sizes_one_by_one("dims"),
    "weight_norm": _weight_norm,
    "prelu": _prelu,
    "batch_norm": _running,
    "instance_norm": _running,
}
"""Ops whose functions take something else than their formulas do."""
