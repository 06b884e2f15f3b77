"""Sums over all rows, finalized in the launch that takes them: by its last program to arrive, for what others left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import networkx

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import known_product
from ..analysis.units import FINALIZE, PARTIAL, UnitSet
from .candidate import Candidate, once
from .partition import Partition

MAX_FINALIZED = 8_192
"""The most numbers that one program finalizes; more are spread over the programs of a launch of their own."""


GROUP = 16
"""Programs whose partial sums are added up by the last of them, before the last of all adds up what groups left. Of
some 256 programs both then read 16 rows, where one alone would read 256: no longer than a launch takes."""


GROUPS = 20
"""Sums of groups that the last program reads at once: those of 320 programs, of which a B200 has 296."""


@once
def finalize_in_last_block(found: Candidate) -> Candidate:
    """The candidate with kernels that finalize sums cut so that last programs can run the pieces. `finalized_by`
    has, for each piece that one does, the kernel whose last program it is: that kernel takes all these sums, and is the
    last of all that they wait for.
    """
    home = {u.value: k for k in found.kernels for u in k if u.part == PARTIAL}
    pieces = {k: list(_pieces(found, k, home)) for k in found.kernels if any(u.part == FINALIZE for u in k)}
    cut = _cut(found, pieces)
    place = {kernel: i for i, kernel in enumerate(cut.kernels)}
    hosts: dict[UnitSet, UnitSet] = {}
    for whole, parts in pieces.items():
        last = {piece: max(cut.waits[piece], key=place.__getitem__) for piece in parts if cut.waits[piece]}
        hosted = {piece: host for piece, host in last.items() if _can_finalize(found, piece, host)}
        rest = frozenset(u for p in parts if p not in hosted for u in p)
        pieces[whole] = [*hosted, *([rest] if rest else [])]
        hosts |= hosted
    final = _cut(found, pieces)
    return replace(final, finalized_by=_in_time(final, hosts))


def _in_time(final: Candidate, hosts: dict[UnitSet, UnitSet]) -> dict[UnitSet, UnitSet]:
    """Those pieces whose kernel still is the last that they wait for, once what is left of the others is in one."""
    place = {kernel: i for i, kernel in enumerate(final.kernels)}
    while late := {
        piece
        for piece, host in hosts.items()
        if any(place[hosts.get(other, other)] > place[host] for other in final.waits[piece])
    }:
        hosts = {piece: host for piece, host in hosts.items() if piece not in late}
    return hosts


def _can_finalize(found: Candidate, sums: UnitSet, host: UnitSet) -> bool:
    axes, apart = found.units.axes, found.legality.apart
    taken = {u.value for u in host if u.part == PARTIAL}
    finalized = {u.value for u in sums if u.part == FINALIZE}
    if not finalized:
        return False
    # Groups of programs add up; of the largest or smallest only single numbers are finalized here.
    if any(v.op.name != "sum" and axes.of(v) for v in finalized):
        return False
    numbers = known_product(axes, set().union(*(axes.of(v) for v in finalized)))
    is_forbidden = any(not host.isdisjoint(apart.get(u, ())) for u in sums)
    return finalized <= taken and numbers is not None and numbers <= MAX_FINALIZED and not is_forbidden


def _pieces(found: Candidate, kernel: UnitSet, home: Mapping[Value, UnitSet]) -> Iterator[UnitSet]:
    """The units that depend on each other, or finalize what one kernel takes; `home` is where sums are taken."""
    bound = networkx.Graph()
    bound.add_nodes_from(kernel)
    for unit in kernel:
        bound.add_edges_from((unit, other) for other in found.units.before[unit] if other in kernel)
        if unit.part == FINALIZE:
            bound.add_edge(unit, home[unit.value])
    for piece in networkx.connected_components(bound):
        yield kernel.intersection(piece)


def _cut(found: Candidate, pieces: dict[UnitSet, list[UnitSet]]) -> Candidate:
    kernels = tuple(piece for kernel in found.kernels for piece in pieces.get(kernel, [kernel]))
    recomputed = dict(found.partition.recomputed)
    for kernel, parts in pieces.items():
        copies = recomputed.pop(kernel, ())
        recomputed |= {part: copies for part in parts if copies}
    cut = found.with_partition(Partition(kernels, recomputed))
    assert cut is not None, "pieces wait for no more than the whole"
    return cut
