"""Nodes that compute with numbers of the file and with sizes: they are computed when a file is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Value
from ..ir.core.types import Shape, product_of, quotient
from .operators.package import dtype_name, numpy_dtype, onnx_package
from .operators.rows import Found, Known

KEPT = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "If", "Loop",
    "Scan", "SequenceMap",
)  # fmt: skip
"""Operators that give other numbers each time, and those that hold graphs, whose inputs are more than is said."""


def folded(node: Any, given: Sequence[Found], attrs: Mapping[str, Any], opset: int) -> tuple[Known, ...] | None:
    """What a node gives whose inputs are all known; None of any other."""
    if node.op_type == "Constant":
        return (Known(node.output[0], _constant(attrs)),)
    if node.op_type in ("Shape", "Size") and isinstance(given[0], Value | Known):
        shape = given[0].shape if isinstance(given[0], Value) else given[0].array.shape
        return (Known(node.output[0], _sizes(node.op_type, shape, attrs)),)
    if node.op_type == "CastLike" and _is_number(given[0]) and isinstance(given[1], Value | Known):
        name = given[1].dtype.name if isinstance(given[1], Value) else given[1].dtype
        return (Known(node.output[0], given[0].array.astype(numpy_dtype(name))),)
    known = [part for part in given if part is not None]
    if not known or node.op_type in KEPT or not all(isinstance(part, Known) and not part.trained for part in known):
        return None
    if node.op_type in MADE_LARGE and _elements_of(node.op_type, known) > LARGEST:
        return None
    arrays = [part.array if isinstance(part, Known) else None for part in given]
    if all(part.is_plain for part in known if isinstance(part, Known)):
        results = _by_reference(node, arrays, opset)
    elif node.op_type in SYMBOLIC:
        try:
            results = [_tidy(SYMBOLIC[node.op_type](*arrays, **attrs))]
        except NoSizeError:
            return None
    else:
        return None
    return tuple(Known(name, result) for name, result in zip(node.output, results, strict=False))


MADE_LARGE = ("ConstantOfShape", "Expand", "Tile", "Range")
LARGEST = 2**12
"""Operators that make many numbers of few, and how many may be: more are made where they are read."""


def _elements_of(op_type: str, known: Sequence[Any]) -> float:
    """How many numbers a node gives, or more."""
    arrays = [part.array for part in known]
    if any(array.dtype == object for array in arrays):
        return 0
    if op_type == "Range":
        start, limit, step = (array.reshape(()).item() for array in arrays)
        return abs((limit - start) / step) if step else 0
    count = math.prod(max(abs(int(size)), 1) for size in arrays[-1 if op_type != "ConstantOfShape" else 0].tolist())
    return count * (1 if op_type == "ConstantOfShape" else arrays[0].size)


def _is_number(given: Found) -> TypeGuard[Known]:
    return isinstance(given, Known) and given.is_plain and not given.trained


def _constant(attrs: Mapping[str, Any]) -> Any:
    if len(attrs) != 1:
        raise DeclarationError(f"holds {len(attrs)} values; a constant is one")
    ((kind, value),) = attrs.items()
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if kind == "value":
        return value
    if kind not in dtypes:
        raise DeclarationError(f"holds a {kind}; a graph has dense tensors of numbers")
    return np.array(value, dtypes[kind])


def _sizes(op_type: str, shape: Shape, attrs: Mapping[str, Any]) -> Any:
    if op_type == "Size":
        return _tidy(np.array(product_of(shape), object))
    return _tidy(_objects(shape[attrs.get("start", 0) : attrs.get("end", len(shape))]))


def _by_reference(node: Any, arrays: Sequence[Any], opset: int) -> list[Any]:
    """The results as ONNX's own implementation in numpy has them."""
    reference = onnx_package("onnx.reference")
    feeds = {name: given for name, given in zip(node.input, arrays, strict=True) if given is not None}
    try:
        with np.errstate(all="ignore"):
            results = reference.ReferenceEvaluator(node, opsets={"": opset}).run(None, feeds)
    except Exception as error:
        raise DeclarationError(f"cannot be computed from the numbers of the file: {error}") from error
    return [np.asarray(result) for result in results]


class NoSizeError(Exception):
    """What is computed of sizes is no size. It may be a number that tensors are computed with."""


# -- with Dims ---------------------------------------------------------------------------------------------------------


def _objects(sizes: Sequence[Any]) -> Any:
    made = np.empty(len(sizes), object)
    made[:] = list(sizes)
    return made


def _tidy(sizes: Any) -> Any:
    """An array of ints where it holds no `Dim`s."""
    made = np.asarray(sizes)
    if made.dtype != object:
        return made
    plain = all(isinstance(part, int | np.integer) for part in made.reshape(-1).tolist())
    return made.astype(np.int64) if plain else made


def _gather(x: Any, indices: Any, axis: int = 0) -> Any:
    taken = np.take(x, indices.astype(np.int64), axis)
    return np.array(taken, object) if not isinstance(taken, np.ndarray) else taken


def _unsqueeze(x: Any, axes: Any) -> Any:
    return np.expand_dims(x, tuple(int(a) for a in axes))


def _squeeze(x: Any, axes: Any = None) -> Any:
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes))


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    at = [slice(None)] * x.ndim
    places = range(len(starts)) if axes is None else axes
    for place, axis in enumerate(places):
        at[int(axis)] = slice(int(starts[place]), int(ends[place]), None if steps is None else int(steps[place]))
    return x[tuple(at)]


def _cast(x: Any, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    if dtype_name(to) not in ("int64", "int32"):
        raise NoSizeError
    return x


def _each(one: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda a, b: np.frompyfunc(one, 2, 1)(a, b)


def _plus(a: Any, b: Any) -> Any:
    if a == 0 or b == 0:
        return b if a == 0 else a
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    raise NoSizeError


def _minus(a: Any, b: Any) -> Any:
    return 0 if a == b else _plus(a, -b if isinstance(b, int) else f"-{b}")


def _over(a: Any, b: Any) -> Any:
    whole = quotient(a, b)
    if whole is None:
        raise NoSizeError
    return whole


def _times(a: Any, b: Any) -> Any:
    return a * b if isinstance(a, int) and isinstance(b, int) else product_of((a, b))


def _product(x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    found = product_of(x.reshape(-1).tolist())
    return np.array(found, object).reshape((1,) * x.ndim if keepdims else ())


def _equal(a: Any, b: Any) -> Any:
    # A size of a `Dim` is no other number: it is never −1, 0 or 1 by what is known when a graph is declared.
    return np.frompyfunc(lambda one, other: type(one) is type(other) and one == other, 2, 1)(a, b).astype(bool)


SYMBOLIC: Mapping[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Cast": _cast,
    "Reshape": lambda x, shape, allowzero=0: x.reshape([int(s) for s in shape]),
    "Concat": lambda *parts, axis: np.concatenate([np.asarray(p, object) for p in parts], axis),
    "Mul": _each(_times),
    "Div": _each(_over),
    "Add": _each(_plus),
    "Sub": _each(_minus),
    "ReduceProd": _product,
    "Equal": _equal,
    "Where": np.where,
}
"""What operators do with sizes of which some are `Dim`s."""
