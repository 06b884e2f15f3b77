"""From the plan to tile programs: each value of a kernel becomes the steps that compute it, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tritonnotes.ir.core.graph import Value

from ..analysis.units import FINALIZE, PARTIAL, PRODUCT, REPLICATED, Units
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import KernelPlan, TileLaunch
from .arithmetic import LOOP_IDIOMS, ROW_IDIOMS, compute, needed
from .builder import Builder
from .functions import GROUP_MEMBER, LAST_BLOCK, LAUNCHED, ONCE, Purpose
from .inline import with_last_block
from .layout import cut_axes, prefetching
from .loads import gather, store
from .products import multiply
from .reductions import accumulate, finalize, reduce_rows, replicate
from .tile_ir import Kernel, Layout, verify_kernel

Lowering = Callable[[Builder, Value], None]
"""Adds the steps that compute a value."""


def lower_kernel(
    plan: FusionPlan, kernel_plan: KernelPlan, called: Mapping[Value, str] = MappingProxyType({})
) -> Kernel:
    """The tile program of one kernel, verified. Its memories have their own names, or what they are `called`."""
    kernel = _lower(plan, kernel_plan, LAUNCHED, called)
    verify_kernel(kernel)
    return kernel


def lower_tile_launch(plan: FusionPlan, launch: TileLaunch) -> Kernel:
    """The tile program of a launch with those that its last program runs, verified."""
    kernel = _lower(plan, launch.kernel, LAUNCHED)
    if launch.last_block:
        run = ((piece, LAST_BLOCK if piece.finalizes else ONCE) for piece in launch.last_block)
        kernel = with_last_block(kernel, [_lower(plan, *piece) for piece in run])
    verify_kernel(kernel)
    return kernel


def lower_grouped_member(plan: FusionPlan, kernel_plan: KernelPlan) -> Kernel:
    """The tile program of one of several kernels in one launch, verified: a function of the tile."""
    kernel = _lower(plan, kernel_plan, GROUP_MEMBER)
    verify_kernel(kernel)
    return kernel


def _lower(
    whole: FusionPlan, plan: KernelPlan, purpose: Purpose, called: Mapping[Value, str] = MappingProxyType({})
) -> Kernel:
    units = whole.units
    layout = cut_axes(units.axes, plan, purpose)
    if whole.candidate.options.planned_for.cpu is None:
        layout = prefetching(units.axes, plan, layout)
    return _tile_program(units, plan, layout, units.destinations, called)


def _tile_program(
    units: Units,
    plan: KernelPlan,
    layout: Layout,
    destinations: Mapping[Value, Value] = MappingProxyType({}),
    called: Mapping[Value, str] = MappingProxyType({}),
) -> Kernel:
    def part(plan: KernelPlan, layout: Layout) -> Kernel:
        return _tile_program(units, plan, layout)

    builder = Builder(units, plan, layout, destinations, called, part)
    parts = {u.value: u.part for u in plan.units}
    idioms = ROW_IDIOMS if layout.traversal.is_one_row else LOOP_IDIOMS if layout.loops_cols else ()
    for value in builder.values:
        of_part = _OF_PARTS.get(parts.get(value) or (REPLICATED if value in units.replicated else ""))
        if of_part is not None:
            of_part(builder, value)
        elif value not in builder.steps and not any(idiom(builder, value) for idiom in idioms):
            _OF_KINDS.get(value.op.kind, compute)(builder, value)
    for value in plan.stores:
        store(builder, value)
    if idioms:
        builder.ordered = needed(builder.ordered)
    return builder.kernel()


_OF_PARTS: Mapping[str, Lowering] = {
    PARTIAL: accumulate,
    FINALIZE: finalize,
    PRODUCT: multiply,
    REPLICATED: replicate,
}
"""How a value is computed of which a unit is a part, or which has a way of its own."""


_OF_KINDS: Mapping[str, Lowering] = {"reduction": reduce_rows, "gather": gather}
"""How a primitive is computed on the tile, by its kind; the others are elementwise."""
