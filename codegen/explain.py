"""A plan in words: what each launch does and moves, and why what is apart is apart."""

from __future__ import annotations

from .plan import FusionPlan, make_plan


def explain_plan(plan: FusionPlan, batch: int = 256) -> str:
    """The launches with their bytes, what fusion saves, and every edge that stays apart with its reason."""
    unfused = make_plan(plan.graph, "off")
    saved = unfused.bytes_moved(batch) - plan.bytes_moved(batch)
    lines = [
        f"{plan.graph.name}: {len(plan.launches)} launches ({len(plan.kernels)} generated, "
        f"{len(plan.launches) - len(plan.kernels)} library), {plan.bytes_moved(batch):,} bytes at batch {batch}.",
        f"Without fusion: {len(unfused.launches)} launches, {unfused.bytes_moved(batch):,} bytes; fusion "
        f"saves {saved:,}.",
        "",
    ]
    for kernel in plan.launches:
        lines.append(f"{kernel.name} ({kernel.kind}, {kernel.bytes_moved(batch):,} bytes): {', '.join(kernel.ops)}")
        if kernel.recomputed:
            lines.append("    computes again " + ", ".join(v.name for v in kernel.recomputed))
    lines += ["", "Apart:"]
    apart = [v for v in plan.verdicts if not v.fused and v.rule != "leaf"]
    lines += [f"    {v.source} → {v.target}: {v.reason} ({v.bytes:,} bytes)" for v in apart] or ["    nothing"]
    return "\n".join(lines)
