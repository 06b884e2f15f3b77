"""A plan in words: what each launch does and moves, why kernels end where they do, and what other choices cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..cost.traffic import tensor_bytes
from ..fusion.constraints import Fusion
from ..pipeline import make_plan
from ..plan.chunk_loops import chunk_loops
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import ForeachLaunch, GroupedMatmul, Launch, LibraryCall, TorchCall
from ..plan.torch_calls import gradients_of, torch_calls
from ..plan.verdicts import HARD_RULES, Opposite, Verdict
from ..support.sizes import NOMINAL, Sizes
from ..support.text import counted

MOST_LAUNCHES = 24
"""Launches that are listed; of more, those that move most."""


MOST_EXAMPLES = 5
"""Edges that are named for each question."""


PLACED = " Which matmuls its kernels compute was decided after the search."


ADDED = " Which biases the library adds was decided after the search."


UNSAID = ("number", "leaf")
"""Rules of edges that no plan decides."""


def explain_plan(plan: FusionPlan, batch: int | Mapping[str, int] = NOMINAL, **named: int) -> str:
    """The launches with their bytes, what fusion saves, why kernels end where they do, and what it would cost to part
    what is fused or to fuse what is apart. `Dim`s not `named` are `batch`."""
    sizes = Sizes(batch, named)
    unfused = make_plan(plan.graph, Fusion("off", target=plan.candidate.options.target))
    library, loops = len(plan.library), plan.loop_count
    before, moved = unfused.bytes_moved(sizes), plan.bytes_moved(sizes)
    placed = any(k.products for k in plan.launches)
    added = any(isinstance(k, LibraryCall) and k.bias is not None for k in plan.launches)
    said = [v for v in plan.verdicts if v.rule not in UNSAID]
    apart = [v for v in said if not v.fused]
    return "\n".join(
        [
            f"{plan.graph.name}: {counted(len(plan.launches), 'launch')} "
            f"({len(plan.kernels)} generated, {library} library"
            f"{f', {loops} over chunks of rows' if loops else ''}), "
            f"{moved:,} bytes read and written{plan.at(sizes)}.",
            f"Without fusion: {counted(len(unfused.launches), 'launch')}, {before:,} bytes; "
            f"fusion saves {before - moved:,}.",
            f"The plan is {plan.fusion}.{PLACED if placed else ''}{ADDED if added else ''}",
            f"It is made for {plan.candidate.options.planned_for}.",
            "",
            "What runs:",
            *_launches(plan.launches, sizes),
            *_joined(plan.launches),
            *_chunked(plan, sizes),
            *_multiplied(plan.launches),
            *_added(plan.launches, sizes),
            *_called(plan.launches, sizes),
            "",
            "Not fused (the value goes through memory):",
            *(_reasons(apart, sizes) or ["    nothing"]),
            *_opposites(
                "Fusing these by fuse= would cost no more than:",
                [v for v in apart if not v.is_forbidden and v.rule not in HARD_RULES],
                sizes,
            ),
            *_opposites(
                "Splitting these would cost, with all other kernels as they are:", [v for v in said if v.fused], sizes
            ),
        ]
    )


def explain_memory(
    peak: int,
    apart: int,
    at: str = "",
    eager: int | None = None,
    *,
    arenas: str = "one arena",
    budget: int | None = None,
    over: int = 0,
) -> str:
    """The bytes that a run needs besides its leaves, known before it runs, at the sizes that `at` tells; the bytes that
    a buffer for each value would need, `apart`, and eager PyTorch at its peak, `eager`; by how many bytes a program is
    `over` its `budget`."""
    lines = [
        f"Memory beside weights, optimizer state and inputs{at}: {peak:,} bytes, the outputs and "
        f"{arenas}; {apart:,} without reuse of memory."
    ]
    if eager is not None:
        lines.append(
            f"Eager PyTorch holds {eager:,} bytes at its peak (activations kept for backward, gradients held to the "
            f"end; its update not counted); this program holds {peak / eager:.2f} times that."
        )
    if budget is not None:
        each = f"the budget of {budget:,} bytes{'' if arenas == 'one arena' else ' for each of them'}"
        lines.append(
            f"That is within {each}."
            if over <= 0
            else f"That is {over:,} bytes over {each}. No plan was found that holds less at sizes of {NOMINAL}."
        )
    return "\n".join(lines)


def _launches(launches: Iterable[Launch], sizes: Sizes) -> Iterator[str]:
    listed = {k: k.bytes_moved(sizes) for k in launches}
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


def _chunked(plan: FusionPlan, sizes: Sizes) -> Iterator[str]:
    for loop in chunk_loops(plan.launches):
        inner = _few([k.name for k in loop.plan.launches], most=8)
        yield (
            f"    {loop.name} makes {counted(loop.launch_count(sizes), 'launch')} over "
            f"{counted(loop.chunk_count(sizes), 'chunk')} of {counted(loop.rows, 'row')}, each of them {inner}; "
            f"{_sums(len(loop.sums))}. That makes "
            f"{counted(plan.launch_count(sizes), 'launch')} in all."
        )


def _sums(count: int) -> str:
    return f"{counted(count, 'sum')} {'begins at 0 and is' if count == 1 else 'begin at 0 and are'} added to"


def _multiplied(launches: Iterable[Launch]) -> Iterator[str]:
    found = [(k, v) for k in launches for v in k.products]
    if found:
        shown = _few([f"{value.name} in {kernel.name}" for kernel, value in found])
        yield f"    Matmuls computed inside kernels: {shown}."


def _added(launches: Iterable[Launch], sizes: Sizes) -> Iterator[str]:
    """The biases that library calls add, and what a kernel for each would move."""
    found = [k for k in launches if isinstance(k, LibraryCall) and k.bias is not None]
    if found:
        shown = _few([f"{k.bias.name} in {k.name}" for k in found if k.bias is not None])
        moved = sum(2 * tensor_bytes(k.unit.value.shape, k.unit.value.dtype, sizes) for k in found)
        yield f"    Biases that the library adds as it multiplies: {shown}. A kernel of its own for each would cost"
        yield f"        {counted(len(found), 'launch')} and {moved:,} bytes more."


def _called(launches: Iterable[Launch], sizes: Sizes) -> Iterator[str]:
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
        moved = sum(k.bytes_moved(sizes) for k in found)
        yield f"        {call}: {counted(len(found), 'launch')}, {moved:,} bytes{twice}"


def _reasons(apart: list[Verdict], sizes: Sizes) -> list[str]:
    """The edges apart by rule, those that move most first, each rule with an example."""
    by_rule: dict[str, list[Verdict]] = {}
    for verdict in apart:
        by_rule.setdefault(verdict.rule, []).append(verdict)
    lines = []
    size = {id(v): v.bytes_at(sizes) for v in apart}
    for rule, found in sorted(by_rule.items(), key=lambda item: -sum(size[id(v)] for v in item[1])):
        first, moved = max(found, key=lambda v: size[id(v)]), sum(size[id(v)] for v in found)
        edges = counted(len(found), "edge")
        lines.append(f"    {rule}: {edges}, {moved:,} bytes, as {first.source} → {first.target}:")
        lines.append(f"        {first.reason}")
    return lines


def _opposites(title: str, found: list[Verdict], sizes: Sizes) -> list[str]:
    """The largest edges with what the opposite would cost, where that is possible, one for each value; none whose
    opposite costs as much."""
    size = {id(v): v.bytes_at(sizes) for v in found}
    by_value: dict[str, list[Verdict]] = {}
    for verdict in sorted(found, key=lambda v: size[id(v)]):
        by_value.setdefault(verdict.source, []).append(verdict)
    lines: list[str] = []
    for some in sorted(by_value.values(), key=lambda some: -size[id(some[-1])]):
        if len(lines) == MOST_EXAMPLES:
            break
        possible = next((v for v in reversed(some) if not v.opposite.reason), None)
        if possible is not None and (possible.opposite.launches or possible.opposite.bytes):
            told = Opposite(possible.opposite.launches, possible.opposite_bytes_at(sizes))
            lines.append(f"    {possible.source} → {possible.target}: {told}")
    return ["", title, *lines] if lines else []


def _few(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
