"""Which candidate a graph got, on disk: a process that plans the same graph again reads it instead of searching.

An entry of the kernel cache names the units of each kernel by the numbers of their values, and what is computed again.
Its key holds the graph in text, what its user asks for, and every file that decides. What is read is held to the rules
as any other candidate is; what breaks one is not believed, and the graph is planned anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import networkx

from tritonnotes.ir.core.errors import CacheError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.printer import print_graph

from ..analysis.axes import is_row_reduction
from ..analysis.matmul import is_generable
from ..analysis.units import (
    FINALIZE,
    OPERAND,
    PRODUCT,
    REPLICATED,
    Units,
    UnitSet,
    generating,
    is_elementwise,
    make_units,
)
from ..target.cache import KernelCache, digest_of, key_of
from .candidate import Candidate
from .constraints import Fusion
from .legality import Legality
from .matmul_epilogue import MOST_PRODUCTS
from .matmul_prologue import reads_memory
from .partition import Partition
from .reduction_strategy import may_be_column, may_be_row, replicable_sums
from .search.select import NOT_PROVED, TOO_LARGE

KIND = "plan"
"""The kind of entry in the cache."""


LEAST_VALUES = 24
"""The smallest graph whose candidate is kept: what is smaller is planned in the time that reading takes."""


FOUND = ("greedy", "optimal", NOT_PROVED, TOO_LARGE)
"""How candidates that are kept were found. Generated sources say it, so nothing else is let in."""


PACKAGE = Path(__file__).parents[2]

DECIDING = (
    "ir/core",
    "ir/primitives",
    "codegen/support",
    "codegen/target",
    "codegen/analysis",
    "codegen/canonicalize",
    "codegen/cost",
    "codegen/fusion",
)


class _WrongEntryError(Exception):
    """What an entry says is no legal candidate of the graph."""


def own_files() -> list[Path]:
    """All that decides which candidate a graph gets."""
    return [
        PACKAGE / "codegen" / "pipeline.py",
        *(p for name in DECIDING for p in sorted((PACKAGE / name).rglob("*.py"))),
    ]


@cache
def _own_version() -> str:
    return f"{digest_of(PACKAGE, own_files())} networkx {networkx.__version__}"


def kept_candidate(graph: Graph, options: Fusion, find: Callable[[], Candidate]) -> Candidate:
    """The candidate that `find` gives for a graph, from the cache where an earlier process found it. Where there is no
    cache that can be trusted, it is found each time."""
    if len(graph.values) < LEAST_VALUES or options.is_off or options.fuse or options.forbid:
        return find()
    try:
        cache = KernelCache()
        key = key_of(graph=print_graph(graph), options=asdict(options), planner=_own_version())
        payload = cache.get(KIND, key)
    except (CacheError, OSError):
        return find()
    known = None if payload is None else read(payload.decode(errors="replace"), graph, options)
    if known is not None:
        return known
    found = find()
    with suppress(CacheError):
        cache.put(KIND, key, written(found).encode())
    return found


def written(candidate: Candidate) -> str:
    """A candidate as text, from which `read` makes it again."""
    place = candidate.legality.place
    again = candidate.partition.recomputed
    kernels = [[[u.value.index, u.part] for u in sorted(k, key=place.__getitem__)] for k in candidate.kernels]
    number = {kernel: i for i, kernel in enumerate(candidate.kernels)}
    recomputed = [[number[kernel], [v.index for v in values]] for kernel, values in again.items()]
    return json.dumps({"how": candidate.how, "kernels": kernels, "recomputed": recomputed})


def read(text: str, graph: Graph, options: Fusion) -> Candidate | None:
    """The candidate that a text speaks of; None where it is none of this graph, or breaks a rule."""
    try:
        return _verified(_candidate(json.loads(text), graph, options))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, _WrongEntryError):
        return None


def _candidate(said: Any, graph: Graph, options: Fusion) -> Candidate:
    _require(said["how"] in FOUND)
    kernels = [[(_value(graph, number), part) for number, part in kernel] for kernel in said["kernels"]]
    units = _units(graph, [unit for kernel in kernels for unit in kernel], options.gathers_moments)
    known = {(u.value, u.part): u for u in units.units}
    made = [frozenset(known[unit] for unit in kernel) for kernel in kernels]
    again = {made[number]: tuple(_value(graph, v) for v in values) for number, values in said["recomputed"]}
    return Candidate(Legality(units), Partition(tuple(made), again), options, (), said["how"])


def _value(graph: Graph, number: object) -> Value:
    if type(number) is not int or not 0 <= number < len(graph.values):
        raise _WrongEntryError
    return graph.values[number]


def _units(graph: Graph, said: list[tuple[Value, str]], gathers: bool) -> Units:
    """The units of a graph that an entry names, each of them once."""
    _require(len(said) == len(set(said)))
    parts = {value: part for value, part in said if part not in (FINALIZE, "")}
    rows = {v: v not in parts for v, _ in said if v.op.kind == "reduction"}
    replicated = frozenset(v for v, part in parts.items() if part == REPLICATED)
    units = make_units(graph, rows, replicated, gathers=gathers)
    _require(all(v in replicated or _may_be(units, v, is_row) for v, is_row in rows.items()))
    _require(not replicated or replicated <= replicable_sums(units))
    multiplying = {v: part for v, part in parts.items() if part in (PRODUCT, OPERAND)}
    for value, part in multiplying.items():
        unit = units.producer[value]
        _require(unit.is_library and is_generable(units.axes, value) if part == PRODUCT else is_elementwise(unit))
    units, _ = generating(units, multiplying)
    _require({(u.value, u.part) for u in units.units} == set(said))
    return units


def _may_be(units: Units, value: Value, is_row: bool) -> bool:
    """Whether a reduction may run along rows, or down columns."""
    usual = is_row_reduction(units.axes, value) == is_row
    return usual or (may_be_row if is_row else may_be_column)(units, value)


def _verified(candidate: Candidate) -> Candidate:
    """The candidate, if it may run as it is."""
    done: set[UnitSet] = set()
    for kernel in candidate.kernels:
        _require(candidate.waits[kernel] <= done)
        done.add(kernel)
        _verify_recomputed(candidate, kernel)
    _require(candidate.refusal is None)
    if any(u.part in (PRODUCT, OPERAND) for u in candidate.units.units):
        _verify_operands(candidate)
    return candidate


def _verify_recomputed(candidate: Candidate, kernel: UnitSet) -> None:
    legality, again = candidate.legality, candidate.recomputed(kernel)
    multiplies = any(u.part == PRODUCT for u in kernel)
    axes = legality.facts_of(kernel).axes
    _require(len(again) == len(set(again)))
    for unit in map(candidate.units.producer.__getitem__, again):
        _require(unit not in kernel and not legality.facts[unit].written)
        _require(is_elementwise(unit) or unit.part == OPERAND)
        # A block of an operand has rows or columns that are summed over.
        _require(multiplies or legality.axes_of[unit] <= axes)


def _verify_operands(candidate: Candidate) -> None:
    in_memory = {m for k in candidate.kernels for m in candidate.memories_read(k)} | candidate.units.roots
    for unit in candidate.units.units:
        if unit.part == OPERAND:
            readers = candidate.legality.readers.get(unit.value, ())
            _require(unit.value not in in_memory and all(r.part in (PRODUCT, OPERAND) for r in readers))
    for kernel in candidate.kernels:
        _require(sum(u.part == PRODUCT for u in kernel) <= MOST_PRODUCTS)
        _require(reads_memory(candidate, kernel))


def _require(holds: bool) -> None:
    if not holds:
        raise _WrongEntryError
