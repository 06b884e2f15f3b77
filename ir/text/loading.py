"""A graph from what a file says: every name, attribute, shape and dtype is checked before it is believed.

The text form and the JSON form both end here. Ops come from a closed set: nothing is imported, looked up by path or
evaluated. Time and memory are linear in the size of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from ..core.apply import PASS_FORMULAS, pass_scope, scope_from
from ..core.errors import FormatError, TritonNotesError
from ..core.graph import TOP, Graph, Region, Scope, Value
from ..core.op import OPS, Op
from ..core.optimizer import UPDATE_RULES
from ..core.registry import PRIMITIVES, Operator
from ..core.types import DTYPES, Dim, DType, Shape, Size, bindable, check_name, host, is_name, product_of, show_shape
from ..core.verify import FED, LEVELS, STATE, Memo, check_region, dims_of, infer_call

MAX_VALUES = 100_000
MAX_CHARS = 32 * 2**20
# A derived name joins an op instance's name (of at most 100 characters) to that of a local variable.
MAX_DERIVED_NAME = 400
PHASES = ("forward", "backward", "update")

GraphT = TypeVar("GraphT", bound=Graph)


class Builder(Generic[GraphT]):
    """A graph in the making. Every method raises a `TritonNotesError` where the file asks for what cannot be."""

    def __init__(self, make: Callable[..., GraphT], name: str, level: str) -> None:
        if level not in LEVELS:
            raise FormatError(f"level is {short(level)}; it is one of {', '.join(LEVELS)}")
        self.graph = make(check_name(name, "graph"), level=level)
        self._named: dict[str, Value] = {}
        self._dims: set[Dim] = set()
        self._memo: Memo = {}

    @property
    def names(self) -> Container[str]:
        """The names read so far."""
        return self._named.keys()

    def find(self, name: str) -> Value:
        """The value of this name, if it was read before."""
        found = self._named.get(name)
        if found is None:
            raise FormatError(f"{short(name)} names no value that comes before; list values ahead of their users")
        return found

    def add(
        self,
        name: str,
        op: Operator,
        args: Sequence[str | None],
        attrs: Mapping[str, Any],
        shape: Shape,
        dtype: DType,
        scope: Scope = TOP,
        hint: str | None = None,
    ) -> Value:
        """Append a value whose inferred shape and dtype are the ones that the file says."""
        if len(self.graph.values) == MAX_VALUES:
            raise FormatError(f"more than {MAX_VALUES:,} values; split the graph")
        if len(name) > MAX_DERIVED_NAME or not is_name(name):
            raise FormatError(f"{short(name)} is no name; use ASCII letters, digits and '_', parts joined by '.'")
        if hint is not None and (len(hint) > MAX_DERIVED_NAME or not is_name(hint)):
            raise FormatError(f"hint {short(hint)} is no name; use ASCII letters, digits and '_'")
        if name in self._named:
            raise FormatError(f"the name {name!r} is given twice; each value has its own")
        if self.graph.level == "primitive" and isinstance(op, Op):
            raise FormatError(f"{op.name!r} is an op, and this is a graph of primitives; its level must be 'declared'")
        fed = op.name in FED
        if fed:
            check_name(name, op.name)
        inputs = tuple(None if a is None else self.find(a) for a in args)
        self._infer(op, inputs, attrs, shape, dtype)
        self.graph.scope = scope
        value = self.graph.append(op, inputs, MappingProxyType(dict(attrs)), shape, dtype, name if fed else None)
        for dim in dims_of(value):
            if fed:
                self._dims.add(dim)
            elif dim not in self._dims:
                raise FormatError(f"uses {dim}, which is no size of any input, parameter or buffer before it")
        value.hint = hint
        self._named[name] = value
        return value

    def _infer(
        self,
        op: Operator,
        inputs: tuple[Value | None, ...],
        attrs: Mapping[str, Any],
        shape: Shape,
        dtype: DType,
    ) -> None:
        try:
            inferred, inferred_dtype = infer_call(op, inputs, attrs, shape, dtype, self._memo)
        except TritonNotesError:
            raise
        except Exception as error:
            # A formula is Python that somebody wrote for the attributes its declaring function lets through.
            raise FormatError(f"{op.name}: its formula cannot take these: {type(error).__name__}: {error}") from None
        if inferred != shape or inferred_dtype is not dtype:
            raise FormatError(
                f"says {dtype}{show_shape(shape)}, but {op.name} of these arguments is "
                f"{inferred_dtype}{show_shape(inferred)}; write that"
            )

    def region(
        self, op: Operator, args: Sequence[str | None], attrs: Mapping[str, Any], out: str, scope: Scope
    ) -> None:
        """Note that values which end in `out` came of an op with its own gradient."""
        if self.graph.level != "primitive":
            raise FormatError("a declared graph has no regions; its level must be 'primitive'")
        inputs = tuple(None if a is None else self.find(a) for a in args)
        end = self.find(out)
        if any(a is not None and a.index > end.index for a in inputs):
            raise FormatError(f"region of {out!r}: an argument comes after what it makes")
        try:
            check_region(op, inputs, attrs, end, self._memo)
        except TritonNotesError:
            raise
        except Exception as error:  # as in _infer
            raise FormatError(f"{op.name}: its formula cannot take these: {type(error).__name__}: {error}") from None
        assert isinstance(op, Op)
        self.graph.regions.append(Region(op, inputs, MappingProxyType(dict(attrs)), end, scope))

    def output(self, name: str, value: str) -> None:
        """Name an output."""
        if check_name(name, "output") in self.graph.outputs:
            raise FormatError(f"output {name!r} is given twice")
        self.graph.outputs[name] = self.find(value)

    def update(self, state: str, value: str) -> None:
        """Say what a run leaves in a parameter, buffer or slot."""
        if self.find(state).op.name not in STATE:
            raise FormatError(f"update: {state!r} is no parameter, buffer or slot")
        if state in self.graph.updates:
            raise FormatError(f"update of {state!r} is given twice")
        self.graph.update(self._named[state], self.find(value))

    def done(self) -> GraphT:
        """The graph, in which every value has the name that the file gives it."""
        graph = self.graph
        unbound = self._dims - bindable(v.shape for v in graph.leaves(*FED))
        if unbound:
            raise FormatError(f"the size of {min(map(str, unbound))} is fed in products alone; feed an axis of it")
        graph.scope = TOP
        # Names that follow from scope and hint are left to follow: only the others are fixed. Fixing one can free
        # a name that another then takes; after two rounds all are fixed, so that this is linear too.
        for fix_all in (False, False, True):
            wrong = [(n, v) for n, v in self._named.items() if v._name is None and (fix_all or v.name != n)]
            for name, value in wrong:
                graph.keep_name(value, name)
            if not wrong:
                break
        return graph


def find_op(name: str) -> Operator:
    """The op or primitive of this name, from the closed set."""
    found = PRIMITIVES.get(name) or OPS.get(name)
    if found is None:
        raise FormatError(
            f"unknown op {short(name)}; the set of ops is closed, a custom op must be declared with @tn.op before"
        )
    return found


def find_scope(name: str, op: str, phase: str) -> Scope:
    """A scope; its formula comes from the op, not from the file: it ends up in comments of generated source."""
    if phase not in PHASES:
        raise FormatError(f"scope: phase {short(phase)}; it is one of {', '.join(PHASES)}")
    if name and (len(name) > MAX_DERIVED_NAME or not is_name(name)):
        raise FormatError(f"scope: {short(name)} is no name; use ASCII letters, digits and '_', parts joined by '.'")
    if op in UPDATE_RULES:
        return Scope(name, op, UPDATE_RULES[op].summary, phase=phase)
    if op in PASS_FORMULAS:
        return replace(pass_scope(name, op), phase=phase)
    return replace(scope_from(name, find_op(op)) if op else Scope(name, ""), phase=phase)


def find_size(text: str) -> Size:
    """A size that is known only when tensors are fed: a `Dim`, or a product such as 3*batch*time. A name that begins
    with a digit stands between angle brackets, apart from numbers."""
    parts = text.split("*")
    known = find_int(parts[0]) if parts[0][:1].isdigit() else 1
    names = parts[parts[0][:1].isdigit() :]
    made = product_of((known, *(Dim(n[1:-1] if n[:1] == "<" and n[-1:] == ">" else n) for n in names)))
    if str(made) != text:
        raise FormatError(f"{short(text)} is no size as this form writes it; write {made}")
    return made


def find_int(digits: str) -> int:
    """An int64 in decimal digits."""
    # Python takes quadratic time to read long integers, and refuses past 4,300 digits; int64 has 19.
    if len(digits) > 20 or not digits.removeprefix("-").isdecimal() or not digits.isascii():
        raise FormatError(f"{short(digits)} is no int64; write at most 19 digits")
    return int(digits)


def find_dtype(name: str) -> DType:
    """The dtype of this name, 'host' among them."""
    found = host if name == "host" else DTYPES.get(name)
    if found is None:
        raise FormatError(f"unknown dtype {short(name)}; use one of {', '.join(DTYPES)} or host")
    return found


def short(text: object) -> str:
    """`text` as a message can show it: quoted, escaped, cut."""
    if not isinstance(text, str):
        return f"a {type(text).__name__}"
    return ascii(text) if len(text) <= 60 else f"{ascii(text[:60])}…"


def cut(message: object) -> str:
    """An error's message as a person and a terminal can take it, whatever a file put into it: short and printable."""
    text = str(message)
    text = text if len(text) <= 400 else f"{text[:400]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
