"""A plan in words: what each launch does and moves, why kernels end where they do, and what other choices cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..fusion.constraints import Fusion
from ..pipeline import make_plan
from ..plan.chunk_loops import chunk_loops
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import ForeachLaunch, GroupedMatmul, Launch, TorchCall
from ..plan.torch_calls import gradients_of, torch_calls
from ..plan.verdicts import HARD_RULES, Verdict
from ..support.sizes import NOMINAL, Sizes
from ..support.text import counted

MOST_LAUNCHES = 24
"""Launches that are listed; of more, those that move most."""


MOST_EXAMPLES = 5
"""Edges that are named for each question."""


UNSAID = ("number", "leaf")
"""Rules of edges that no plan decides."""


def explain_plan(plan: FusionPlan, batch: int = NOMINAL) -> str:
    """The launches with their bytes, what fusion saves, why kernels end where they do, and what it would cost to part
    what is fused or to fuse what is apart."""
    unfused = make_plan(plan.graph, Fusion("off", target=plan.candidate.options.target))
    library, loops = len(plan.library), plan.loop_count
    before, moved = unfused.bytes_moved(batch), plan.bytes_moved(batch)
    placed = any(k.products for k in plan.launches)
    said = [v for v in plan.verdicts if v.rule not in UNSAID]
    apart = [v for v in said if not v.fused]
    return "\n".join(
        [
            f"{plan.graph.name}: {counted(len(plan.launches), 'launch')} "
            f"({len(plan.kernels)} generated, {library} library"
            f"{f', {loops} over chunks of rows' if loops else ''}), "
            f"{moved:,} bytes read and written at batch {batch}.",
            f"Without fusion: {counted(len(unfused.launches), 'launch')}, {before:,} bytes; "
            f"fusion saves {before - moved:,}.",
            f"The plan is {plan.fusion}{'; its matmuls were placed afterwards' if placed else ''}.",
            f"It is made for {plan.candidate.options.planned_for}.",
            "",
            "What runs:",
            *_launches(plan.launches, batch),
            *_joined(plan.launches),
            *_chunked(plan, batch),
            *_multiplied(plan.launches),
            *_called(plan.launches, batch),
            "",
            "Not fused (the value goes through memory):",
            *(_reasons(apart) or ["    nothing"]),
            *_opposites("Getting round these would cost:", [v for v in apart if v.rule not in HARD_RULES]),
            *_opposites("Splitting these would cost:", [v for v in said if v.fused]),
        ]
    )


def explain_memory(
    peak: int,
    apart: int,
    batch: int = NOMINAL,
    eager: int | None = None,
    *,
    arenas: str = "one arena",
    budget: int | None = None,
    over: int = 0,
) -> str:
    """What a run holds beside its leaves, known before it runs, what it would with a buffer for each value, `apart`,
    what `eager` holds at its peak, and by how much a program is `over` its `budget`."""
    lines = [
        f"Memory beside weights, optimizer state and inputs at batch {batch}: {peak:,} bytes, the outputs and "
        f"{arenas}; {apart:,} if no memory were reused."
    ]
    if eager is not None:
        lines.append(
            f"Eager PyTorch holds {eager:,} bytes at its peak (activations kept for backward, gradients held to the "
            f"end; its update not counted): {peak / eager:.2f} of that is held here."
        )
    if budget is not None:
        each = f"the budget of {budget:,} bytes{'' if arenas == 'one arena' else ' for each of them'}"
        lines.append(
            f"That is within {each}."
            if over <= 0
            else f"That is {over:,} bytes over {each}: no plan that was tried holds less."
        )
    return "\n".join(lines)


def _launches(launches: Iterable[Launch], batch: int) -> Iterator[str]:
    listed = {k: k.bytes_moved(batch) for k in launches}
    shown = sorted(listed, key=lambda k: -listed[k])[:MOST_LAUNCHES]
    width = max((len(k.name) for k in shown), default=0)
    for kernel in (k for k in listed if k in set(shown)):
        recomputed = f"; recomputes {_few([v.name for v in kernel.recomputed])}" if kernel.recomputed else ""
        moved = f"{listed[kernel]:>13,}"
        yield f"    {kernel.name:<{width}}  {kernel.kind:<14} {moved}  {_few(kernel.ops)}{recomputed}"
    if len(shown) < len(listed):
        rest = sum(size for kernel, size in listed.items() if kernel not in set(shown))
        yield f"    and {len(listed) - len(shown)} more, {rest:,} bytes"


def _joined(launches: Iterable[Launch]) -> Iterator[str]:
    for launch in launches:
        match launch:
            case ForeachLaunch(members=members):
                what = f"{len(members)} updates"
            case GroupedMatmul(members=members):
                what = f"{len(members)} matmuls with their epilogues"
            case _:
                continue
        yield f"    {launch.name} runs {what} in one launch: no other launch waits for them."


def _chunked(plan: FusionPlan, batch: int) -> Iterator[str]:
    sizes = Sizes(batch)
    for loop in chunk_loops(plan.launches):
        inner = _few([k.name for k in loop.plan.launches], most=8)
        yield (
            f"    {loop.name} makes {counted(loop.launch_count(sizes), 'launch')} over "
            f"{counted(loop.chunk_count(sizes), 'chunk')} of {counted(loop.rows, 'row')}, each of them {inner}; "
            f"{_sums(len(loop.sums))}. That makes "
            f"{counted(plan.launch_count(batch), 'launch')} in all."
        )


def _sums(count: int) -> str:
    return f"{counted(count, 'sum')} {'begins at 0 and is' if count == 1 else 'begin at 0 and are'} added to"


def _multiplied(launches: Iterable[Launch]) -> Iterator[str]:
    found = [(k, v) for k in launches for v in k.products]
    if found:
        shown = _few([f"{value.name} in {kernel.name}" for kernel, value in found])
        yield f"    Matmuls computed inside kernels: {shown}."


def _called(launches: Iterable[Launch], batch: int) -> Iterator[str]:
    """What stays a call of torch, and what that costs."""
    asked = gradients_of(launches)
    by_call: dict[str, list[TorchCall]] = {}
    for launch in torch_calls(launches):
        by_call.setdefault(launch.call, []).append(launch)
    if by_call:
        yield "    Calls of torch, for what has no formula here:"
    for call, found in by_call.items():
        again = sum(k in asked and asked[k][0] is None for k in found)
        twice = f"; {again} of them compute the forward again for its gradient" if again else ""
        moved = sum(k.bytes_moved(batch) for k in found)
        yield f"        {call}: {counted(len(found), 'launch')}, {moved:,} bytes{twice}"


def _reasons(apart: list[Verdict]) -> list[str]:
    """The edges apart by rule, those that move most first, each rule with an example."""
    by_rule: dict[str, list[Verdict]] = {}
    for verdict in apart:
        by_rule.setdefault(verdict.rule, []).append(verdict)
    lines = []
    for rule, found in sorted(by_rule.items(), key=lambda item: -sum(v.bytes for v in item[1])):
        first, moved = max(found, key=lambda v: v.bytes), sum(v.bytes for v in found)
        edges = counted(len(found), "edge")
        lines.append(f"    {rule}: {edges}, {moved:,} bytes, as {first.source} → {first.target}:")
        lines.append(f"        {first.reason}")
    return lines


def _opposites(title: str, found: list[Verdict]) -> list[str]:
    """The largest edges with what the opposite would cost, one for each value."""
    largest = {v.source: v for v in sorted(found, key=lambda v: v.bytes)}
    lines: list[str] = []
    for verdict in sorted(largest.values(), key=lambda v: -v.bytes):
        if len(lines) < MOST_EXAMPLES and not verdict.opposite.reason:
            lines.append(f"    {verdict.source} → {verdict.target}: {verdict.opposite}")
    return ["", title, *lines] if lines else []


def _few(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
