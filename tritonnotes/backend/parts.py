"""Which calls make one program.

Each call has a stage: no smaller than those of the calls that must come before it, even where it is torch's, odd where
it is ours. What is ours of one stage depends on nothing of torch's that is not done by then, so it may run at once:
each connected piece of it is a part. Of pieces that no values pass between, none waits for the other's gradients.

A part pays where it saves memory traffic and launches. So it has `LEAST` calls at least that compute, one of them more
than a matrix product, which a library makes either way. What is less stays torch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx
import torch
from torch.fx import Node

from ..importer.ops import rules
from ..importer.ops.table import TABLE, UNCOUNTED
from ..ir.ops import shapes
from .declaring import key_of
from .effects import Effects
from .reading import Call, is_call

LEAST = 2
"""Calls of a part that compute."""

PRODUCTS = frozenset(("linear.default", "matmul.default", "mm.default", "addmm.default"))
FREE = frozenset((rules.same, rules.cast, rules.cast_as, shapes.detach))
"""Rows of calls that compute nothing, beside those of views."""


@dataclass(frozen=True)
class Stages:
    """The stage of each call, and the parts of ours: each the calls of one piece, in order."""

    of: Mapping[Node, int]
    parts: Sequence[tuple[Node, ...]]


def partition(calls: Mapping[Node, Call], found: Effects, refused: dict[Node, str | None]) -> Stages:
    """The parts of a graph that pay. Calls that are left over join `refused` with the reason."""
    least: dict[Node, int] = {}
    before = _order(calls, found)
    while True:
        stages = _stages(calls, before, refused, least)
        parts = _pieces(calls, stages, refused)
        poor = [part for part in parts if not _pays(calls, part)]
        if not poor:
            return Stages(stages, parts)
        for part in poor:
            # Once alone: what it is to join may have to wait for it, and would move on for ever.
            later = None if least.keys() & set(part) else _later(part, stages, refused, found)
            if later is None:
                refused |= dict.fromkeys(part, _why_poor(calls, part))
            else:
                least |= dict.fromkeys(part, later)


def is_free(aten: Node) -> bool:
    """Whether a call of aten computes nothing: it shows what it is given in another way, or is about sizes."""
    if not isinstance(aten.target, torch._ops.OpOverload) or aten.target.namespace != "aten":
        return not isinstance(aten.target, torch._ops.OpOverload)
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in aten.target._schema.returns)
    key = key_of(aten)
    return is_view or key in UNCOUNTED or key.startswith("sym_") or (key in TABLE and TABLE[key].make in FREE)


def computing(call: Call) -> list[str]:
    """The ops of a call that compute."""
    return [key_of(aten) for aten in call.aten if not is_free(aten)]


def _order(calls: Mapping[Node, Call], found: Effects) -> dict[Node, list[tuple[Node, bool]]]:
    """What comes before each call, and whether that is for the sake of memory alone, which programs do not see."""
    before: dict[Node, list[tuple[Node, bool]]] = {}
    readers: dict[int | str, list[Node]] = {}
    writer: dict[int | str, Node] = {}
    for node in filter(is_call, calls):
        before[node] = [(arg, False) for arg in node.all_input_nodes if is_call(arg)]
        touched = found.touches(node)
        before[node] += [(writer[memory], True) for memory in touched if memory in writer]
        for memory in found.writes[node]:
            before[node] += [(reader, True) for reader in readers.get(memory, ())]
            writer[memory] = node
            readers[memory] = []
        for memory in touched | found.memory[node]:
            readers.setdefault(memory, []).append(node)
        before[node] = [(other, alone) for other, alone in before[node] if other is not node]
    barrier: Node | None = None
    passed: list[Node] = []
    for node in before:
        if barrier is not None:
            before[node].append((barrier, True))
        passed.append(node)
        if node in found.barriers:
            before[node] += [(other, True) for other in passed if other is not node]
            barrier, passed = node, []
    return before


def _stages(
    calls: Mapping[Node, Call],
    before: Mapping[Node, Sequence[tuple[Node, bool]]],
    refused: Mapping[Node, str | None],
    least: Mapping[Node, int],
) -> dict[Node, int]:
    stages: dict[Node, int] = {}
    for node in before:
        is_ours = refused[node] is None
        stage = max(least.get(node, 0), int(is_ours))
        for other, is_memory in before[node]:
            if is_ours and not is_memory and not calls[other].results:
                continue  # sizes, which a program knows from its inputs
            both = is_ours and refused[other] is None
            stage = max(stage, stages[other] + (2 if both and is_memory else 0))
        stages[node] = stage + (stage % 2 != int(is_ours))
    return stages


def _pieces(
    calls: Mapping[Node, Call], stages: Mapping[Node, int], refused: Mapping[Node, str | None]
) -> list[tuple[Node, ...]]:
    ours = [node for node in stages if refused[node] is None]
    joined = networkx.Graph()
    joined.add_nodes_from(ours)
    joined.add_edges_from(
        (node, arg) for node in ours for arg in node.all_input_nodes if arg in joined and stages[arg] == stages[node]
    )
    place = {node: at for at, node in enumerate(ours)}
    pieces = [tuple(sorted(piece, key=place.__getitem__)) for piece in networkx.connected_components(joined)]
    return sorted(pieces, key=lambda piece: (stages[piece[0]], place[piece[0]]))


def _pays(calls: Mapping[Node, Call], part: Sequence[Node]) -> bool:
    keys = [key for node in part for key in computing(calls[node])]
    return len(keys) >= LEAST and not PRODUCTS.issuperset(keys)


def _later(
    part: Sequence[Node], stages: Mapping[Node, int], refused: Mapping[Node, str | None], found: Effects
) -> int | None:
    """The stage that a part may move to, to join what uses it there; None where it is wanted before, or its memory is
    written."""
    inside = frozenset(part)
    users = [user for node in part for user in node.users if user not in inside]
    if not users or any(user not in stages for user in users) or any(found.writes[node] for node in part):
        return None
    later = min(stages[user] for user in users)
    is_ours = any(refused[user] is None and stages[user] == later for user in users)
    return later if is_ours and later > stages[part[0]] else None


def _why_poor(calls: Mapping[Node, Call], part: Sequence[Node]) -> str:
    keys = [key for node in part for key in computing(calls[node])]
    if not keys:
        return "computes nothing beside torch's calls"
    what = "only matrix products" if PRODUCTS.issuperset(keys) else "one op alone"
    return f"is {what}: nothing to fuse it with"
