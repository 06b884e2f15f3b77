"""Sums over all rows, finished in the launch that takes them: by its last program to arrive, for what others left."""

from __future__ import annotations

from collections.abc import Iterator

import networkx

from ..analysis.axes import known_product
from ..analysis.units import FINALIZE, PARTIAL, Unit, Units
from .legality import Legality
from .partition import Partition, in_order, waits

MAX_FINALIZED = 8_192
"""The most numbers that one program finishes; more are spread over the programs of a launch of their own."""


GROUP = 16
"""Programs whose partial sums are added up by the last of them, before the last of all adds up what groups left. Of
some 256 programs both then read 16 rows, where one alone would read 256: no longer than a launch takes."""


Kernel = frozenset[Unit]


def finalize_in_last_block(
    units: Units, legality: Legality, partition: Partition
) -> tuple[Partition, dict[Kernel, Kernel]]:
    """The partition, with kernels that finish sums cut so that last programs can carry the pieces out; and for each
    piece that one does, the kernel whose last program it is.

    That kernel takes all these sums, and is the last of all that they wait for.
    """
    pieces: dict[Kernel, list[Kernel]] = {}
    for kernel in partition.kernels:
        if any(u.part == FINALIZE for u in kernel):
            pieces[kernel] = list(_pieces(units, partition, kernel))
    cut = in_order(legality, _cut(partition, pieces))
    assert cut is not None, "pieces wait for no more than the whole"
    place = {kernel: i for i, kernel in enumerate(cut.kernels)}
    earlier = waits(legality, cut)
    inside: dict[Kernel, Kernel] = {}
    for whole, parts in pieces.items():
        found = {piece: max(earlier[piece], key=place.__getitem__) for piece in parts if earlier[piece]}
        hosted = {p: host for p, host in found.items() if _can_finalize(units, legality, p, host)}
        rest = frozenset(u for p in parts if p not in hosted for u in p)
        pieces[whole] = [*hosted, *([rest] if rest else [])]
        inside |= hosted
    final = in_order(legality, _cut(partition, pieces))
    assert final is not None, "pieces wait for no more than the whole"
    return final, _in_time(legality, final, inside)


def _in_time(legality: Legality, final: Partition, inside: dict[Kernel, Kernel]) -> dict[Kernel, Kernel]:
    """Those pieces whose kernel still is the last that they wait for, once what is left of the others is in one."""
    place = {kernel: i for i, kernel in enumerate(final.kernels)}
    earlier = waits(legality, final)
    while late := {
        piece
        for piece, host in inside.items()
        if any(place[inside.get(other, other)] > place[host] for other in earlier[piece])
    }:
        inside = {piece: host for piece, host in inside.items() if piece not in late}
    return inside


def _can_finalize(units: Units, legality: Legality, sums: Kernel, host: Kernel) -> bool:
    taken = {u.value for u in host if u.part == PARTIAL}
    finalized = {u.value for u in sums if u.part == FINALIZE}
    if not finalized:
        return False
    # Groups of programs add up; of the largest or smallest only single numbers are finished here.
    if any(v.op.name != "sum" and units.axes.of(v) for v in finalized):
        return False
    numbers = known_product(units.axes, set().union(*(units.axes.of(v) for v in finalized)))
    is_forbidden = any(not host.isdisjoint(legality.apart.get(u, ())) for u in sums)
    return finalized <= taken and numbers is not None and numbers <= MAX_FINALIZED and not is_forbidden


def _pieces(units: Units, partition: Partition, kernel: Kernel) -> Iterator[Kernel]:
    """The units that depend on each other, or finish what one kernel takes."""
    home = {u.value: k for k in partition.kernels for u in k if u.part == PARTIAL}
    bound = networkx.Graph()
    bound.add_nodes_from(kernel)
    for unit in kernel:
        bound.add_edges_from((unit, other) for other in units.before[unit] if other in kernel)
        if unit.part == FINALIZE:
            bound.add_edge(unit, home[unit.value])
    for found in networkx.connected_components(bound):
        yield kernel.intersection(found)


def _cut(partition: Partition, pieces: dict[Kernel, list[Kernel]]) -> Partition:
    kernels = tuple(piece for kernel in partition.kernels for piece in pieces.get(kernel, [kernel]))
    recomputed = dict(partition.recomputed)
    for kernel, parts in pieces.items():
        copies = recomputed.pop(kernel, ())
        recomputed |= {part: copies for part in parts if copies}
    return Partition(kernels, recomputed)
