"""Sums over all rows, finalized in the launch that takes them: by its last program to arrive, for what others left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import networkx

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import known_product
from ..analysis.units import FINALIZE, PARTIAL, Unit, UnitSet, is_elementwise
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
    last of all that they wait for. The first of these last programs also counts what the graph counts, such as batches;
    where there is none, the first program of a kernel does.
    """
    home = {u.value: k for k in found.kernels for u in k if u.part == PARTIAL}
    pieces = {k: list(_pieces(found, k, home)) for k in found.kernels if any(u.part == FINALIZE for u in k)}
    cut = _cut(found, pieces)
    place = {kernel: i for i, kernel in enumerate(cut.kernels)}
    hosts: dict[UnitSet, UnitSet] = {}
    for whole, parts in pieces.items():
        last = {piece: max(cut.waits[piece], key=place.__getitem__) for piece in parts if cut.waits[piece]}
        for piece, host in last.items():
            if _can_finalize(found, piece, host) and not _is_forbidden(cut, piece, host, hosts):
                hosts[piece] = host
        hosted = [p for p in parts if p in hosts]
        rest = frozenset(u for p in parts if p not in hosts for u in p)
        pieces[whole] = [*hosted, *([rest] if rest else [])]
    final = _cut(found, pieces)
    hosts = _in_time(final, hosts)
    return replace(final, finalized_by=hosts | _counted_by(final, hosts))


def _counted_by(final: Candidate, hosts: Mapping[UnitSet, UnitSet]) -> dict[UnitSet, UnitSet]:
    """The kernels of single numbers that wait for no other, and that no other waits for, with the first kernel that has
    a last program, else with the first one whose programs there are for every input: each would be a launch."""
    waited_for = set[UnitSet]().union(*final.waits.values())
    free = (k for k in final.kernels if not final.waits[k] and k not in waited_for)
    counts = [k for k in free if k not in hosts.values() and all(_is_count(final, unit) for unit in k)]
    host = next((k for k in final.kernels if k in hosts.values()), None)
    host = host or next((k for k in final.kernels if _always_has_programs(final, k)), None)
    counted: dict[UnitSet, UnitSet] = {}
    if host is None:
        return counted
    for kernel in counts:
        if not _is_forbidden(final, kernel, host, {**hosts, **counted}):
            counted[kernel] = host
    return counted


def _always_has_programs(found: Candidate, kernel: UnitSet) -> bool:
    """Whether a kernel has programs whatever the sizes of inputs are: one for some of its rows, which are known."""
    space = found.memory.spaces[kernel]
    return space.reduces_rows and not space.accumulates and bool(known_product(found.units.axes, space.rows))


def _is_count(found: Candidate, unit: Unit) -> bool:
    """Whether a unit computes a number of numbers, and is of no update rule: those share a launch of their own."""
    sizes = (found.units.axes.of(v) for v in (unit.value, *unit.value.inputs))
    return is_elementwise(unit) and unit.value.scope.phase != "update" and not any(sizes)


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
    axes = found.units.axes
    taken = {u.value for u in host if u.part == PARTIAL}
    finalized = {u.value for u in sums if u.part == FINALIZE}
    if not finalized:
        return False
    # Groups of programs add up; of the largest or smallest only single numbers are finalized here.
    if any(v.op.name != "sum" and axes.of(v) for v in finalized):
        return False
    numbers = known_product(axes, set().union(*(axes.of(v) for v in finalized)))
    is_few = numbers is not None and numbers <= MAX_FINALIZED
    return finalized <= taken and is_few


def _is_forbidden(found: Candidate, kernel: UnitSet, host: UnitSet, hosts: Mapping[UnitSet, UnitSet]) -> bool:
    """Whether the user keeps a kernel apart from another one, or from what the last program of that runs already."""
    together = (kernel, host, *(piece for piece, other in hosts.items() if other is host))
    return found.legality.parted(unit for k in together for unit in found.computed(k)) is not None


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
