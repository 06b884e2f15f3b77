"""Launches that nothing keeps apart become one: updates, and weight gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..fusion.candidate import Candidate
from ..fusion.horizontal import FOREACH, GROUPED_MATMUL, foreach_groups, matmul_groups
from .launches import KernelPlan, inner_names


def join_foreach_updates(
    found: Candidate, launches: tuple[KernelPlan, ...], taken: frozenset[str] = frozenset()
) -> tuple[KernelPlan, ...]:
    """The launches of a candidate with updates joined, in an order in which they can run; `taken` are other names."""
    known = {frozenset(k.units): k for k in launches}
    made, names = list(launches), {*taken, *_names(launches)}
    for group in foreach_groups(found):
        members = [known[k] for alike in group for k in alike.kernels]
        all_units = tuple(u for k in members for u in k.units)
        computed = {u.value for u in all_units}
        name = _group_name(members, names)
        names.add(name)
        joined = replace(
            members[0],
            name=name,
            kind=FOREACH,
            units=all_units,
            recomputed=tuple(dict.fromkeys(v for k in members for v in k.recomputed if v not in computed)),
            loads=tuple(dict.fromkeys(v for k in members for v in k.loads)),
            stores=tuple(v for k in members for v in k.stores),
            members=tuple(members),
            group=group,
        )
        # What the last of them waits for has run by then, and nothing waits for the others.
        made[max(made.index(k) for k in members)] = joined
        made = [k for k in made if k not in members]
    return tuple(made)


def _names(launches: Iterable[KernelPlan]) -> Iterator[str]:
    """What launches are called, and those that loops over chunks make."""
    for launch in launches:
        yield launch.name
        if launch.chunks:
            yield from inner_names(launch.chunks)


def _group_name(members: Iterable[KernelPlan], taken: set[str]) -> str:
    """After the rules: `update_adam`. What it calls for each block begins with the same word."""
    scopes = (u.value.scope for k in members for u in k.units)
    rules = dict.fromkeys(s.op.removeprefix("custom.") for s in scopes if s.phase == "update" and s.op)
    name = stem = "_".join(["update", *rules])
    count = 1
    while any(other == name or other.startswith(f"{name}_block") for other in taken):
        count += 1
        name = f"{stem}_{count}"
    return name


def group_weight_gradients(
    found: Candidate, launches: tuple[KernelPlan, ...], taken: frozenset[str] = frozenset()
) -> tuple[KernelPlan, ...]:
    """The launches of a candidate with products joined, in an order in which they can run; `taken` are other names."""
    known = {frozenset(k.units): k for k in launches}
    made, names = list(launches), {*taken, *_names(launches)}
    for group in matmul_groups(found):
        members = [known[k] for k in group]
        rules = dict.fromkeys(u.value.scope.op for k in members for u in k.units if u.value.scope.phase == "update")
        name = "_".join([GROUPED_MATMUL, *(rule.removeprefix("custom.") for rule in rules)])
        while name in names:
            name += "_more"
        names.add(name)
        computed = {u.value for k in members for u in k.units}
        joined = replace(
            members[-1],
            name=name,
            kind=GROUPED_MATMUL,
            units=tuple(u for k in members for u in k.units),
            recomputed=tuple(dict.fromkeys(v for k in members for v in k.recomputed if v not in computed)),
            loads=tuple(dict.fromkeys(v for k in members for v in k.loads)),
            stores=tuple(v for k in members for v in k.stores),
            tile=(0, 0),
            split_k=0,
            members=tuple(members),
        )
        # Nothing waits for any of them, and the last one waits for the others.
        made[max(made.index(k) for k in members)] = joined
        made = [k for k in made if k not in members]
    return tuple(made)
