"""The kernels of a partition become named launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import Dim, Shape

from ..analysis.axes import LONG_ROW, Axes, Space, known_product
from ..analysis.units import FINALIZE, PARTIAL, PRODUCT, Unit, UnitSet
from ..cost.matmul import split_k_in, tile_in
from ..fusion.candidate import Candidate
from ..support.names import RESERVED, identifier, uncounted
from .launches import KernelPlan


def name_launches(found: Candidate, taken: frozenset[str] = frozenset()) -> tuple[KernelPlan, ...]:
    """The launches of a candidate, in order; the last programs of some carry other kernels out. None has a name that is
    `taken`."""
    made = _kernels(found, taken)
    sums: dict[UnitSet, list[KernelPlan]] = {}
    for kernel, host in found.finalized_by.items():
        sums.setdefault(host, []).append(made[kernel])
    launches = []
    for kernel, plan in made.items():
        if kernel not in found.finalized_by:
            last = sums.get(kernel, [])
            plan = replace(plan, row_per_program=_row_per_program(found.units.axes, plan, last))
            launches.append(_with_last_block(plan, last) if last else plan)
    return tuple(launches)


def _row_per_program(axes: Axes, kernel: KernelPlan, last: list[KernelPlan]) -> Shape | None:
    """The shape of the rows where each program takes one alone. Other kernels know how many programs there are, so its
    sums are none, or its last program finishes them."""
    space = kernel.space
    if not space.reduces_rows or not space.rows or space.finalizes or kernel.loop_reads is not None:
        return None
    is_long = (known_product(axes, space.cols) or 0) > LONG_ROW
    finalized = {v for part in last for v in part.finalizes}
    wide = frozenset(space.cols)
    if not is_long or any(v not in finalized or axes.of(v.inputs[0]) & wide for v in kernel.partials):
        return None
    return axes.shape(space.rows)


def _kernels(found: Candidate, taken: frozenset[str]) -> dict[UnitSet, KernelPlan]:
    units, memory = found.units, found.memory
    names = dict.fromkeys(taken, 1)
    words = _words(units.graph)
    made = {}
    for kernel in found.kernels:
        members = sorted(kernel, key=lambda u: (u.value.index, u.part == FINALIZE))
        made[kernel] = KernelPlan(
            _unique(names, f"{name}_kernel" if (name := _kernel_name(members)) in words else name),
            _kind(members, memory.spaces[kernel]),
            tuple(members),
            found.recomputed(kernel),
            memory.spaces[kernel],
            memory.loads[kernel],
            memory.stores[kernel],
            tuple(u.value for u in members if u.part == PARTIAL),
            tuple(u.value for u in members if u.part == FINALIZE),
            memory.loop_reads[kernel],
            memory.storage,
            tile=tile_in(units, memory.spaces[kernel], members),
            split_k=split_k_in(units, memory.spaces[kernel], members),
        )
    return made


def _with_last_block(kernel: KernelPlan, sums: list[KernelPlan]) -> KernelPlan:
    """A kernel whose last program finishes sums too."""
    parts = (kernel, *sums)

    def all_of(what: Callable[[KernelPlan], tuple[Value, ...]]) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for part in parts for v in what(part)))

    return replace(
        kernel,
        units=tuple(u for part in parts for u in part.units),
        recomputed=all_of(lambda p: p.recomputed),
        loads=all_of(lambda p: p.loads),
        stores=all_of(lambda p: p.stores),
        finalizes=all_of(lambda p: p.finalizes),
        loop_reads=_loop_reads_of_both(kernel, sums),
        parts=parts,
    )


def _loop_reads_of_both(kernel: KernelPlan, sums: list[KernelPlan]) -> Mapping[Value, int] | None:
    """How often a kernel that walks along rows reads each load, together with its last program."""
    if kernel.loop_reads is None:
        return None
    recomputed = Counter(v for part in sums for v in part.loads if v in kernel.loop_reads)
    return {v: count + recomputed[v] for v, count in kernel.loop_reads.items()}


def _kind(members: list[Unit], space: Space) -> str:
    if members[0].is_library:
        return "library"
    if space.finalizes:
        return "finish"
    if any(u.part == PRODUCT for u in members) and not (space.reduces_rows or space.accumulates):
        return "product"
    if space.reduces_rows:
        return "row and column" if space.accumulates else "row"
    return "column" if space.accumulates else "elementwise"


def _kernel_name(members: list[Unit]) -> str:
    """From the op instances covered, the phases, and whether sums are finished: `fc1_ln1_relu`, `ln1_backward`."""
    if members[0].is_library:
        what = "all_reduce_" if members[0].is_collective else "matmul_"
        return what + identifier(members[0].value.name)
    shown = [u.value for u in members if u.value.scope.phase != "update"] or [members[0].value]
    parts = list(dict.fromkeys(identifier(v.scope.name) or uncounted(v) for v in shown))
    name = "_".join(parts) if len(parts) <= 3 and sum(map(len, parts)) <= 40 else f"{parts[0]}_to_{parts[-1]}"
    phases = {u.value.scope.phase for u in members}
    if "backward" in phases:
        name += "_forward_backward" if "forward" in phases else "_backward"
    rules = {u.value.scope.op.removeprefix("custom.") for u in members if u.value.scope.phase == "update"}
    name += "".join(f"_{rule}" for rule in sorted(rules))
    return f"finish_{name}" if any(u.part == FINALIZE for u in members) else name


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
