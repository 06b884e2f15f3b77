"""Graphs and the values in them. A graph is append-only; passes build new ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import networkx

from .errors import DeclarationError, DTypeError
from .numbers import Attrs, Number, checked_init, plain_number, whole_number
from .registry import PRIMITIVES, Operator
from .types import (
    MAX_NAME,
    DType,
    Shape,
    as_dtype,
    as_shape,
    bool_,
    check_name,
    float32,
    host,
    int64,
    is_name,
    own_name,
    show_shape,
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a primitive comes from: the op instance `name`, its `op`, the op's `formula` and `derivative` in a line
    each, and the `phase`: 'forward', 'backward' or 'update'."""

    name: str
    op: str
    formula: str = ""
    derivative: str = ""
    phase: str = "forward"


TOP = Scope("", "")

GIVEN, OURS_ARE = ("input", "parameter", "buffer"), ("scalar", "slot")
"""The kinds of leaves that users name, and those that we do."""


class Value:
    """One result in a graph: what an op makes of its arguments. Immutable to users.

    Attributes: `graph`, `op` (an `Op` or a `Primitive`), `args` (Values, None where an optional one is absent),
    `attrs`, `shape`, `dtype`, `name` (unique in the graph), `hint` (the author's own name for it, or None), `scope`.
    """

    __slots__ = ("graph", "index", "op", "args", "attrs", "shape", "dtype", "hint", "scope", "_name", "__weakref__")

    def __init__(
        self,
        graph: Graph,
        op: Operator,
        args: tuple[Value | None, ...],
        attrs: Attrs,
        shape: Shape,
        dtype: DType,
        scope: Scope,
        name: str | None,
    ) -> None:
        self.graph, self.op, self.args, self.attrs = graph, op, args, attrs
        self.shape, self.dtype, self.scope, self._name = shape, dtype, scope, name
        self.hint: str | None = None
        self.index = -1

    @property
    def name(self) -> str:
        return self._name or self.graph.name_of(self)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The arguments that are there."""
        for arg in self.args:
            if arg is None:
                return tuple(a for a in self.args if a is not None)
        return self.args  # type: ignore[return-value]

    @property
    def is_leaf(self) -> bool:
        return self.op.kind == "leaf"

    def __repr__(self) -> str:
        return f"Value({self.name}: {self.dtype}{show_shape(self.shape)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Value:
        """The same value in a copy of its graph."""
        return deepcopy(self.graph, memo).values[self.index]

    def __copy__(self) -> Value:
        return self

    def __reduce__(self) -> Any:
        return _value_of, (self.graph, self.index)

    def _call(self, op: str, *args: Any) -> Value:
        return self.graph.call(op, *args)

    # Operators are the primitives of the same meaning, with torch's broadcasting.
    def __add__(self, other: Any) -> Value:
        return self._call("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self._call("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self._call("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self._call("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self._call("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self._call("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self._call("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self._call("div", other, self)

    def __pow__(self, other: Any) -> Value:
        return self._call("pow", self, other)

    def __rpow__(self, other: Any) -> Value:
        return self._call("pow", other, self)

    def __floordiv__(self, other: Any) -> Value:
        raise DeclarationError(f"//: {self.name!r} has no floor division; write tn.floor(a / b), and cast it as wanted")

    __rfloordiv__ = __floordiv__

    def __mod__(self, other: Any) -> Value:
        raise DeclarationError(f"%: {self.name!r} has no remainder; write a - b * tn.floor(a / b) of floats")

    __rmod__ = __mod__

    def __neg__(self) -> Value:
        return self._call("neg", self)

    def __abs__(self) -> Value:
        return self._call("abs", self)

    def __lt__(self, other: Any) -> Value:
        return self._call("lt", self, other)

    def __le__(self, other: Any) -> Value:
        return self._call("le", self, other)

    def __gt__(self, other: Any) -> Value:
        return self._call("gt", self, other)

    def __ge__(self, other: Any) -> Value:
        return self._call("ge", self, other)

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self._call("eq", self, other)

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return self._call("ne", self, other)

    # Values are told apart by identity in dicts and sets; `==` between two of them is an op of the graph.
    __hash__ = object.__hash__

    def __and__(self, other: Any) -> Value:
        return self._call("logical_and", self, other)

    def __or__(self, other: Any) -> Value:
        return self._call("logical_or", self, other)

    def __rand__(self, other: Any) -> Value:
        return self._call("logical_and", other, self)

    def __ror__(self, other: Any) -> Value:
        return self._call("logical_or", other, self)

    def __xor__(self, other: Any) -> Value:
        return self._call("ne", self._truth(other), other)

    __rxor__ = __xor__

    def _truth(self, other: Any) -> Value:
        """This value, if it and the other one are truth values."""
        if self.dtype is not bool_ or not (isinstance(other, bool) or getattr(other, "dtype", None) is bool_):
            raise DTypeError(f"^: {self.name!r} is {self.dtype}; it works on bool, compare first, as in x > 0")
        return self

    def __invert__(self) -> Value:
        return self._call("logical_not", self)

    def __bool__(self) -> bool:
        raise DeclarationError(
            f"{self.name} has no truth value while a graph is declared: Python's if, and, or and not cannot see it; "
            "use tn.where, &, | and ~"
        )

    def __iter__(self) -> Iterator[Value]:
        raise DeclarationError(f"{self.name} cannot be iterated: a Value stands for a whole tensor")

    if TYPE_CHECKING:
        # Bound by primitives/indexing.py.
        def __getitem__(self, key: Any) -> Value: ...

        # Bound by ops/methods.py: the functions of the same names, with the value as their first argument.
        T: Value

        def _method(self, *args: Any, **kwargs: Any) -> Value: ...

        abs = exp = log = sqrt = rsqrt = tanh = pow = relu = sigmoid = softmax = log_softmax = _method
        eq = ne = lt = le = gt = ge = clamp = square = reciprocal = to = _method
        sum = mean = var = std = amax = amin = argmax = logsumexp = _method
        detach = reshape = flatten = squeeze = unsqueeze = expand = permute = transpose = _method

        # Bound by ops/habits.py, with much that refuses.
        view = max = min = float = double = half = bfloat16 = int = long = _method

        def size(self, dim: Any = None) -> Any: ...
        def __len__(self) -> Any: ...
        def __matmul__(self, other: Any) -> Value: ...
        def __rmatmul__(self, other: Any) -> Value: ...


@dataclass(frozen=True, slots=True)
class Region:
    """One application of an op that has its own gradient, inside a graph of primitives."""

    op: Operator
    args: tuple[Value | None, ...]
    attrs: Attrs
    out: Value
    scope: Scope


class Graph:
    """A model: named inputs, parameters and buffers, the ops on them, and named outputs.

    `level` is 'declared' (ops stay ops) or 'primitive' (an op's formula runs at once and leaves its primitives).
    `first` holds tensors, by the names of parameters and buffers that begin with them rather than with what `init`
    says: those of the file that a graph was read from. Text and JSON leave them out.
    """

    def __init__(self, name: str = "graph", *, level: str = "declared") -> None:
        self.name = check_name(name, "Graph")
        self.level = level
        self.values: list[Value] = []
        self.outputs: dict[str, Value] = {}
        self.updates: dict[str, Value] = {}
        self.regions: list[Region] = []
        self.first: dict[str, Any] = {}
        self.scope = TOP
        self._by_name: dict[str, Value] = {}
        self._counters: dict[str, int] = {}
        self._derived_names: dict[Value, str] = {}
        self._by_derived_name: dict[str, Value] = {}

    # -- declaring --

    def input(self, name: str, shape: object, dtype: object = float32) -> Value:
        """Declare a tensor that is fed on every call. `shape` holds ints and `Dim`s."""
        return self._declare_leaf("input", name, shape, dtype, {})

    def parameter(
        self, name: str, shape: object, init: str | Number = "zeros", dtype: object = float32, **how: Number
    ) -> Value:
        """Declare a trained tensor. `init` is a number, 'zeros', 'ones', 'uniform' (low, high), 'normal' (mean, std),
        'normal_rows' (mean, std, and zero_row, a row of zeros, or −1 for none) or 'kaiming_uniform' (a;
        torch.nn.Linear's own), the numbers given as keywords."""
        if not as_dtype(dtype).is_float:
            raise DTypeError(f"parameter {name!r}: dtype {dtype} cannot be trained; use a float dtype or g.buffer")
        return self._declare_leaf("parameter", name, shape, dtype, checked_init(name, init, how))

    def buffer(
        self, name: str, shape: object, init: str | Number = "zeros", dtype: object = float32, **how: Number
    ) -> Value:
        """Declare a tensor that belongs to the model but is not trained. `init` as for `parameter`."""
        return self._declare_leaf("buffer", name, shape, dtype, checked_init(name, init, how))

    def constant(self, value: Number, dtype: object = None) -> Value:
        """A number as a 0-dim value; the dtype defaults to torch's for it (float32, int64 or bool)."""
        value = plain_number(value, "constant")
        if dtype is None:
            dtype = bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else float32
        dtype = as_dtype(dtype)
        typed = float(value) if dtype.is_float else bool(value) if dtype is bool_ else whole_number(value, dtype)
        return self.append("constant", (), {"value": typed}, (), dtype)

    def host_scalar(self, name: str, dtype: object = host) -> Value:
        """A number that the caller gives at each run, such as a learning rate: changing it recompiles nothing. `dtype`
        int64 makes it an exact int, such as a seed."""
        return self._declare_leaf("scalar", name, (), dtype, {})

    def slot(self, name: str, shape: object, dtype: object, init: Number = 0.0) -> Value:
        """A tensor of optimizer state."""
        return self._declare_leaf("slot", name, shape, dtype, {"init": init})

    def output(self, /, **values: Value) -> None:
        """Name the graph's outputs. May be called again to add more."""
        for name, value in values.items():
            check_name(name, f"graph {self.name!r}: output")
            if not isinstance(value, Value) or value.graph is not self:
                raise DeclarationError(f"output {name!r}: not a Value of graph {self.name!r}, got {value!r}")
            if name in self.outputs:
                raise DeclarationError(f"output {name!r} is named already; choose another name")
            self.outputs[name] = value
        self._adopt_local_names(sys._getframe(1).f_locals)

    def update(self, state: Value, new: Value) -> None:
        """Say that a run leaves `new` in the parameter, buffer or slot `state`."""
        held = ("parameter", "buffer", "slot")
        if not isinstance(state, Value) or state.graph is not self or state.op.name not in held:
            raise DeclarationError(f"update: {state!r} is no parameter, buffer or slot of graph {self.name!r}")
        if not isinstance(new, Value) or new.graph is not self:
            raise DeclarationError(f"update of {state.name!r}: {new!r} is no Value of graph {self.name!r}")
        if new.shape != state.shape or new.dtype != state.dtype:
            raise DeclarationError(
                f"update of {state.name!r}: {new.dtype}{show_shape(new.shape)} does not fit "
                f"{state.dtype}{show_shape(state.shape)}; make the update's result the same shape and dtype"
            )
        self.updates[state.name] = new

    # -- building --

    def append(
        self,
        op: Operator | str,
        args: tuple[Value | None, ...],
        attrs: Attrs,
        shape: Shape,
        dtype: DType,
        name: str | None = None,
    ) -> Value:
        """Append a value whose shape and dtype are known. Passes use it; users call ops. A primitive may be named."""
        if isinstance(op, str):
            if op not in PRIMITIVES:
                raise DeclarationError(f"there is no primitive {op!r}; there are {', '.join(sorted(PRIMITIVES))}")
            op = PRIMITIVES[op]
        if name is not None and name in self._by_name:
            if op.name == "scalar" or not is_seed(self._by_name[name]):
                raise DeclarationError(f"the name {name!r} is taken in graph {self.name!r}; choose another")
            self._give_way(name)
        value = Value(self, op, args, attrs, shape, dtype, self.scope, name)
        value.index = len(self.values)
        self.values.append(value)
        self._forget_derived_names()
        if name is not None:
            self._by_name[name] = value
        return value

    def fresh_name(self, stem: str) -> str:
        """`stem_1`, `stem_2`, …: the next that is free."""
        while True:
            self._counters[stem] = count = self._counters.get(stem, 0) + 1
            if (name := f"{stem}_{count}") not in self._by_name:
                return name

    # -- reading --

    def __getitem__(self, name: str) -> Value:
        if name in self._by_name:
            return self._by_name[name]
        if name not in self._by_derived_name:
            self._derive_names()
        found = self._by_derived_name.get(name)
        if found is None:
            raise DeclarationError(f"graph {self.name!r} has no value {name!r}")
        return found

    def leaves(self, *kinds: str) -> list[Value]:
        """The leaf values of these kinds ('input', 'parameter', 'buffer', 'slot', 'scalar'), in declaration order."""
        return [v for v in self.values if v.op.name in kinds]

    @property
    def inputs(self) -> list[Value]:
        return self.leaves("input")

    @property
    def parameters(self) -> list[Value]:
        return self.leaves("parameter")

    @property
    def given_names(self) -> frozenset[str]:
        """The names that are the user's: of inputs, parameters and buffers. Names of ours give way to them."""
        return frozenset(v.name for v in self.leaves(*GIVEN))

    @property
    def subgraphs(self) -> dict[str, Graph]:
        """The graphs among the attributes of its values, by a name for each: its own, with a number where that is
        taken."""
        calls: list[Value | Region] = [*self.values, *self.regions]
        found = dict.fromkeys(a for call in calls for a in call.attrs.values() if isinstance(a, Graph))
        named: dict[str, Graph] = {}
        for graph in found:
            name, count = graph.name, 1
            while name in named:
                count += 1
                name = f"{graph.name}_{count}"
            named[name] = graph
        return named

    @property
    def roots(self) -> list[Value]:
        """The values that a run must deliver: outputs, then updates."""
        return [*self.outputs.values(), *self.updates.values()]

    def to_networkx(self) -> networkx.DiGraph:
        """Value names as nodes (attributes op, shape, dtype), an edge from each argument to its user."""
        result = networkx.DiGraph(name=self.name)
        for value in self.values:
            result.add_node(value.name, op=value.op.name, shape=value.shape, dtype=value.dtype.name)
        result.add_edges_from((arg.name, value.name) for value in self.values for arg in value.inputs)
        return result

    def name_of(self, value: Value) -> str:
        """The unique name of a value that was given none: its scope and the author's hint, else the op."""
        if not self._derived_names:
            self._derive_names()
        return self._derived_names[value]

    def keep_name(self, value: Value, name: str) -> Value:
        """The value, called so from here on, as readers of text and JSON do. The name that it had is free again."""
        if self._by_name.setdefault(name, value) is not value:
            raise DeclarationError(f"the name {name!r} is taken in graph {self.name!r}; choose another")
        if value._name not in (None, name):
            del self._by_name[value._name]
        value._name = name
        self._forget_derived_names()
        return value

    if TYPE_CHECKING:
        # Bound by apply.py.
        def call(self, op: Operator | str, /, *args: Any, name: str | None = None, **attrs: Any) -> Value:
            """Apply an op to Values and numbers; a number takes the dtype of the Values it meets."""

        # Bound by text/pickles.py.
        def __deepcopy__(self, memo: dict[int, Any]) -> Self: ...

        def __copy__(self) -> Self: ...

        def __reduce__(self) -> Any: ...

        # Bound by core/printer.py, text/parser.py, text/json_form.py and script/script.py.
        def __str__(self) -> str: ...

        def __repr__(self) -> str: ...

        def to_python(self) -> str: ...

        # Bound by tritonnotes/views/.
        def to_mermaid(self) -> str: ...

        def to_dot(self) -> str: ...

        def _repr_svg_(self) -> str | None: ...

        def _repr_html_(self) -> str: ...

        @classmethod
        def from_text(cls, text: str) -> Self: ...

        def to_json(self) -> str: ...

        @classmethod
        def from_json(cls, text: str | bytes) -> Self: ...

    # -- inside --

    def _give_way(self, name: str) -> None:
        """Call the seed, whose name is ours, otherwise: the user wants `name`."""
        seed = self._by_name.pop(name)
        seed._name = own_name(name, {*self._by_name, name})
        self._by_name[seed._name] = seed

    def _declare_leaf(self, kind: str, name: str, shape: object, dtype: object, attrs: Attrs) -> Value:
        # The name of what we declare is as long as the name that it is made of asks for.
        check_name(name, f"graph {self.name!r}: {kind}", math.inf if kind in OURS_ARE else MAX_NAME)
        checked = as_shape(shape, f"{kind} {name!r}")
        return self.append(kind, (), attrs, checked, host if dtype is host else as_dtype(dtype), name)

    def _derive_names(self) -> None:
        taken = set(self._by_name)
        counts: dict[str, int] = {}
        self._forget_derived_names()
        for value in self.values:
            if value._name:
                continue
            # A local variable may be called σ or 平均; names are ASCII.
            own = value.hint if value.hint and is_name(value.hint) else value.op.name
            # What an op returns bears the op's name alone.
            is_result = own == value.scope.name.replace(".", "_")
            stem = value.scope.name if is_result else ".".join(filter(None, (value.scope.name, own)))
            # Counting goes on where it stopped for this stem, so that naming takes linear time.
            name = stem
            while name in taken:
                counts[stem] = counts.get(stem, 0) + 1
                name = f"{stem}_{counts[stem]}"
            taken.add(name)
            self._derived_names[value], self._by_derived_name[name] = name, value

    def _forget_derived_names(self) -> None:
        self._derived_names.clear()
        self._by_derived_name.clear()

    def _adopt_local_names(self, names: Mapping[str, object]) -> None:
        """Values that nobody named take the names of the variables that the declaring function keeps them in."""
        found: Iterable[tuple[str, object]] = [*self.outputs.items(), *names.items()]
        for name, value in found:
            if isinstance(value, Value) and value.graph is self and not value.is_leaf and value.hint is None:
                value.hint = name
                self._forget_derived_names()


def check_is_graph(given: object) -> None:
    """Raise `DeclarationError`, with the remedy, for what is given in place of a graph."""
    if isinstance(given, Graph):
        return
    remedy = "declare one with tn.Graph(name), g.input(...) and g.output(...)"
    if isinstance(getattr(given, "graph", None), Graph):
        remedy = "it is compiled already; pass its .graph to compile it otherwise"
    elif hasattr(given, "state_dict") and hasattr(given, "forward"):
        remedy = (
            "import it with tn.from_torch(module, x), or give tn.compile an example of its inputs, as in (module, x)"
        )
    raise DeclarationError(f"wanted a tn.Graph, got {type(given).__name__}; {remedy}")


def _value_of(graph: Graph, index: int) -> Value:
    return graph.values[index]


def needed_for(wanted: Iterable[Value]) -> set[Value]:
    """Some values, and all that they are computed of."""
    needed, todo = set[Value](), [*wanted]
    while todo:
        value = todo.pop()
        if value not in needed:
            needed.add(value)
            todo += value.inputs
    return needed


def is_seed(value: Value) -> bool:
    """Whether a value is the number that a run draws its random numbers from."""
    return value.op.name == "scalar" and value.dtype is int64


def bind(cls: type, **methods: object) -> None:
    """Give a class methods that a layer above defines: what a graph or a value can do by way of it."""
    for name, method in methods.items():
        setattr(cls, name, method)


VIEWS = frozenset(
    ("reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "expand", "broadcast_to", "detach")
)
"""Ops and primitives that show the elements of their argument, and compute nothing."""


def shown_by(value: Value) -> Value:
    """The value whose elements `value` shows, under whatever shape and in whatever order: itself if it is no view."""
    while value.op.name in VIEWS:
        (value,) = value.inputs
    return value
