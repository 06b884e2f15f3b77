"""What a user says about fusion: the mode, and what must or must not share a kernel, by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, Value

from ..analysis.units import PARTIAL, Unit, Units, UnitSet
from ..analysis.views import memory_of
from ..target.targets import GPU, TARGETS, Target
from .legality import Legality, Refusal

MODES = ("optimal", "greedy", "off")


PRODUCTS = ("fastest", "generated", "library")
"""What computes matrix products: whichever the cost model takes to be faster, generated kernels, or torch's library."""


PHASES = ("forward", "backward", "update")


Names = tuple[str, ...]


@dataclass(frozen=True)
class Fusion:
    """How to fuse. `fuse` and `forbid` hold names, or tuples of names, of op instances (`ln1`) or values (`ln1.rstd`).

    Of the names of a tuple in `fuse` every value that passes from one to another stays inside a kernel, in the forward
    run and in the gradient each for itself; what exchanges no value shares a kernel all the same. No kernel computes
    values of two names of a tuple in `forbid`; a name alone there shares its kernels with nothing. `is_strict`: a name
    that the graph does not have is an error. Without `products` all matrix products are library calls; with
    `all_generated` none is: generated kernels compute them, each row in an order that depends neither on the machine
    nor on how many rows there are.

    With a `memory_budget`, in bytes, the plan that costs least is changed where a run holds more than that beside its
    leaves (`peak_bytes`, with every `Dim` at 256): launches are reordered, weight gradients run apart and values are
    computed again, until it is within, or nothing lowers it further.

    `target` names what is planned for, one of `TARGETS`: its prices decide, and any plan runs on each of them. None is
    what the plan will run on, where that is known, and else a GPU.
    """

    mode: str = "optimal"
    fuse: tuple[Names, ...] = ()
    forbid: tuple[Names, ...] = ()
    is_strict: bool = True
    products: bool = True
    all_generated: bool = False
    memory_budget: int | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        budget = self.memory_budget
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
            raise PlanError(f"memory_budget is {budget!r}; it must be a number of bytes, such as 512 * 2**20, or None")
        if self.target is not None and self.target not in TARGETS:
            raise PlanError(f"target={self.target!r}; use one of {', '.join(map(repr, TARGETS))}")
        if budget is not None and self.is_off:
            raise PlanError("memory_budget: fusion='off' leaves nothing to change; use 'optimal' or 'greedy'")

    @property
    def is_off(self) -> bool:
        """Whether nothing is fused but what the user wants together."""
        return self.mode == "off"

    @property
    def gathers_moments(self) -> bool:
        """Whether one pass over rows gathers a mean and what deviates from it. Sums of deviations from a known mean are
        more exact where few programs share the rows, as on a CPU, and a cache spares it the second pass."""
        return not self.is_off and self.planned_for.cpu is None

    @property
    def planned_for(self) -> Target:
        """The target with its prices."""
        return TARGETS[self.target or GPU]

    def on(self, target: str) -> Fusion:
        """The same for a plan that will run on `target`, where none is asked for."""
        return replace(self, target=self.target or target)

    def lenient(self) -> Fusion:
        """The same for a graph that is only part of what the names speak of."""
        return replace(self, is_strict=False)


def as_fusion(
    mode: str | Fusion,
    fuse: Iterable[object] = (),
    forbid: Iterable[object] = (),
    products: str = "fastest",
    target: str | None = None,
) -> Fusion:
    """A checked `Fusion`. Raises `PlanError` for an unknown mode, target or choice of products, and for what is no
    name."""
    if isinstance(mode, Fusion):
        return mode
    if mode not in MODES:
        raise PlanError(f"fusion={mode!r}; use one of {', '.join(map(repr, MODES))}")
    if products not in PRODUCTS:
        raise PlanError(f"products={products!r}; use one of {', '.join(map(repr, PRODUCTS))}")
    kinds = {"products": products != "library", "all_generated": products == "generated"}
    made = Fusion(mode, tuple(_names("fuse", fuse)), tuple(_names("forbid", forbid)), target=target, **kinds)
    _check_effect(made)
    return made


def _check_effect(asked: Fusion) -> None:
    """Raise `PlanError` for wishes without effect, and for those that contradict each other."""
    for what, wishes in (("fuse", asked.fuse), ("forbid", asked.forbid)):
        for names in wishes:
            twice = next((n for n in names if names.count(n) > 1), None)
            if twice is not None:
                raise PlanError(f"{what}: {names} names {twice!r} twice; name each once")
        same = next((n for i, n in enumerate(wishes) if set(n) in map(set, wishes[:i])), None)
        if same is not None:
            raise PlanError(f"{what}: {same} is given twice; give each once")
    alone = next((names for names in asked.fuse if len(names) == 1), None)
    if alone is not None:
        raise PlanError(
            f"fuse: {alone[0]!r} is named alone, and what is it to share a kernel with? Name two or more, as in "
            f"fuse=[({alone[0]!r}, 'act1')]"
        )
    for names, others in itertools.product(asked.fuse, asked.forbid):
        both = [n for n in others if n in names]
        if len(both) > 1 or (both and len(others) == 1):
            raise PlanError(
                f"fuse={names} and forbid={others} contradict each other, by {', '.join(both)}; take one of them out"
            )


def _names(what: str, given: Iterable[object]) -> Iterator[Names]:
    if isinstance(given, str):
        raise PlanError(f"{what}={given!r}; give a list of names or of tuples of names, as in {what}=[('ln1', 'act1')]")
    for entry in given:
        names = (entry,) if isinstance(entry, str) else entry
        if not (isinstance(names, tuple | list) and names and all(isinstance(n, str) for n in names)):
            raise PlanError(f"{what}: {entry!r} is neither a name nor a tuple of names")
        yield tuple(names)


def check_known(asked: Fusion, graphs: Iterable[Graph]) -> None:
    """Raise `PlanError` for names that no op and no value of several graphs together has."""
    names = {name for graph in graphs for v in graph.values for name in (v.scope.name, v.name)}
    for what, wishes in (("fuse", asked.fuse), ("forbid", asked.forbid)):
        for name in itertools.chain(*wishes):
            if name not in names:
                raise PlanError(f"{what}: no op and no value {name!r} is computed; use names that explain() shows")


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
        for asked in _wanted(units, names, fusion):
            # Which products kernels compute is decided when kernels are known; `unmet` looks at them then.
            wanted = {u for u in asked if not u.is_library}
            if len(wanted) < 2:
                continue
            merged = _with_between(units, wanted)
            while shared := [g for g in groups if g & merged]:
                groups = [g for g in groups if not g & merged]
                merged = _with_between(units, merged.union(*shared))
            groups.append(merged)
            refusal = _refusal(legality, frozenset(merged))
            if refusal is not None:
                shown = ", ".join(names)
                raise PlanError(f"fuse: {shown} cannot be fused, by the rule {refusal.rule!r}: {refusal.reason}")
    return tuple(frozenset(g) for g in groups)


Computed = tuple[Value, bool]
"""A value, and whether only partial sums of it."""


def computed_of(units: Iterable[Unit]) -> frozenset[Computed]:
    """What some units compute."""
    return frozenset((u.value, u.part == PARTIAL) for u in units)


@dataclass(frozen=True)
class Unmet:
    """What a tuple of `names` in `fuse` asks for and kernels do not hold: pairs of a value and what reads it, or of
    units that exchange nothing."""

    names: Names
    links: tuple[frozenset[Unit], ...]


def unmet(units: Units, fusion: Fusion, computed: Iterable[frozenset[Computed]]) -> Unmet | None:
    """The first names in `fuse` of which some kernel computes one end of a value that passes, and not the other; None
    where all are met. `computed` is what each kernel computes. Where kernels hold some of what passes, a matrix
    product that reads or makes the rest may stay a launch of its own: a weight's gradient reads whole columns."""
    kernels = list(computed)
    for names in fusion.fuse:
        links = [frozenset(link) for some in _links(units, names, fusion) for link in some]
        missed = [link for link in links if not any(computed_of(link) <= kernel for kernel in kernels)]
        hard = [link for link in missed if all(u.value.op.kind != "contraction" for u in link)]
        if hard or (missed and len(missed) == len(links)):
            return Unmet(names, tuple(hard or missed))
    return None


def _wanted(units: Units, names: Names, fusion: Fusion) -> Iterator[set[Unit]]:
    """For each phase the units at both ends of what passes between the names; all their units if nothing does."""
    for links in _links(units, names, fusion):
        yield from _joined(links)


def _links(units: Units, names: Names, fusion: Fusion) -> Iterator[list[set[Unit]]]:
    """For each phase the pairs of units of which one reads what the other computes, of two of the names; all their
    units if there are none."""
    found = _values_that_pass(units, names) or [set(_named(units, name, f"fuse={names}", fusion)) for name in names]
    runs = [[{u for u in some if u.value.scope.phase == phase} for some in found] for phase in PHASES]
    if all(len({u.value for u in some}) == 1 for some in found):
        runs = [found]  # single values, whatever runs they belong to
    runs = [run for run in runs if all(run)]
    if not runs and fusion.is_strict:
        raise PlanError(f"fuse: nothing of {', '.join(names)} is computed in one and the same run")
    for run in runs:
        links = [
            {u, reader}
            for some, others in itertools.permutations(run, 2)
            for reader in others
            for u in _read_by(units, reader) & some
        ]
        yield links or [set().union(*run)]


def _values_that_pass(units: Units, names: Names) -> list[set[Unit]]:
    """The values of these names alone, where a name is no op's and one value is read by another, as `explain()` names
    both ends of an edge; else nothing."""
    ops = {u.value.scope.name for u in units.units}
    found = [{u for u in units.units if u.value.name == name} for name in names]
    passes = any(_read_by(units, reader) & one for one, other in itertools.permutations(found, 2) for reader in other)
    return found if passes and all(found) and not ops.issuperset(names) else []


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
    """The units of an op instance, in all phases, or of one value, which may be a view of what a unit computes."""
    found = [u for u in units.units if u.value.scope.name == name] or [u for u in units.units if u.value.name == name]
    if not found:
        views = [memory_of(v) for v in units.graph.values if v.name == name]
        found = [units.producer[memory] for memory in views if memory in units.producer]
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
