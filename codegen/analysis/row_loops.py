"""Rows that registers do not hold: the loops in which a kernel goes along them, and what each loop computes and reads.

One scheduler for the cost model, which counts what the loops reread, and for tile programs, which carry them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True)
class Row(Generic[N]):
    """What a kernel computes of each row.

    `args` are what each node is computed from, in an order in which that can be done; what it has no entry for is
    computed elsewhere. Nodes that are wide have a number for each column. `reductions` take one number of all columns;
    `beside` has, for sums that are taken beside a running maximum, that maximum; `moments`, for sums of deviations or
    their squares, what deviates, and from what. `stored` are wide nodes that are written.
    """

    args: Mapping[N, tuple[N, ...]]
    is_wide: Callable[[N], bool]
    reductions: Collection[N]
    beside: Mapping[N, N]
    moments: Mapping[N, tuple[N, N]]
    stored: Collection[N]


@dataclass(frozen=True)
class RowLoop(Generic[N]):
    """One loop along the row. `wide` are the nodes computed for each block of columns, `read` those that are computed
    elsewhere; `reductions` are what is taken of them, `stored` those that are written. For reductions that follow from
    `moments` the loop gathers those, of the node beside them. `after` are the nodes of one number for the row that
    follow once the loop is over."""

    wide: tuple[N, ...]
    read: frozenset[N]
    reductions: tuple[N, ...]
    moments: Mapping[N, N]
    stored: frozenset[N]
    after: tuple[N, ...]


@dataclass(frozen=True)
class RowLoops(Generic[N]):
    """What is computed `before` the first loop, and the loops."""

    before: tuple[N, ...]
    loops: tuple[RowLoop[N], ...]


def schedule_row_loops(row: Row[N]) -> RowLoops[N]:
    """As few loops as the reductions allow: each takes all whose arguments can be had by then. Wide nodes are computed
    again in each loop that needs them."""
    ready: dict[N, int] = {}
    """The loop in which a wide node can be computed, or before which another one is known."""
    taken: dict[N, int] = {}
    moments: dict[N, N] = {}
    for node, args in row.args.items():
        ready[node] = max((ready.get(arg, 0) for arg in args), default=0)
        if node in row.moments:
            x, _ = row.moments[node]
            if ready.get(x, 0) < ready[node]:
                # What it deviates from is known only after the loop that has x, whose moments tell the sum.
                moments[node], taken[node] = x, ready.get(x, 0)
                continue
        if node in row.reductions:
            taken[node] = taken[row.beside[node]] if node in row.beside else ready[node]
            ready[node] = taken[node] + 1
    count = 1 + max([*taken.values(), *(ready[node] for node in row.stored)], default=-1)
    after: list[list[N]] = [[] for _ in range(count + 1)]
    for node in row.args:
        if not row.is_wide(node):
            after[ready[node]].append(node)
    loops = []
    for number in range(count):
        reductions = tuple(node for node, loop in taken.items() if loop == number)
        stored = frozenset(node for node in row.stored if ready[node] == number)
        # A sum beside a running maximum needs no more than what that maximum is taken of.
        roots = [arg for node in reductions for arg in row.args[row.beside.get(node, node)] if node not in moments]
        of_moments = {node: moments[node] for node in reductions if node in moments}
        wide, read = _needed(row, [*roots, *of_moments.values(), *stored])
        loops.append(RowLoop(wide, read, reductions, of_moments, stored, tuple(after[number + 1])))
    return RowLoops(tuple(after[0]), tuple(loops))


def _needed(row: Row[N], roots: Iterable[N]) -> tuple[tuple[N, ...], frozenset[N]]:
    """The wide nodes behind some, themselves included: those that are computed here, in order, and those that are
    not."""
    found: set[N] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node not in found and row.is_wide(node):
            found.add(node)
            todo += row.args.get(node, ())
    return tuple(node for node in row.args if node in found), frozenset(node for node in found if node not in row.args)
