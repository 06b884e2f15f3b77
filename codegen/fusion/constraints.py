"""What a user says about fusion: the mode, and what must or must not share a kernel, by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tritonnotes.ir.core.errors import PlanError

from ..analysis.units import Unit, Units, UnitSet
from .legality import Legality, Refusal

MODES = ("optimal", "greedy", "off")


PHASES = ("forward", "backward", "update")


Names = tuple[str, ...]


@dataclass(frozen=True)
class Fusion:
    """How to fuse. `fuse` and `forbid` hold names, or tuples of names, of op instances (`ln1`) or values (`ln1.rstd`).

    Of the names of a tuple in `fuse` every value that passes from one to another stays inside a kernel, in the forward
    run and in the gradient each for itself; what exchanges no value shares a kernel all the same. A name alone means
    the op's own values. No kernel computes values of two names of a tuple in `forbid`; a name alone there shares its
    kernels with nothing. `is_strict`: a name that the graph does not have is an error. Without `products` all matrix
    products are library calls.

    With a `memory_budget`, in bytes, the plan that costs least is changed where a run holds more than that beside its
    leaves (`peak_bytes`, with every `Dim` at 256): launches are reordered, weight gradients run apart and values are
    computed again, until it is within, or nothing lowers it further.
    """

    mode: str = "optimal"
    fuse: tuple[Names, ...] = ()
    forbid: tuple[Names, ...] = ()
    is_strict: bool = True
    products: bool = True
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        budget = self.memory_budget
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
            raise PlanError(f"memory_budget is {budget!r}; it must be a number of bytes, such as 512 * 2**20, or None")
        if budget is not None and self.is_off:
            raise PlanError("memory_budget: fusion='off' leaves nothing to change; use 'optimal' or 'greedy'")

    @property
    def is_off(self) -> bool:
        """Whether nothing is fused but what the user wants together."""
        return self.mode == "off"

    def lenient(self) -> Fusion:
        """The same for a graph that is only part of what the names speak of."""
        return replace(self, is_strict=False)


def as_fusion(mode: str | Fusion, fuse: Iterable[object] = (), forbid: Iterable[object] = ()) -> Fusion:
    """A checked `Fusion`. Raises `PlanError` for an unknown mode and for what is no name."""
    if isinstance(mode, Fusion):
        return mode
    if mode not in MODES:
        raise PlanError(f"fusion={mode!r}; use one of {', '.join(map(repr, MODES))}")
    return Fusion(mode, tuple(_names("fuse", fuse)), tuple(_names("forbid", forbid)))


def _names(what: str, given: Iterable[object]) -> Iterator[Names]:
    if isinstance(given, str):
        raise PlanError(f"{what}={given!r}; give a list of names or of tuples of names, as in {what}=[('ln1', 'act1')]")
    for entry in given:
        names = (entry,) if isinstance(entry, str) else entry
        if not (isinstance(names, tuple | list) and names and all(isinstance(n, str) for n in names)):
            raise PlanError(f"{what}: {entry!r} is neither a name nor a tuple of names")
        yield tuple(names)


def forbidden(units: Units, fusion: Fusion) -> Iterator[tuple[Unit, Unit]]:
    """The pairs of units that must not share a kernel."""
    for names in fusion.forbid:
        sets = [_named(units, name, f"forbid={names}", fusion) for name in names]
        if len(names) == 1:
            sets.append([u for u in units.units if u not in set(sets[0])])
        for i, some in enumerate(sets):
            for others in sets[i + 1 :]:
                yield from ((one, other) for one in some for other in others if one.value is not other.value)


def together(units: Units, legality: Legality, fusion: Fusion) -> tuple[UnitSet, ...]:
    """The sets of units that must share a kernel, each with all that lies between. Raises `PlanError` where one cannot
    be a kernel, naming the rule."""
    groups: list[set[Unit]] = []
    for names in fusion.fuse:
        for wanted in _wanted(units, names, fusion):
            merged = _with_between(units, wanted.union(*(g for g in groups if g & wanted)))
            groups = [g for g in groups if not g & merged] + [merged]
            refusal = _refusal(legality, frozenset(merged))
            if refusal is not None:
                shown = ", ".join(names)
                raise PlanError(f"fuse: {shown} cannot be fused, by the rule {refusal.rule!r}: {refusal.reason}")
    return tuple(frozenset(g) for g in groups)


def _wanted(units: Units, names: Names, fusion: Fusion) -> Iterator[set[Unit]]:
    """For each phase the units at both ends of what passes between the names; all their units if nothing does."""
    found = [set(_named(units, name, f"fuse={names}", fusion)) for name in names]
    runs = [[{u for u in some if u.value.scope.phase == phase} for some in found] for phase in PHASES]
    if all(len({u.value for u in some}) == 1 for some in found):
        runs = [found]  # single values, whatever runs they belong to
    runs = [run for run in runs if all(run)]
    if not runs and fusion.is_strict:
        raise PlanError(f"fuse: nothing of {', '.join(names)} is computed in one and the same run")
    for run in runs:
        pairs = [(one, one) for one in run] if len(run) == 1 else itertools.permutations(run, 2)
        links = [{u, reader} for some, others in pairs for reader in others for u in _read_by(units, reader) & some]
        yield from _joined(links or [set().union(*run)])


def _read_by(units: Units, reader: Unit) -> set[Unit]:
    return {units.producer[s] for s in units.sources(reader) if s in units.producer}


def _joined(links: list[set[Unit]]) -> list[set[Unit]]:
    """Links that share a unit, as one set."""
    parts: list[set[Unit]] = []
    for link in links:
        touching = [p for p in parts if p & link]
        parts = [p for p in parts if not p & link] + [link.union(*touching)]
    return parts


def _named(units: Units, name: str, what: str, fusion: Fusion) -> list[Unit]:
    """The units of an op instance, in all phases, or of one value."""
    found = [u for u in units.units if u.value.scope.name == name] or [u for u in units.units if u.value.name == name]
    if not found and fusion.is_strict:
        known = sorted({u.value.scope.name for u in units.units if u.value.scope.name})
        shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        raise PlanError(
            f"{what}: no op and no value {name!r} is computed in graph {units.graph.name!r}; ops are {shown or 'none'}"
        )
    return found


def _with_between(units: Units, some: set[Unit]) -> set[Unit]:
    """Units, and all that depends on one of them and that another one depends on."""

    def reached(steps: dict[Unit, tuple[Unit, ...]]) -> set[Unit]:
        seen: set[Unit] = set()
        todo = list(some)
        while todo:
            for unit in steps[todo.pop()]:
                if unit not in seen:
                    seen.add(unit)
                    todo.append(unit)
        return seen

    return some | (reached(units.after) & reached(units.before))


def _refusal(legality: Legality, group: UnitSet) -> Refusal | None:
    found = legality.space(group, ())
    return found if isinstance(found, Refusal) else None
