"""The fusion plan: which primitives share a launch, what each launch moves, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx

from tritonnotes.ir.errors import PlanError, VerificationError
from tritonnotes.ir.graph import Graph, Value
from tritonnotes.ir.types import Dim, DType, float32

from .axes import is_alias, is_free, is_host
from .fusion import Clusters, Legality, Refusal, Space, fuse_greedily
from .materialize import materialize
from .names import RESERVED, identifier
from .recompute import Recomputation, choose_recomputation
from .traffic import NOMINAL, Sizes, Traffic, launch_traffic, nominal_bytes
from .units import COMBINE, PARTIAL, Unit, Units, is_join, make_units, memory_of

FUSION_MODES = ("greedy", "off")


@dataclass(frozen=True)
class Verdict:
    """What the plan says of one edge of the joint graph: value `source` read by value `target`.

    `bytes` is what is saved (fused) or moved (not fused) for it at the nominal batch of 256.
    """

    source: str
    target: str
    fused: bool
    rule: str
    reason: str
    bytes: int

    def __str__(self) -> str:
        word = "fused" if self.fused else "apart"
        return f"{self.source} → {self.target}: {word}, {self.rule}: {self.reason} ({self.bytes:,} bytes)"


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """One launch: a generated kernel, or a library call.

    `kind` is 'library', 'elementwise', 'row', 'column', 'row and column' or 'finish'. `loads` and `stores` are whole
    values in memory; `partials` are sums that leave the kernel as one row for each program, `combines` those it adds
    up.
    """

    name: str
    kind: str
    units: tuple[Unit, ...]
    recomputed: tuple[Value, ...]
    space: Space
    loads: tuple[Value, ...]
    stores: tuple[Value, ...]
    partials: tuple[Value, ...]
    combines: tuple[Value, ...]
    storage: Mapping[Value, DType]

    @property
    def is_library(self) -> bool:
        return self.kind == "library"

    @property
    def ops(self) -> tuple[str, ...]:
        """The instances of the declared ops that the kernel covers, in order."""
        return tuple(dict.fromkeys(u.value.scope.name or u.value.name for u in self.units))

    @property
    def values(self) -> tuple[Value, ...]:
        """The primitives computed here, recomputed ones included, in order."""
        return tuple(sorted({*(u.value for u in self.units), *self.recomputed}, key=lambda v: v.index))

    def bytes_moved(self, batch: int = 256, **sizes: int) -> int:
        """Bytes of device memory read and written; as `traffic`."""
        return self.traffic(batch, **sizes).total

    def traffic(self, batch: int = NOMINAL, *, programs: int = 0, **sizes: int) -> Traffic:
        """Bytes of device memory that one launch reads and writes, each byte once; `Dim`s not named in `sizes` are
        `batch`.

        Partial sums are counted for `programs` that share them. By default they are left out: there are as many as the
        GPU holds at once, and read again at once they stay in its cache.
        """
        bound = Sizes(batch, sizes)
        return launch_traffic(self.units, self.loads, self.stores, self.storage, bound, programs)


@dataclass(frozen=True, eq=False)
class FusionPlan:
    """How a graph of primitives becomes launches. `kernels` are the generated ones, `launches` all, in order."""

    graph: Graph
    launches: tuple[KernelPlan, ...]
    units: Units
    clusters: Clusters
    recomputation: Mapping[frozenset[Unit], Recomputation]
    fusion: str

    @property
    def kernels(self) -> tuple[KernelPlan, ...]:
        return tuple(k for k in self.launches if not k.is_library)

    def bytes_moved(self, batch: int = 256, **sizes: int) -> int:
        """Bytes of device memory that one run reads and writes."""
        return sum(k.bytes_moved(batch, **sizes) for k in self.launches)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each edge of the graph: fused or not, the rule, the reason, the bytes."""
        return tuple(_verdicts(self))

    def to_networkx(self) -> networkx.DiGraph:
        """Kernel names as nodes (attributes kind, ops, bytes), an edge where one reads what another wrote."""
        result = networkx.DiGraph(name=self.graph.name)
        home = {u: k for k in self.launches for u in k.units}
        for kernel in self.launches:
            result.add_node(kernel.name, kind=kernel.kind, ops=kernel.ops, bytes=kernel.bytes_moved())
        for unit, needed in self.units.before.items():
            result.add_edges_from((home[n].name, home[unit].name) for n in needed if home[n] is not home[unit])
        return result

    def __str__(self) -> str:
        lines = [
            f"plan of {self.graph.name}: {len(self.kernels)} kernels and {len(self.launches) - len(self.kernels)} "
            "library calls, "
            f"{self.bytes_moved():,} bytes at batch 256, fusion {self.fusion}"
        ]
        for kernel in self.launches:
            lines.append(f"  {kernel.name}: {kernel.kind}, {kernel.bytes_moved():,} bytes")
            lines.append(f"    reads  {_names(kernel.loads)}{_and_sums(kernel.combines)}")
            lines.append(f"    covers {_names(u.value for u in kernel.units)}")
            if kernel.recomputed:
                lines.append(f"    again  {_names(kernel.recomputed)}")
            lines.append(f"    writes {_names(kernel.stores)}{_and_sums(kernel.partials)}")
        return "\n".join(lines)


def make_plan(graph: Graph, fusion: str = "greedy") -> FusionPlan:
    """Plan a graph of primitives. `fusion` is 'greedy' or 'off' (every primitive its own kernel)."""
    if fusion not in FUSION_MODES:
        raise PlanError(f"fusion={fusion!r}; use one of {', '.join(map(repr, FUSION_MODES))}")
    units = make_units(materialize(graph))
    legality = Legality(units)
    clusters = fuse_greedily(units, legality) if fusion == "greedy" else Clusters(units, legality)
    legality.kernel_of = clusters.of
    recomputation = choose_recomputation(units, legality, clusters) if fusion == "greedy" else {}
    launches = _launches(units, legality, clusters, recomputation)
    return FusionPlan(units.graph, launches, units, clusters, recomputation, fusion)


def verify_plan(plan: FusionPlan) -> None:
    """Raise `VerificationError` unless every primitive is in a kernel and the kernels run in an order that feeds
    each.
    """
    placed = [u for k in plan.launches for u in k.units]
    if len(placed) != len(set(placed)) or set(placed) != set(plan.units.units):
        raise VerificationError(f"plan of {plan.graph.name}: some primitive is in no kernel, or in two")
    graph = plan.to_networkx()
    if not networkx.is_directed_acyclic_graph(graph):
        raise VerificationError(f"plan of {plan.graph.name}: kernels wait for each other: {networkx.find_cycle(graph)}")
    written: set[Value] = set()
    for kernel in plan.launches:
        for value in kernel.loads:
            memory = memory_of(value)
            parts = memory.inputs if is_join(memory) else (memory,)
            if not memory.is_leaf and not written.issuperset(parts):
                raise VerificationError(
                    f"plan of {plan.graph.name}: {kernel.name} reads {memory.name} before it is written"
                )
        for unit in kernel.units:
            if unit.part == COMBINE and unit.value not in written:
                raise VerificationError(
                    f"plan of {plan.graph.name}: {kernel.name} finishes {unit.value.name} too early"
                )
        written |= {*kernel.stores, *kernel.partials}


def _names(values: Iterable[Value]) -> str:
    return ", ".join(v.name for v in values) or "nothing"


def _and_sums(values: Iterable[Value]) -> str:
    return "".join(f", partials of {v.name}" for v in values)


def _launches(
    units: Units, legality: Legality, clusters: Clusters, recomputation: Mapping[frozenset[Unit], Recomputation]
) -> tuple[KernelPlan, ...]:
    ordered = _ordered_clusters(units, clusters)
    reads: dict[frozenset[Unit], list[Value]] = {}
    for cluster in ordered:
        again = recomputation.get(cluster, Recomputation()).values
        reads[cluster] = _loads(units, cluster, again)
    read_somewhere = {memory_of(v) for values in reads.values() for v in values}
    names: dict[str, int] = {}
    words = _words(units.graph)
    storage: dict[Value, DType] = {}
    made = []
    for cluster in ordered:
        again = recomputation.get(cluster, Recomputation()).values
        members = sorted(cluster, key=lambda u: (u.value.index, u.part == COMBINE))
        stored = [
            u.value for u in members if u.part != PARTIAL and (u.value in units.roots or u.value in read_somewhere)
        ]
        space = legality.space(cluster, [u for u in members if u.value in set(stored) and u.part != PARTIAL])
        assert isinstance(space, Space), space
        for value in reads[cluster]:
            storage.setdefault(memory_of(value), memory_of(value).dtype)
        for value in stored:
            storage[value] = _storage_dtype(units, legality, value, space)
        made.append(
            KernelPlan(
                _unique(names, f"{name}_kernel" if (name := _kernel_name(members)) in words else name),
                _kind(members, space),
                tuple(members),
                again,
                space,
                tuple(reads[cluster]),
                tuple(stored),
                tuple(u.value for u in members if u.part == PARTIAL),
                tuple(u.value for u in members if u.part == COMBINE),
                storage,
            )
        )
    return tuple(made)


def _ordered_clusters(units: Units, clusters: Clusters) -> list[frozenset[Unit]]:
    """Clusters so that each comes after those it waits for, else in the order of their first units."""
    waits = networkx.DiGraph()
    position = {c: i for i, c in enumerate(clusters.all())}
    waits.add_nodes_from(position)
    for unit, needed in units.before.items():
        here = clusters.of[unit]
        waits.add_edges_from((clusters.of[n], here) for n in needed if clusters.of[n] is not here)
    return list(networkx.lexicographical_topological_sort(waits, key=position.__getitem__))


def _loads(units: Units, cluster: frozenset[Unit], again: tuple[Value, ...]) -> list[Value]:
    inside = {u.value for u in cluster if u.part != PARTIAL} | set(again)
    found: dict[Value, None] = {}
    for unit in sorted([*cluster, *(units.producer[v] for v in again)], key=lambda u: u.value.index):
        for source in units.sources(unit):
            if source not in inside and not is_free(source) and not is_host(source):
                found.setdefault(source)
    return list(found)


def _storage_dtype(units: Units, legality: Legality, value: Value, space: Space) -> DType:
    """Statistics between kernels stay float32: only what users see, or a library call reads, is rounded to 16 bits."""
    if value.op.kind == "contraction" or value.dtype.itemsize != 2:
        return value.dtype
    if value in units.roots or any(r.is_library for r in legality.readers.get(value, ())):
        return value.dtype
    is_whole = units.axes.of(value) == frozenset((*space.rows, *space.cols))
    return value.dtype if is_whole and not space.combines else float32


def _kind(members: list[Unit], space: Space) -> str:
    if members[0].is_library:
        return "library"
    if space.combines:
        return "finish"
    if space.reduces_rows:
        return "row and column" if space.carries else "row"
    return "column" if space.carries else "elementwise"


def _kernel_name(members: list[Unit]) -> str:
    """From the op instances covered, the phases, and whether sums are finished: `fc1_ln1_relu`, `ln1_backward`."""
    if members[0].is_library:
        return "matmul_" + members[0].value.name.replace(".", "_")
    shown = [u.value for u in members if u.value.scope.phase != "update"] or [members[0].value]
    parts = list(dict.fromkeys((v.scope.name or v.name).replace(".", "_") for v in shown))
    name = "_".join(parts) if len(parts) <= 3 and sum(map(len, parts)) <= 40 else f"{parts[0]}_to_{parts[-1]}"
    phases = {u.value.scope.phase for u in members}
    if "backward" in phases:
        name += "_forward_backward" if "forward" in phases else "_backward"
    rules = {u.value.scope.op.removeprefix("custom.") for u in members if u.value.scope.phase == "update"}
    name += "".join(f"_{rule}" for rule in sorted(rules))
    return f"finish_{name}" if any(u.part == COMBINE for u in members) else name


def _unique(taken: dict[str, int], name: str) -> str:
    taken[name] = count = taken.get(name, 0) + 1
    # Launchers stand beside the kernels, as run_<kernel>.
    if count == 1 and not name.startswith("run_"):
        return name
    return _unique(taken, f"{name}_{count}" if count > 1 else f"kernel_{name}")


def _words(graph: Graph) -> set[str]:
    """What variables and arguments in the source may be called: a launcher takes tensors beside its kernel."""
    words = set(RESERVED)
    for value in graph.values:
        words |= {identifier(value.name), value.name.rpartition(".")[2], value.hint or ""}
        words |= {size.name for size in value.shape if isinstance(size, Dim)}
    return words


def _verdicts(plan: FusionPlan) -> Iterator[Verdict]:
    units, clusters = plan.units, plan.clusters
    again: dict[Value, set[str]] = {}
    for kernel in plan.launches:
        for value in kernel.recomputed:
            again.setdefault(value, set()).add(kernel.name)
    home = {u: k for k in plan.launches for u in k.units}
    for unit in units.units:
        if unit.part == PARTIAL:
            continue
        target = unit.value
        first = next(u for u in units.units if u.value is target)
        for arg in dict.fromkeys(target.inputs):
            size = nominal_bytes(arg)
            if is_free(arg) or is_host(arg):
                yield Verdict(arg.name, target.name, True, "number", "numbers and indices need no memory", 0)
                continue
            memory = memory_of(arg)
            producer = units.producer.get(memory)
            if producer is None:
                yield Verdict(
                    arg.name, target.name, False, "leaf", f"{memory.op.name} {memory.name} lies in memory", size
                )
            elif clusters.of[producer] is clusters.of[first] and not is_alias(arg):
                yield Verdict(arg.name, target.name, True, "same kernel", f"both in {home[first].name}", 2 * size)
            elif home[first].name in again.get(memory, ()):
                reason = f"computed again in {home[first].name}, which moves fewer bytes"
                yield Verdict(arg.name, target.name, True, "recomputed", reason, 2 * size)
            else:
                why = clusters.why_not(clusters.of[producer], clusters.of[first])
                if producer.part == COMBINE and why is not None:
                    why = Refusal("column", f"{memory.name} is whole only once every program is done")
                why = why or Refusal("order", "legal, but other fusions were made first")
                yield Verdict(arg.name, target.name, False, why.rule, why.reason, 2 * size)
