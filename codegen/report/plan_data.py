"""A plan as data that can be written as JSON: what each launch does and moves, and why edges are fused or not."""

from __future__ import annotations

from typing import Any

from ..plan.fusion_plan import FusionPlan
from ..plan.launches import Launch
from ..plan.verdicts import Verdict
from ..support.sizes import NOMINAL


def plan_data(plan: FusionPlan) -> dict[str, Any]:
    """The totals, the launches in order, and the verdict on every edge."""
    totals = {
        "fusion": plan.fusion,
        "planned_for": plan.candidate.options.planned_for.name,
        "batch": NOMINAL,
        "bytes": plan.bytes_moved(),
        "kernels": len(plan.kernels),
    }
    launches = [launch_data(k) for k in plan.launches]
    return {**totals, "launches": launches, "verdicts": [_verdict(v) for v in plan.verdicts]}


def explained_data(plan: FusionPlan) -> dict[str, Any]:
    """The same, and for every edge what forcing the opposite would cost."""
    verdicts = [
        {**_verdict(v), "opposite": {"launches": o.launches, "bytes": o.bytes, "impossible": o.reason or None}}
        for v in plan.verdicts
        for o in (v.opposite,)
    ]
    return {**plan_data(plan), "verdicts": verdicts}


def launch_data(launch: Launch) -> dict[str, Any]:
    """What a launch is called, what it computes, reads, writes and moves."""
    said = {"name": launch.name, "kind": launch.kind, "ops": list(launch.ops), "bytes": launch.bytes_moved()}
    return {**said, **launch_memory(launch), "joins": list(launch.joins)}


def launch_memory(launch: Launch) -> dict[str, list[str]]:
    """The values of a launch by what it does with them."""
    return {
        "reads": [v.name for v in launch.loads] + [f"partials of {v.name}" for v in launch.finalizes],
        "covers": [u.value.name for u in launch.units],
        "recomputes": [v.name for v in launch.recomputed],
        "writes": [v.name for v in launch.stores] + [f"partials of {v.name}" for v in launch.partials],
    }


def _verdict(v: Verdict) -> dict[str, Any]:
    ends = {"source": v.source, "target": v.target}
    return {**ends, "fused": v.fused, "rule": v.rule, "reason": v.reason, "bytes": v.bytes}
