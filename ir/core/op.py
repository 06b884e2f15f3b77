"""Ops: named formulas over primitives, and the primitives that users call by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import DeclarationError
from .graph import Graph, Value
from .registry import PRIMITIVES, Domain, Note, Operator, Primitive, in_a_line
from .types import check_name


class Op(Operator):
    """A named formula over primitives, with what its users and its tests must know.

    Calling it on Values adds it to their graph. Attributes: `formula(*args, **attrs)`, `derive` (the hand-written
    gradient `(d_y, y, *args, **attrs) -> cotangents`, or None), `front` (the declaring function, where that differs
    from the formula), `refusal` (says what is wrong with shapes that the formula would take, or None), `domain`,
    `note`, `sample(graph, shape, dtype) -> Value`.
    """

    kind = "op"

    sees_tensors: Callable[[tuple[Any, ...], Mapping[str, Any]], bool] = staticmethod(lambda args, kwargs: False)
    of_tensors: Callable[[str, tuple[Any, ...], Mapping[str, Any]], Any]
    """Whether a call is one of tensors alone, and what it gives: bound from above, where there is torch."""

    def __init__(
        self,
        name: str,
        formula: Callable[..., Value],
        *,
        domain: Domain | tuple[float, float],
        note: Note | None,
        sample: Callable[..., Value] | None,
        custom: bool = False,
    ) -> None:
        self.name = name
        self.formula = formula
        self.parameters = list(inspect.signature(formula).parameters.values())
        self.arg_names = [p.name for p in self.parameters if p.kind is not p.KEYWORD_ONLY]
        self.attr_names = [p.name for p in self.parameters if p.kind is p.KEYWORD_ONLY]
        self.domain: Domain = domain if isinstance(domain, Mapping) else {self.arg_names[0]: domain}
        self.note = note
        self.sample = sample
        self.custom = custom
        self.derive: Callable[..., tuple[Value | None, ...]] | None = None
        self.front: Callable[..., Value] | None = None
        self.refusal: Callable[..., str | None] | None = None
        self.helpers: set[Any] = {formula.__code__}
        self.__doc__ = formula.__doc__ if note is None else note.below(formula.__doc__)
        self.__name__ = name
        self.__signature__ = inspect.signature(formula)

    @property
    def summary(self) -> str:
        """The formula in one line, for comments in kernels."""
        if self.note is not None:
            return self.note.formula
        return next(iter((self.__doc__ or "").strip().splitlines()), "")

    def gradient(self, derive: Callable[..., tuple[Value | None, ...]]) -> Callable[..., tuple[Value | None, ...]]:
        """Decorator: the hand-written gradient."""
        self.derive = derive
        return derive

    def refuses(self, refusal: Callable[..., str | None]) -> Callable[..., str | None]:
        """Decorator: sizes that the op does not take. It is called as the formula is, with a shape (or None) for each
        Value, and says what is wrong, or None: at declaration, and for the sizes of `Dim`s at each call."""
        self.refusal = refusal
        return refusal

    def declares(self, front: Callable[..., Value]) -> Callable[..., Value]:
        """Decorator: the function that users call, which declares parameters and turns torch's arguments into ours."""
        self.front = front
        self.__signature__ = self._call = inspect.signature(front)
        return front

    @property
    def takes_name(self) -> bool:
        """Whether a call may say what the value is called."""
        return self.front is None or "name" in self._call.parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A Value of the arguments' graph; of tensors alone, the tensor that the op makes of them."""
        if self.sees_tensors(args, kwargs):
            return self.of_tensors(self.name, args, kwargs)
        refuse_tensors(f"tn.{self.name}", (*args, *kwargs.values()))
        if self.front is None:
            return self.apply(*args, **kwargs)
        try:
            self._call.bind(*args, **kwargs)
        except TypeError as error:
            raise DeclarationError(f"{self.name}: {error}; it takes {self.__signature__}") from None
        return self.front(*args, **kwargs)

    def apply(self, *args: Any, name: str | None = None, **kwargs: Any) -> Value:
        """Add the op as its formula takes it: Values for the arguments, keyword attributes."""
        try:
            bound = inspect.signature(self.formula).bind(*args, **kwargs)
        except TypeError as error:
            raise DeclarationError(f"{self.name}: {error}; it takes {self.__signature__}") from None
        bound.apply_defaults()
        values = [bound.arguments[n] for n in self.arg_names]
        attrs = {p.name: _as_declared(bound.arguments[p.name], p) for p in self.parameters if p.kind is p.KEYWORD_ONLY}
        return graph_of(self.name, values).call(self, *values, name=name, **attrs)

    def __repr__(self) -> str:
        return f"<op {self.name}: {in_a_line(self.summary)}>"

    def __copy__(self) -> Op:
        return self

    def __deepcopy__(self, memo: object) -> Op:
        return self

    def __reduce__(self) -> Any:
        # By name, from a closed set: a pickle holds no formula.
        return lookup, (self.name,)


def _as_declared(attr: object, parameter: inspect.Parameter) -> object:
    """An attribute as its formula declares it: 1 is as good as 1.0 to the caller of an op, and one thing in a graph."""
    is_float = parameter.annotation in (float, "float")
    return float(attr) if is_float and type(attr) is int and abs(attr) <= 2**53 else attr


@dataclass(frozen=True, eq=False)
class Described:
    """A primitive that users call by name, with what its tests and its readers must know."""

    name: str
    build: Callable[..., Value]
    domain: Domain
    note: Note
    sample: Callable[..., Value]


OPS: dict[str, Op] = {}
DESCRIBED: dict[str, Described] = {}


def describe(
    build: Callable[..., Value], *, domain: Domain | tuple[float, float], note: Note, sample: Callable[..., Value]
) -> None:
    """Give a primitive that users call the note, domain and sample that an op has."""
    name = build.__name__
    names = domain if isinstance(domain, Mapping) else {"x": domain}
    build.__doc__ = note.below(build.__doc__)
    DESCRIBED[name] = Described(name, build, names, note, sample)


def catalogue() -> dict[str, Op | Described]:
    """Everything that has a note: ops and described primitives, by name."""
    return {**{n: o for n, o in OPS.items() if not o.custom}, **DESCRIBED}


def lookup(name: str) -> Primitive | Op:
    """The primitive or op of this name: a closed set, nothing is imported or evaluated to find it."""
    found = PRIMITIVES.get(name) or OPS.get(name)
    if found is None:
        raise DeclarationError(
            f"unknown op {name!r}; a custom op must be declared with @tn.op before its graph is read"
        )
    return found


def op(
    *,
    domain: Domain | tuple[float, float],
    note: Note | None = None,
    sample: Callable[..., Value] | None = None,
    custom: bool = False,
) -> Callable[[Callable[..., Value]], Op]:
    """Decorator: make an op of a formula. Its positional parameters are Values, its keyword-only ones attributes."""

    def make(formula: Callable[..., Value]) -> Op:
        name = check_name(formula.__name__, "op")
        name = f"custom.{name}" if custom else name
        if not custom and (name in OPS or name in PRIMITIVES):
            raise DeclarationError(f"op {name!r} is declared twice; choose another name")
        OPS[name] = made = Op(name, formula, domain=domain, note=note, sample=sample, custom=custom)
        return made

    return make


def is_tensor(given: object) -> bool:
    """Whether this is a torch.Tensor, told without torch."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(given).__mro__)


def refuse_tensors(what: str, args: Iterable[object]) -> None:
    """Raise `DeclarationError` where a tensor is given to what takes Values."""
    flat = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,))]
    if any(map(is_tensor, flat)):
        values = ", ".join(repr(part.name) for part in flat if isinstance(part, Value))
        beside = f" beside the Value {values}" if values else ""
        raise DeclarationError(
            f"{what}: got a torch.Tensor{beside}; a graph holds no tensors: declare g.input(...) and feed it, or "
            "g.parameter(...) or g.buffer(...) and load its state; given tensors alone, an op of tn runs at once"
        )


def graph_of(what: str, args: Sequence[object]) -> Graph:
    """The graph that the Values among `args` belong to."""
    graphs = {a.graph for a in args if isinstance(a, Value)}
    if len(graphs) == 1:
        return graphs.pop()
    if not graphs:
        given = ", ".join(type(a).__name__ for a in args) or "nothing"
        raise DeclarationError(
            f"{what}: takes Values of a graph, got {given}; start from g.input(...) or g.parameter(...)"
        )
    names = " and ".join(sorted(g.name for g in graphs))
    raise DeclarationError(f"{what}: its arguments belong to different graphs ({names}); declare them in one")
