"""The kernels of a partition become named launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tritonnotes.ir.core.types import Shape
from tritonnotes.ir.primitives.library import GRADIENT, LIBRARY_OPS

from ..analysis.axes import LONG_ROW, Axes, Space, known_product
from ..analysis.units import FINALIZE, PARTIAL, PRODUCT, Unit, UnitSet
from ..cost.matmul import split_k_in, tile_in
from ..fusion.candidate import Candidate
from ..support.names import LaunchNames, identifier, uncounted
from .launches import LIBRARY, KernelPlan, Launch, Piece, library_call, tile_launch


def name_launches(found: Candidate, taken: frozenset[str] = frozenset()) -> tuple[Launch, ...]:
    """The launches of a candidate, in order; the last programs of some run other kernels. None has a name that is
    `taken`."""
    calls, plans = _pieces(found, taken)
    sums: dict[UnitSet, list[KernelPlan]] = {}
    for kernel, host in found.finalized_by.items():
        sums.setdefault(host, []).append(plans[kernel])
    launches: list[Launch] = []
    for kernel in found.kernels:
        if kernel in calls:
            launches.append(library_call(calls[kernel]))
        elif kernel not in found.finalized_by:
            plan, last_block = plans[kernel], sums.get(kernel, [])
            rows = _long_rows(found.units.axes, plan, last_block)
            launches.append(tile_launch(replace(plan, long_rows=rows), last_block))
    return tuple(launches)


def _long_rows(axes: Axes, kernel: KernelPlan, last: list[KernelPlan]) -> Shape | None:
    """The shape of the rows where each program takes one alone. Other kernels know how many programs there are, so its
    sums are none, or its last program finalizes them."""
    space = kernel.space
    if not space.reduces_rows or not space.rows or space.finalizes or kernel.loop_reads is not None:
        return None
    is_long = (known_product(axes, space.cols) or 0) > LONG_ROW
    finalized = {v for part in last for v in part.finalizes}
    wide = frozenset(space.cols)
    if not is_long or any(v not in finalized or axes.of(v.inputs[0]) & wide for v in kernel.partials):
        return None
    return axes.shape(space.rows)


def _pieces(found: Candidate, taken: frozenset[str]) -> tuple[dict[UnitSet, Piece], dict[UnitSet, KernelPlan]]:
    """What the library computes, and what generated kernels do, by the kernel of the partition."""
    units, memory = found.units, found.memory
    names = LaunchNames(units.graph, taken)
    calls: dict[UnitSet, Piece] = {}
    plans: dict[UnitSet, KernelPlan] = {}
    for kernel in found.kernels:
        members = tuple(sorted(kernel, key=lambda u: (u.value.index, u.part == FINALIZE)))
        name = names.claim(_kernel_name(members))
        loads, stores, space = memory.loads[kernel], memory.stores[kernel], memory.spaces[kernel]
        if members[0].is_library:
            calls[kernel] = Piece(
                name=name, kind=LIBRARY, units=members, loads=loads, stores=stores, storage=memory.storage
            )
            continue
        plans[kernel] = KernelPlan(
            name=name,
            kind=_kind(members, space),
            units=members,
            loads=loads,
            stores=stores,
            storage=memory.storage,
            rounded=memory.rounded,
            recomputed=found.recomputed(kernel),
            partials=tuple(u.value for u in members if u.part == PARTIAL),
            finalizes=tuple(u.value for u in members if u.part == FINALIZE),
            space=space,
            loop_reads=memory.loop_reads[kernel],
            tile=tile_in(units, space, members),
            split_k=split_k_in(units, space, members),
        )
    return calls, plans


def _kind(members: Sequence[Unit], space: Space) -> str:
    if space.finalizes:
        return "finalize"
    if any(u.part == PRODUCT for u in members) and not (space.reduces_rows or space.accumulates):
        return "matmul"
    if space.reduces_rows:
        return "row and column" if space.accumulates else "row"
    return "column" if space.accumulates else "elementwise"


def _kernel_name(members: Sequence[Unit]) -> str:
    """From the op instances covered, the phases, and whether sums are finalized: `fc1_ln1_relu`, `ln1_backward`."""
    if members[0].is_library:
        value = members[0].value
        if value.op.name in LIBRARY_OPS:
            op = value.attrs["call"].split(".")[1].strip("_")
            return f"{op}_{'gradient_' if value.op.name == GRADIENT else ''}{identifier(value.name)}"
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
    return f"finalize_{name}" if any(u.part == FINALIZE for u in members) else name
