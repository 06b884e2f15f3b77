"""The notes: all that the registry describes, by family, as entries for `tn.note`, the command line and `docs/ops.md`.

Nothing here is a list of ops: an op, described primitive or update rule that is registered has its entry.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch

from .certificate import Certificate, check
from .ir.core.errors import TritonNotesError
from .ir.core.graph import Graph
from .ir.core.op import Described, Op, catalogue
from .ir.core.optimizer import UPDATE_RULES, Optimizer, UpdateRule
from .ir.core.registry import Note, in_a_line
from .ir.core.types import DTYPES, Dim, as_dtype
from .ir.ops.statistics import mean
from .judge.references import REFERENCES
from .judge.update_references import UPDATE_REFERENCES
from .views.html import tag
from .views.shown import note_html

_public: dict[str, Any] = {}
"""What users call by the name of an op or rule, by that name; empty until the face is imported."""


def _called() -> Mapping[str, Any]:
    """The public names. The face lies above, and is imported when a name of the package is asked for."""
    if not _public:
        import_module(f"{__package__}.face")
    return _public


def publish(names: Mapping[str, Any]) -> None:
    """Say what the public names are, as the face does when it is imported: it lies above the notes."""
    _public.update(names)


class UnknownNameError(TritonNotesError, LookupError):
    """Nothing of this name has a note."""


@dataclass(frozen=True, repr=False)
class Entry:
    """One op, primitive or update rule as its readers see it: `print` it, or let a notebook show it.

    `signature` is how it is called, with defaults, `dtypes` those that it can be declared with, and `state` the tensors
    that an update rule keeps for each parameter.
    """

    name: str
    kind: str
    family: str
    signature: str
    note: Note
    dtypes: tuple[str, ...] = ()
    state: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """What its results are compared with: a function of torch by name, or the source of ours in plain torch."""
        known = UPDATE_REFERENCES if self.kind == "update rule" else REFERENCES
        return _spelled(known[self.name])

    def graph(self, shape: tuple[Any, ...] = (Dim("batch"), 64), dtype: str = "float32") -> Graph:
        """A small graph of it: the op alone, its result the output `y`; of an update rule, something to train."""
        if self.kind == "update rule":
            graph = Graph(f"{self.name}_alone")
            weight = graph.parameter("weight", shape[-1:], init="normal", dtype=dtype, mean=0.0, std=1.0)
            loss = mean(graph.input("x", shape, dtype) * weight)
            graph.output(loss=loss)
            return graph
        graph, sample = Graph(f"{self.name}_alone"), catalogue()[self.name].sample
        assert sample is not None
        graph.output(y=sample(graph, shape, as_dtype(dtype)))
        return graph

    def check(self, shape: tuple[Any, ...] = (Dim("batch"), 64), dtype: str = "float32", **how: Any) -> Certificate:
        """The errors of its kernel, alone, beside eager PyTorch's: `tn.check` of `graph(shape, dtype)`, which `how` is
        passed to."""
        if self.kind == "update rule":
            how.setdefault("optimizer", UPDATE_RULES[self.name](**_needed(UPDATE_RULES[self.name])))
        return check(self.graph(shape, dtype), **how)

    def __str__(self) -> str:
        said = {"family": self.family, **self.lines()}
        width = max(map(len, said))
        lines = [self.signature, *(f"  {heading:{width}}  {text}" for heading, text in said.items())]
        return "\n".join([*lines, "  reference", *(f"    {line}" for line in self.reference.splitlines())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        more = [(head, text) for head, text in (("family", self.family), ("dtypes", ", ".join(self.dtypes)),
                                                ("state", ", ".join(self.state))) if text]  # fmt: skip
        return note_html(self.signature, self.note, [*more, ("reference", tag("pre", self.reference))])

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON has it: the note's lines stand beside the name."""
        own = {k: v for k, v in asdict(self).items() if k != "note"}
        return own | asdict(self.note)

    def lines(self) -> dict[str, str]:
        """What there is to say beside the name and the signature, each under its heading."""
        said = asdict(self.note) | {"dtypes": ", ".join(self.dtypes), "state": ", ".join(self.state)}
        return {heading: text for heading, text in said.items() if text}


def note(what: str | Op | UpdateRule | Optimizer | Callable[..., Any]) -> Entry:
    """The study note of an op, primitive or update rule: formula, derivative, strengths, weaknesses, use, source,
    dtypes, and what it is compared with. `what` is its name, as in `tn.note("gelu")`, or what is called: `tn.gelu`.

    Printed, or shown by a notebook; `.check()` compares its kernel with eager PyTorch and float64. Raises
    `UnknownNameError` with the nearest name there is."""
    if isinstance(what, Optimizer):
        what = what.rule
    if isinstance(what, Op | UpdateRule) and what.custom:
        said = what.summary if isinstance(what, Op) else what.formula.__doc__ or ""
        own = Note(in_a_line(said, 400), "", "", "", "", "")
        if isinstance(what, Op):
            return Entry(what.name, "op", "custom", f"{what.name}{what.__signature__}", what.note or own)
        return Entry(what.name, "update rule", "custom", _of_hyperparameters(what), what.note or own, state=what.state)
    name = what if isinstance(what, str) else getattr(what, "name", None) or getattr(what, "__name__", repr(what))
    return find(str(name).removeprefix("tn."))


def entries(family: str | None = None) -> list[Entry]:
    """Everything with a note (of one `family`), by family and name. Raises `UnknownNameError` for no such family."""
    found = [entry_of(thing) for thing in _described().values()]
    families = {entry.family for entry in found}
    if family is not None and family not in families:
        raise UnknownNameError(f"no family {family!r}; {_nearest(family, families)}")
    return sorted((e for e in found if family in (None, e.family)), key=lambda e: (e.family, e.name))


def find(name: str) -> Entry:
    """The entry called `name`. Raises `UnknownNameError` with the nearest name there is."""
    described = _described()
    if name not in described and name in _called():
        called = _called()[name]
        if getattr(called, "__name__", None) in described:  # another name of an op, as amax is of max
            return entry_of(described[called.__name__])
        raise UnknownNameError(f"tn.{name} has no note of its own; help(tn.{name}) says what it is")
    if name not in described:
        raise UnknownNameError(f"no op, loss, metric or update rule {name!r}; {_nearest(name, described)}")
    return entry_of(described[name])


def entry_of(thing: Op | Described | UpdateRule) -> Entry:
    """The entry of what the registry holds; it must have a note."""
    assert thing.note is not None
    if isinstance(thing, UpdateRule):
        front = _called().get(thing.name)
        signature = _signature(front, f"tn.{thing.name}") if front else _of_hyperparameters(thing)
        return Entry(thing.name, "update rule", _family(thing.formula), signature, thing.note, state=thing.state)
    called = _called().get(thing.name)
    made = thing.build if isinstance(thing, Described) else thing
    signature = _signature(called or made, f"tn.{thing.name}" if called else thing.name)
    if isinstance(thing, Op):
        return Entry(thing.name, "op", _family(thing.formula), signature, thing.note, _dtypes(thing))
    # A primitive is described away from where it is made; what makes its sample stands beside the description.
    return Entry(thing.name, "primitive", _family(thing.sample), signature, thing.note, _dtypes(thing))


def _described() -> dict[str, Op | Described | UpdateRule]:
    found: dict[str, Op | Described | UpdateRule] = {n: r for n, r in UPDATE_RULES.items() if not r.custom}
    found |= catalogue()
    return {name: thing for name, thing in found.items() if thing.note is not None}


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names))}"


def _needed(rule: UpdateRule) -> dict[str, float]:
    """Hyperparameters that have no default, with one that is usual for a rate."""
    return {name: 1e-3 for name in rule.takes if rule.defaults[name] is inspect.Parameter.empty}


def _spelled(function: Callable[..., Any]) -> str:
    """A function of torch by its name, another one by its source, after the variables that it takes from outside."""
    name = getattr(function, "__name__", "")
    for module in (torch, torch.nn.functional, torch.special, operator):
        if getattr(module, name, None) is function:
            return f"{module.__name__.replace('_operator', 'operator')}.{name}"
    try:
        source = textwrap.dedent(inspect.getsource(function)).strip()
    except (OSError, TypeError):
        return f"{getattr(function, '__module__', None) or type(function).__name__}.{name}"
    taken = inspect.getclosurevars(function).nonlocals
    return "\n\n\n".join([*(_taken(variable, value) for variable, value in taken.items()), source])


def _taken(variable: str, value: Any) -> str:
    """The assignment of a variable that a function takes from where it was made."""
    if not callable(value):
        return f"{variable} = {value!r}"
    spelled, name = _spelled(value), getattr(value, "__name__", "")
    if name == "<lambda>":
        return f"# {variable}: {spelled}"
    return f"{spelled}\n\n\n{variable} = {name}" if spelled.startswith("def ") else f"{variable} = {spelled}"


def _family(declared: Callable[..., Any]) -> str:
    """What the declaring module calls its ops in `FAMILY`, else the module's own name."""
    module = sys.modules[declared.__module__]
    return getattr(module, "FAMILY", module.__name__.rpartition(".")[2].replace("_", " "))


def _signature(called: Any, name: str) -> str:
    """`name(...)` with defaults and without annotations; `name=`, which every op takes, is left out."""
    signature = inspect.signature(called)
    kept = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "name"]
    return f"{name}{signature.replace(parameters=kept, return_annotation=signature.empty)}"


def _of_hyperparameters(rule: UpdateRule) -> str:
    given = {h: default for h, default in rule.defaults.items() if h != "step"}
    shown = (h if default is inspect.Parameter.empty else f"{h}={default!r}" for h, default in given.items())
    return f"{rule.name}({', '.join(['*', *shown])})"


@functools.cache
def _dtypes(thing: Op | Described) -> tuple[str, ...]:
    """Those in which the op's own example can be declared."""
    assert thing.sample is not None
    found = []
    for name, dtype in DTYPES.items():
        try:
            thing.sample(Graph("dtypes"), (4, 6), dtype)
        except TritonNotesError:
            continue
        found.append(name)
    return tuple(found)
