"""An op called on tensors: its text, the form that it is compiled to, and the forms that are kept.

A call is an op and its attributes, with places for tensors. Its programs differ by what tensors are: dtypes, shapes,
device. The first axis of tensors is taken to be the batch: where it has the same size in several tensors, one program
serves every size. All other sizes, and a size of 0 or 1, are known to the program.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ..codegen.fusion.constraints import as_fusion
from ..ir.core.errors import DeclarationError, TritonNotesError
from ..ir.core.graph import Graph, Value
from ..ir.core.op import OPS, catalogue
from ..ir.core.types import Dim, DType, Shape, as_dtype, float32, own_name
from ..ir.passes.chunks import LOGITS_BUDGET
from .autograd import constant_outputs
from .executors.execution import Execution, execution
from .form import Form
from .turns import Turns

KEPT = 512
"""Programs of calls that are kept: those used longest ago go first."""

MOST_KNOWN = 4 * KEPT
"""Sets of sizes of which it is remembered what program serves them, and calls of which it is what text says them."""

ROWS = Dim("rows")
"""The first axis of the tensors, where a program serves every size of it."""

BEGINNING = '{"call": '
"""How the text of a call begins, which tells it from that of a form."""

_TENSOR, _DTYPE = "$tensor", "$dtype"


@dataclass(frozen=True)
class _AsTorch:
    """How torch.nn.functional has an op that declares parameters in a graph: the arguments in torch's `order`, where
    that is another; torch's `defaults`; which arguments are `buffers`, moved where the attribute `moved_by` is true;
    and whether it draws random numbers."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    moved_by: str = ""
    draws: bool = False


_WITHOUT: Mapping[str, Any] = {"weight": None, "bias": None}
_RUNNING: Mapping[str, Any] = {"running_mean": None, "running_var": None, **_WITHOUT}

AS_TORCH: Mapping[str, _AsTorch] = {
    "linear": _AsTorch({"bias": None}, order=("x", "weight", "bias")),
    "embedding": _AsTorch(order=("input", "weight", "padding_idx")),
    "prelu": _AsTorch(order=("x", "weight")),
    "layer_norm": _AsTorch(_WITHOUT),
    "rms_norm": _AsTorch({"weight": None}),
    "group_norm": _AsTorch(_WITHOUT),
    "batch_norm": _AsTorch({**_RUNNING, "training": False}, buffers=tuple(_RUNNING)[:2], moved_by="training"),
    "instance_norm": _AsTorch(_RUNNING, buffers=tuple(_RUNNING)[:2], moved_by="use_input_stats"),
    "dropout": _AsTorch(draws=True),
    "linear_cross_entropy": _AsTorch(),
}
"""The ops whose arguments mean something else without a graph to declare in."""

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "linear_weight", "linear_bias")
"""Arguments of these ops whose first axis is none of the batch, whatever its size."""

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that are neither an op nor a described primitive, and take tensors too, by name."""

RESULTS = {"var_mean": 2}
"""How many results the functions have that have several."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands among the arguments of a call."""

    index: int


def call_text(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call as text. Tensors are marked as `tensor_at` has it. Raises `DeclarationError` for what is no attribute."""
    try:
        return json.dumps({"call": name, "args": list(args), "kwargs": dict(kwargs)}, default=_as_json)
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"tn.{name}: {error}; pass tensors, numbers, strings, dtypes and lists of them"
        ) from None


def tensor_at(index: int) -> dict[str, int]:
    """What stands in a call for the tensor of this number."""
    return {_TENSOR: index}


def _as_json(given: Any) -> Any:
    if isinstance(given, torch.dtype | DType):
        return {_DTYPE: as_dtype(given).name}
    if getattr(given, "shape", None) == () and hasattr(given, "item"):
        return given.item()  # a number of numpy's
    raise TypeError(f"got {given!r} beside tensors")


def _from_json(said: dict[str, Any]) -> Any:
    if _TENSOR in said:
        return _Place(said[_TENSOR])
    return as_dtype(said[_DTYPE]) if _DTYPE in said else said


_PLAIN = frozenset({int, bool, str, type(None), torch.dtype, DType})
"""Kinds of arguments that are told apart by kind and value. A float is not: 0.0 and -0.0 are equal."""


class _NotPlainError(Exception):
    """An argument of a kind that only the text of a call tells apart."""


def call_key(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: list[Tensor]
) -> tuple[Any, ...] | None:
    """What two calls have in common where their texts are the same, found without writing one; None where only the text
    can tell. The tensors of the call are added to `tensors`, in their order."""
    try:
        return name, *[_place(arg, tensors) for arg in args], *[(n, _place(arg, tensors)) for n, arg in kwargs.items()]
    except _NotPlainError:
        return None


def _place(arg: Any, tensors: list[Tensor]) -> Any:
    kind = type(arg)
    if isinstance(arg, Tensor):
        tensors.append(arg)
        return Tensor
    if kind in _PLAIN:
        return kind, arg
    if kind is float:
        return kind, arg.hex()
    if isinstance(arg, list | tuple):
        return list, *[_place(part, tensors) for part in arg]
    raise _NotPlainError


class Call:
    """One op and its attributes, for tensors of whatever shape. `order` says which tensor is which leaf of its forms,
    `moved` which tensors it updates, `results` how many it gives, `is_constant` that no gradient comes from them."""

    def __init__(self, text: str) -> None:
        said = json.loads(text, object_hook=_from_json)
        self.name: str = said["call"]
        self.function = _function(self.name)
        rule = AS_TORCH.get(self.name, _AsTorch())
        self._args, self._kwargs = _arranged(self.name, self.function, rule, said["args"], said["kwargs"])
        names = dict(_names(self.name, self.function, self._args, self._kwargs))
        held = {index for index, name in names.items() if name in rule.buffers}
        self.order = sorted(names, key=lambda index: (index in held, index))
        self.names, self._held = names, held
        self._fixed = {i for i, n in names.items() if self.name in AS_TORCH and n in PARAMETERS}
        is_moved = bool(rule.moved_by) and self._kwargs.get(rule.moved_by, True)
        self.moved = [index for name in rule.buffers for index in held if is_moved and names[index] == name]
        self.draws = rule.draws and self._kwargs.get("training", True) and self._kwargs.get("p", 0.5) != 0
        self.results = RESULTS.get(self.name, 1)
        self.is_constant = _is_constant(self.name)

    def known_form(self, tensors: Sequence[Tensor]) -> Compiled:
        """As `form`, for tensors of kinds that are plain, remembered by their very sizes. That each has its memory, and
        that all lie on one device, is looked at when the form runs."""
        device = tensors[0].device
        signature = (self, device, execution(device), *map(Tensor.size, tensors), *[t.dtype for t in tensors])
        kept = _known.get(signature)
        made = None if kept is None else kept.made
        if kept is None or made is None:
            kept, made = self._find(tensors)
            with _lock:
                if len(_known) >= MOST_KNOWN:
                    _known.clear()
                _known[signature] = kept
        kept.used = next(_ticks)
        return made

    def form(self, tensors: Sequence[Tensor]) -> Compiled:
        """The form for tensors like these, in the order of the call; compiled, and kept, when it is first asked for."""
        return self._find(tensors)[1]

    def _find(self, tensors: Sequence[Tensor]) -> tuple[_Kept, Compiled]:
        device = tensors[0].device
        how = execution(device, None, False)
        rows = _rows(tensors)
        for is_symbolic in (True, False) if rows is not None else (False,):
            shapes = [self._shape(i, t, rows if is_symbolic else None) for i, t in enumerate(tensors)]
            dtypes = [as_dtype(t.dtype) for t in tensors]
            key = (self, device, how, *shapes, *dtypes)
            with _lock:
                if key not in _compiled:
                    _keep(key, self._compile(shapes, dtypes, device, how, is_symbolic))
                kept = _compiled[key]
                kept.used, made = next(_ticks), kept.made
            if made is not None:
                return kept, made
        raise AssertionError("a form of known sizes is made, or its error raised")

    def _compile(
        self, shapes: Sequence[Shape], dtypes: Sequence[DType], device: torch.device, how: Execution, is_symbolic: bool
    ) -> Compiled | None:
        try:
            graph = self._graph(shapes, dtypes)
            fusion = as_fusion("optimal", target=how.target(device))
            return Compiled(Form(graph, fusion, LOGITS_BUDGET, device, how), Turns())
        except TritonNotesError:
            if is_symbolic:
                return None  # the op needs the size, or two sizes are equal by chance
            raise

    def _shape(self, index: int, tensor: Tensor, rows: Any) -> Shape:
        shape = tensor.shape
        is_rows = rows is not None and len(shape) > 0 and index not in self._fixed and bool(shape[0] == rows)
        known = tuple(int(size) for size in shape[1 if is_rows else 0 :])
        return (ROWS, *known) if is_rows else known

    def _graph(self, shapes: Sequence[Shape], dtypes: Sequence[DType]) -> Graph:
        graph = Graph(self.name)
        leaves: dict[int, Value] = {}
        for index in self.order:
            declare = graph.buffer if index in self._held else graph.input
            leaves[index] = declare(self.names[index], shapes[index], dtype=dtypes[index])
        args = _with_values(self._args, leaves)
        made = self.function(*args, **{k: _with_values(v, leaves) for k, v in self._kwargs.items()})
        given = {v.name for v in leaves.values()}
        declared = [v.name for v in graph.leaves("parameter", "buffer") if v.name not in given]
        if declared:
            raise DeclarationError(
                f"tn.{self.name}: would declare {declared[0]!r}, and tensors have no graph to declare it in; pass it "
                f"as a tensor, as in torch.nn.functional.{self.name}, or use a module of tn.nn"
            )
        results = made if isinstance(made, tuple) else (made,)
        stem = own_name("result", set(self.names.values()))
        for place, result in enumerate(results):
            graph.output(**{stem if len(results) == 1 else f"{stem}_{place}": result})
        return graph


@dataclass(frozen=True)
class Compiled:
    """The form of a call, and the turns of the threads that run it."""

    form: Form
    turns: Turns


@dataclass
class _Kept:
    """What a call is compiled to for tensors of a kind, None where that cannot be or is no longer kept, and when it was
    used last."""

    made: Compiled | None
    used: int


_lock = threading.RLock()
_ticks = count()
_compiled: dict[tuple[Any, ...], _Kept] = {}
_known: dict[tuple[Any, ...], _Kept] = {}
_calls: OrderedDict[str, Call] = OrderedDict()


def _keep(key: tuple[Any, ...], made: Compiled | None) -> None:
    _compiled[key] = _Kept(made, next(_ticks))
    if len(_compiled) > KEPT:
        oldest = min(_compiled, key=lambda k: _compiled[k].used)
        _compiled.pop(oldest).made = None


def call_of(text: str) -> Call:
    """The call that a text says."""
    with _lock:
        found = _calls.get(text)
        if found is None or found.function is not _function(found.name):  # a custom op may be declared again
            _calls[text] = found = Call(text)
            if len(_calls) > KEPT:
                _calls.popitem(last=False)
        _calls.move_to_end(text)
        return found


def compiled_forms() -> list[Form]:
    """The forms that calls are compiled to at present, those used longest ago first."""
    with _lock:
        kept = sorted(_compiled.values(), key=lambda k: k.used)
        return [k.made.form for k in kept if k.made is not None]


def _function(name: str) -> Callable[..., Any]:
    if name in OPS:
        return OPS[name]
    found = FUNCTIONS.get(name)
    if found is None:
        raise DeclarationError(f"tn.{name}: there is no such op; a custom one must be declared with @tn.op first")
    return found


def _rows(tensors: Sequence[Tensor]) -> Any:
    """The size of the batch: of the first axis of the first tensor that has most axes. None where that is 1, which
    broadcasts, or 0, of which there is no mean: a program must know either."""
    first = max(tensors, key=lambda t: t.dim())
    rows = first.shape[0] if first.dim() else 1
    return None if rows == 1 or rows == 0 else rows


def _arranged(
    name: str, function: Callable[..., Any], rule: _AsTorch, args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as the op takes them, of those of torch.nn.functional."""
    if name not in AS_TORCH:
        return args, kwargs
    keyword = inspect.Parameter.KEYWORD_ONLY
    takes = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not keyword]
    order = rule.order or tuple(takes)
    given = dict(zip(order, args, strict=False))
    twice = [n for n in given if n in kwargs]
    if twice or len(args) > len(order):
        wrong = f"{twice[0]!r} is given by position and by name" if twice else f"{len(args)} arguments by position"
        raise DeclarationError(f"tn.{name} of tensors: {wrong}; by position it takes {', '.join(order)}")
    named = {**rule.defaults, **given, **kwargs}
    for key in PARAMETERS:
        if named.get(key) is not None and not isinstance(named[key], _Place):
            raise DeclarationError(
                f"tn.{name} of tensors: {key} is {named[key]!r}; pass a tensor, as in torch.nn.functional.{name}, or "
                "use a module of tn.nn or torch.nn"
            )
    return [], named


def _names(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[int, str]]:
    """Which tensor is called what: as the argument, and numbered where that holds several."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise DeclarationError(f"tn.{name}: {error}; it takes {signature}") from None
    return [pair for key, given in bound.arguments.items() for pair in _named(key, given)]


def _named(name: str, given: Any) -> list[tuple[int, str]]:
    if isinstance(given, _Place):
        return [(given.index, name)]
    if isinstance(given, list | tuple):
        return [pair for place, part in enumerate(given) for pair in _named(f"{name}_{place}", part)]
    return []


def _with_values(given: Any, leaves: Mapping[int, Value]) -> Any:
    if isinstance(given, _Place):
        return leaves[given.index]
    return [_with_values(part, leaves) for part in given] if isinstance(given, list) else given


def _is_constant(name: str) -> bool:
    """Whether no gradient comes from a result of this op, as its sample has it."""
    entry = catalogue().get(name)
    if entry is None or entry.sample is None:
        return False
    graph = Graph("sample")
    graph.output(y=entry.sample(graph, (3, 4), float32))
    floats = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    return "y" in constant_outputs(graph, floats)
