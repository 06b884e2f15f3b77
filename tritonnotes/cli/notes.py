"""The notes: all that the registry describes, by family, as entries for the command line and as the page `docs/ops.md`.

Nothing here is a list of ops: an op, described primitive or update rule that is registered has its entry.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import tritonnotes as tn

from ..ir.core.errors import TritonNotesError
from ..ir.core.graph import Graph
from ..ir.core.op import Described, Op, catalogue
from ..ir.core.optimizer import UPDATE_RULES, UpdateRule
from ..ir.core.registry import Note
from ..ir.core.types import DTYPES


class UnknownNameError(TritonNotesError, LookupError):
    """Nothing of this name has a note."""


@dataclass(frozen=True)
class Entry:
    """One op, primitive or update rule as its readers see it.

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

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON has it: the note's lines stand beside the name."""
        own = {k: v for k, v in asdict(self).items() if k != "note"}
        return own | asdict(self.note)

    def lines(self) -> dict[str, str]:
        """What there is to say beside the name and the signature, each under its heading."""
        said = asdict(self.note) | {"dtypes": ", ".join(self.dtypes), "state": ", ".join(self.state)}
        return {heading: text for heading, text in said.items() if text}


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
    if name not in described:
        raise UnknownNameError(f"no op, loss, metric or update rule {name!r}; {_nearest(name, described)}")
    return entry_of(described[name])


def entry_of(thing: Op | Described | UpdateRule) -> Entry:
    """The entry of what the registry holds; it must have a note."""
    assert thing.note is not None
    if isinstance(thing, UpdateRule):
        front = getattr(tn, thing.name, None)
        signature = _signature(front, f"tn.{thing.name}") if front else _of_hyperparameters(thing)
        return Entry(thing.name, "update rule", _family(thing.formula), signature, thing.note, state=thing.state)
    called = getattr(tn, thing.name, None)
    signature = _signature(called or thing, f"tn.{thing.name}" if called else thing.name)
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


# -- the page ----------------------------------------------------------------------------------------------------------

_HEAD = """\
# Ops

Written by `tritonnotes ops --write docs/ops.md` from the notes that stand beside the formulas; never edited by hand.
`tritonnotes note NAME` prints one of them, and with `--plot FILE` draws function and derivative. Arguments and defaults
are torch's where torch has the function. Every op also takes `name=`, which names its value; primitives do not.
`<declared>` means that the op declares the parameter itself, under its own name.
"""


def page() -> str:
    """All entries as a Markdown page."""
    listed = entries()
    families = {entry.family: [e for e in listed if e.family == entry.family] for entry in listed}
    parts = [_HEAD]
    parts.append("\n".join(f"- **{f}**: {', '.join(_link(e) for e in members)}" for f, members in families.items()))
    for family, members in families.items():
        parts.append(f"## {family.capitalize()}")
        parts += [_section(entry) for entry in members]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _link(entry: Entry) -> str:
    return f"[{entry.name}](#{entry.name})"


def _section(entry: Entry) -> str:
    kind = " (a primitive)" if entry.kind == "primitive" else ""
    said = {h: _code(t) if h in ("formula", "derivative") else _prose(t) for h, t in entry.lines().items()}
    listed = [f"- {heading}: {text}" for heading, text in said.items()]
    return "\n".join([f"### {entry.name}", "", f"`{entry.signature}`{kind}", "", *listed])


def _code(formula: str) -> str:
    return f"`{formula}`"


def _prose(text: str) -> str:
    """Text in which Markdown sees no markup."""
    for character in "\\*<[":
        text = text.replace(character, f"\\{character}")
    return text
