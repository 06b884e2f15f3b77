"""What users of torch and numpy try on a Value: it works as there, or says in one error what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError
from ..core.graph import Value, bind
from ..core.op import Described, catalogue, refuse_tensors
from ..core.types import show_shape
from . import statistics
from .methods import METHODS


class UnknownAttributeError(DeclarationError, AttributeError):
    """A Value has no attribute of this name."""


PRIMITIVES: Mapping[str, Callable[..., Any]] = {
    name: getattr(P, name)
    for name in (
        "abs",
        "add",
        "cat",
        "cos",
        "div",
        "eq",
        "erf",
        "exp",
        "expm1",
        "floor",
        "ge",
        "gt",
        "le",
        "log",
        "log1p",
        "logical_and",
        "logical_not",
        "logical_or",
        "lt",
        "matmul",
        "maximum",
        "minimum",
        "mul",
        "ne",
        "neg",
        "pow",
        "rsqrt",
        "sign",
        "sin",
        "sqrt",
        "sub",
        "tanh",
        "where",
    )  # fmt: skip
}
DECLARING = frozenset(
    ("linear", "layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm", "prelu", "embedding",
     "weight_norm", "dropout")
)  # fmt: skip
"""Ops whose torch functions take tensors where these declare parameters."""

SILENT: Mapping[str, object] = {
    "out": None, "inplace": False, "_stacklevel": 3, "dtype": None, "size_average": None, "reduce": None,
    "rounding_mode": None, "alpha": 1,
}  # fmt: skip
"""What torch's functions pass on besides, with the values that say nothing."""

UFUNCS: Mapping[str, str] = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "power": "pow",
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne",
    "negative": "neg", "absolute": "abs", "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p",
    "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tanh": "tanh", "floor": "floor", "sign": "sign",
    "maximum": "maximum", "minimum": "minimum",
}  # fmt: skip
"""numpy's names of primitives."""

CASTS = {
    "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "int": "int32",
    "long": "int64", "bool": "bool",
}  # fmt: skip


# -- functions of torch and numpy --------------------------------------------------------------------------------------


def _function(name: str) -> Callable[..., Any] | None:
    """The function of tritonnotes that means the same as torch's of this name."""
    if name in DECLARING:
        return None
    found = METHODS.get(name) or PRIMITIVES.get(name) or catalogue().get(name)
    return found.build if isinstance(found, Described) else found


def _torch_function(cls: type, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
    name = getattr(func, "__name__", str(func)).strip("_")
    refuse_tensors(f"torch.{name}", [*args, *(kwargs or {}).values()])
    given = {key: value for key, value in (kwargs or {}).items() if key not in SILENT or value != SILENT[key]}
    function = _function(name)
    if function is None:
        raise DeclarationError(f"torch.{name} takes no Value of a graph; {_advice(name)}")
    takes = inspect.signature(function).parameters
    given = {key: value for key, value in given.items() if value is not None or key in takes}
    try:
        return function(*args, **given)
    except TypeError as error:
        raise DeclarationError(f"torch.{name} of a Value: {error}; write tn.{name}") from None


def _array_ufunc(self: Value, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Value:
    name = UFUNCS.get(ufunc.__name__)
    for given in inputs:
        if getattr(given, "shape", ()) != () and not isinstance(given, Value):
            raise DeclarationError(
                f"numpy.{ufunc.__name__}: an array meets the Value {self.name!r}; declare g.input(...) and feed it, or "
                "g.buffer(...)"
            )
    if name is None or method != "__call__" or options:
        raise DeclarationError(f"numpy.{ufunc.__name__} takes no Value of a graph; {_advice(ufunc.__name__)}")
    return self.graph.call(name, *inputs)


def _advice(name: str) -> str:
    if name in DECLARING:
        return f"write tn.{name}(value, ...), which declares its parameters or takes them by keyword, as in weight=w"
    if _function(name) is not None:
        return f"write tn.{name}(value, ...)"
    return f"there is no tn.{name}: write a formula in the ops there are, or an op of your own with @tn.op"


# -- methods and attributes --------------------------------------------------------------------------------------------


def _size(self: Value, dim: int | None = None) -> Any:
    return self.shape if dim is None else self.shape[dim]


def _view(self: Value, *shape: Any) -> Value:
    """As torch's, but of any Value: where elements must move, they do."""
    if len(shape) == 1 and not isinstance(shape[0], int) and hasattr(shape[0], "itemsize"):
        raise DTypeError(f"view: {self.name!r} keeps its dtype; write value.to(dtype), which converts numbers")
    return METHODS["reshape"](self, *shape)


def _extremum(name: str) -> Callable[..., Value]:
    def method(self: Value, dim: Any = None, keepdim: bool = False, **options: Any) -> Value:
        if dim is not None or options:
            raise DeclarationError(
                f"{name}: torch's gives values and indices along a dim; write {self.name}.a{name}(dim) for the values "
                "and tn.argmax for indices"
            )
        return getattr(statistics, name)(self)

    return method


def _cast_to(dtype: str) -> Callable[[Value], Value]:
    return lambda self: P.cast(self, dtype)


def _length(self: Value) -> int:
    if not self.shape or not isinstance(self.shape[0], int):
        raise DeclarationError(f"len: {self.name!r} of shape {show_shape(self.shape)} has no known length")
    return self.shape[0]


def _no_numbers(what: str) -> Callable[..., Any]:
    def refuse(self: Value, *args: Any, **kwargs: Any) -> Any:
        raise DeclarationError(
            f"{what}: {self.name!r} has no numbers while a graph is declared; make it an output, as in "
            "g.output(y=value), and read what the compiled model returns"
        )

    return refuse


def _missing(self: Value, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise UnknownAttributeError(f"{self.name!r} is a Value, which has no {name!r}; {_advice(name)}")


def _times(a: Any, b: Any) -> Value:
    refuse_tensors("@", [a, b])
    if not isinstance(a, Value) or not isinstance(b, Value):
        raise DeclarationError(f"@: takes two Values, got {type(a).__name__} and {type(b).__name__}; declare both")
    return P.matmul(a, b)


METHODS_OF_TORCH: Mapping[str, Any] = {
    "size": _size,
    "dim": lambda self: len(self.shape),
    "ndim": property(lambda self: len(self.shape)),
    "view": _view,
    "max": _extremum("max"),
    "min": _extremum("min"),
    **{name: _cast_to(dtype) for name, dtype in CASTS.items()},
    **{name: _no_numbers(name) for name in ("item", "tolist", "numpy", "cpu", "cuda", "backward")},
}

bind(
    Value,
    __torch_function__=classmethod(_torch_function),
    __array_ufunc__=_array_ufunc,
    __array__=_no_numbers("numpy.array"),
    __float__=_no_numbers("float"),
    __int__=_no_numbers("int"),
    __index__=_no_numbers("index"),
    __len__=_length,
    __matmul__=_times,
    __rmatmul__=lambda self, other: _times(other, self),
    __getattr__=_missing,
    **METHODS_OF_TORCH,
)
