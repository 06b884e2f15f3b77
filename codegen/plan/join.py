"""Launches that nothing keeps apart become one: updates, weight gradients, and products with the biases that the
library adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ..analysis.units import UnitSet
from ..fusion.candidate import Candidate
from ..fusion.horizontal import Alike, biased_products, foreach_groups, matmul_groups
from ..support.names import LaunchNames
from .chunk_loops import chunk_loops, inner_names
from .launches import KernelPlan, Launch, LibraryCall, TileLaunch, foreach_launch, grouped_matmul, library_call

Join = Callable[[list[KernelPlan], LaunchNames], Launch]
"""Makes one launch of several kernels, with a name that is free."""


def join_foreach_updates(
    found: Candidate, launches: tuple[Launch, ...], taken: frozenset[str] = frozenset()
) -> tuple[Launch, ...]:
    """The launches of a candidate with updates joined, in an order in which they can run; `taken` are other names."""

    def join(members: list[KernelPlan], names: LaunchNames, group: tuple[Alike, ...]) -> Launch:
        return foreach_launch(_foreach_name(members, names), members, group)

    groups = foreach_groups(found)
    kernels = (([k for alike in group for k in alike.kernels], partial(join, group=group)) for group in groups)
    return _joined(found, launches, kernels, taken)


def group_weight_gradients(
    found: Candidate, launches: tuple[Launch, ...], taken: frozenset[str] = frozenset()
) -> tuple[Launch, ...]:
    """The launches of a candidate with products joined, in an order in which they can run; `taken` are other names."""

    def join(members: list[KernelPlan], names: LaunchNames) -> Launch:
        return grouped_matmul(_grouped_name(members, names), members)

    return _joined(found, launches, ((group, join) for group in matmul_groups(found)), taken)


def add_library_biases(found: Candidate, launches: tuple[Launch, ...]) -> tuple[Launch, ...]:
    """The launches of a candidate without kernels that only add a bias to a product of the library: its call does. Such
    a kernel waits for nothing else, so the sum may be there where the product was."""
    of_units = {frozenset(k.units): k for k in launches}
    calls: dict[Launch, Launch] = {}
    gone: set[Launch] = set()
    for product, adding in biased_products(found).items():
        call, kernel = of_units[product], of_units[adding]
        assert isinstance(call, LibraryCall) and isinstance(kernel, TileLaunch)
        calls[call] = library_call(call.piece, kernel.kernel)
        gone.add(kernel)
    return tuple(calls.get(k, k) for k in launches if k not in gone)


def _joined(
    found: Candidate,
    launches: tuple[Launch, ...],
    groups: Iterable[tuple[Iterable[UnitSet], Join]],
    taken: frozenset[str],
) -> tuple[Launch, ...]:
    """The launches with the kernels of each group in one, which is made by the function beside them."""
    groups = list(groups)
    if not groups:
        return launches
    alone = {frozenset(k.kernel.units): k for k in launches if isinstance(k, TileLaunch) and not k.last_block}
    made = list(launches)
    known = taken.union((k.name for k in launches), *map(inner_names, chunk_loops(launches)))
    names = LaunchNames(found.units.graph, known)
    for kernels, join in groups:
        members = [alone[k] for k in kernels]
        joined = join([m.kernel for m in members], names)
        # What the last of them waits for has run by then, and nothing waits for the others.
        made[max(map(made.index, members))] = joined
        made = [k for k in made if k not in members]
    return tuple(made)


def _foreach_name(members: Iterable[KernelPlan], names: LaunchNames) -> str:
    """After the rules: `update_adam`."""
    return names.claim("_".join(["update", *_rules(members)]), blocks=True)


def _grouped_name(members: Iterable[KernelPlan], names: LaunchNames) -> str:
    """After the rules of the updates that follow from the matmuls: `grouped_matmul_adam`."""
    return names.claim("_".join(["grouped_matmul", *_rules(members)]))


def _rules(members: Iterable[KernelPlan]) -> dict[str, None]:
    """The update rules that some kernels run, each once."""
    scopes = (u.value.scope for k in members for u in k.units)
    return dict.fromkeys(s.op.removeprefix("custom.") for s in scopes if s.phase == "update" and s.op)
