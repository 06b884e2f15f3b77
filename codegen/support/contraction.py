"""A graph without circles whose nodes become one, two at a time, while an order of them is kept.

After D. J. Pearce and P. H. J. Kelly, "A dynamic topological sort algorithm for directed acyclic graphs" (2006): what
is looked at lies between the two nodes, however large the graph is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self, TypeVar

N = TypeVar("N", bound="Node")


class Node:
    """A node, its place in the order, and those right before and right after it."""

    __slots__ = ("position", "before", "after")

    def __init__(self) -> None:
        self.position = 0
        self.before: set[Self] = set()
        self.after: set[Self] = set()


def nodes_between(first: N, last: N) -> set[N] | None:
    """What comes after `first` and has its place before `last`; None if `last` comes after any of it, so that the two
    would make a circle as one."""
    bound = last.position
    seen: set[N] = set()
    todo = [n for n in first.after if n.position < bound]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        if last in node.after:
            return None
        seen.add(node)
        todo += [n for n in node.after if n.position < bound]
    return seen


def contract(first: N, last: N, between: set[N]) -> None:
    """Put `last` into `first`. What lies `between` them, as `nodes_between` has it, moves behind both, and what `last`
    comes after in front of them: these share their places out anew."""
    ahead = _ahead(last, first.position)
    for node in last.before:
        node.after.discard(last)
        node.after.add(first)
    for node in last.after:
        node.before.discard(last)
        node.before.add(first)
    first.before = (first.before | last.before) - {first, last}
    first.after = (first.after | last.after) - {first, last}
    if not ahead and not between:
        return
    places = sorted([*(n.position for n in (*between, *ahead)), first.position, last.position])
    moved = [*sorted(ahead, key=_position), first, *sorted(between, key=_position)]
    for node, place in zip(moved, places[: len(ahead) + 1] + places[len(ahead) + 2 :], strict=True):
        node.position = place


def dissolve(nodes: Iterable[Node]) -> None:
    """Let nodes go of each other, so that nothing is left for the collector of cycles: no more is asked of them."""
    for node in nodes:
        node.before.clear()
        node.after.clear()


def _ahead(last: N, bound: int) -> set[N]:
    """What `last` comes after and has its place after `bound`."""
    seen: set[N] = set()
    todo = [n for n in last.before if n.position > bound]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [n for n in node.before if n.position > bound]
    return seen


def _position(node: Node) -> int:
    return node.position
