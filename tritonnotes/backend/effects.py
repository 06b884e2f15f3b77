"""What calls do beside giving results: the memory that they write, the random numbers that they draw, and the order
that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from ..importer.ops.calls import arguments_of
from ..importer.places import op_name
from .reading import Call, is_call, tensors_of

STATISTICS = {"batch_norm.default": "training", "instance_norm.default": "use_input_stats"}
"""Ops that write running statistics without saying so in their schema, and the argument that says whether they do."""

BY_STRIDES = frozenset(("as_strided.default", "as_strided_copy.default", "as_strided_scatter.default"))
"""Ops that see how a tensor lies in memory."""

RUNNING = ("running_mean", "running_var")
RANDOM = "random numbers"
"""Stands among the memory that is written: what draws moves the generator."""

Memory = frozenset[int | str]
"""Storages, by number."""


@dataclass(frozen=True)
class Effects:
    """What each call of a graph does. `memory` is where the tensors of a node lie, `writes` what a call changes.
    `in_place` are calls that change nothing that anybody sees but in their result, and the argument they write.
    `by_strides` is the memory that a call sees the strides of. `barriers` are calls that no other is moved past, `kept`
    says why a call must stay torch's."""

    memory: Mapping[Node, Memory]
    writes: Mapping[Node, Memory]
    in_place: Mapping[Node, Node]
    by_strides: Memory
    barriers: frozenset[Node]
    kept: Mapping[Node, str]

    def touches(self, node: Node) -> Memory:
        """The memory that a call reads or writes."""
        read = frozenset[int | str]().union(*(self.memory[arg] for arg in node.all_input_nodes))
        return read | self.writes[node]


def effects(calls: Mapping[Node, Call], output: Node) -> Effects:
    """The effects of all calls. Later uses of what a call in place has written become uses of its result."""
    memory = {node: _memory(node) for node in calls}
    barriers = frozenset(n for n, call in calls.items() if is_call(n) and not call.is_traced)
    writes: dict[Node, Memory] = {}
    in_place: dict[Node, Node] = {}
    order = {node: place for place, node in enumerate([*calls, output])}
    for node, call in calls.items():
        if not is_call(node):
            writes[node] = frozenset()
        elif node in barriers:
            writes[node] = frozenset[int | str]().union(*(memory[arg] for arg in node.all_input_nodes))
        else:
            written = _written(call, calls)
            target = _renamed(node, written, calls, memory, order)
            if target is not None:
                in_place[node] = target
                written = []
            drawn = {RANDOM} if any(_draws(aten) for aten in call.aten) else set()
            writes[node] = frozenset(drawn).union(*(memory[n] for n in written))
    seen = [arg for node, call in calls.items() if any(map(_sees_strides, call.aten)) for arg in node.all_input_nodes]
    by_strides = frozenset[int | str]().union(*(memory[arg] for arg in seen))
    made = Effects(memory, writes, in_place, by_strides, barriers, {})
    return replace(made, kept=_kept(calls, made, order, output))


def _memory(node: Node) -> Memory:
    return frozenset(map(_storage, tensors_of(node)))


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse tensors have none
        return id(tensor)


def _sees_strides(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and op_name(node.target).removeprefix("aten.") in BY_STRIDES


# -- writes ------------------------------------------------------------------------------------------------------------


def _written(call: Call, calls: Mapping[Node, Call]) -> list[Node]:
    """The arguments of a call whose memory it writes."""
    shown = {m["val"].untyped_storage()._cdata for m in _written_values(call.aten)}
    return [arg for arg in call.node.all_input_nodes if any(_lies_in(r, shown) for r in calls[arg].results)]


def _lies_in(result: Node, storages: set[int]) -> bool:
    value = result.meta.get("val")
    return isinstance(value, Tensor) and _storage(value) in storages


def _written_values(aten: Iterable[Node]) -> list[dict[str, Tensor]]:
    found = []
    for node in aten:
        for given in _arguments_written(node):
            if isinstance(given, Node) and isinstance(given.meta.get("val"), Tensor):
                found.append(given.meta)
    return found


def _arguments_written(node: Node) -> list[object]:
    """What one call of aten writes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    if not node.target._schema.is_mutable:
        return [*running_statistics(node).values()]
    arguments, _ = arguments_of(node, lambda given: given)
    schema = [a for a in node.target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    found = [arguments[a.name] for a in schema]
    return [part for given in found for part in (given if isinstance(given, list | tuple) else [given])]


def running_statistics(node: Node) -> dict[str, Node]:
    """The running statistics that a call of aten moves, by name."""
    flag = STATISTICS.get(op_name(node.target).removeprefix("aten."))
    if flag is None:
        return {}
    arguments, _ = arguments_of(node, lambda given: given)
    return {n: arguments[n] for n in RUNNING if arguments[flag] and isinstance(arguments[n], Node)}


def _draws(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    arguments, _ = arguments_of(node, lambda given: given)
    return arguments.get("train", True) is not False and arguments.get("p") != 0


def _renamed(
    node: Node, written: list[Node], calls: Mapping[Node, Call], memory: Mapping[Node, Memory], order: dict[Node, int]
) -> Node | None:
    """The argument that a call writes whole and gives back, where what it was is read by nobody later and its memory is
    the graph's own: later uses become uses of the result. None for all other calls."""
    if len(written) != 1 or len(tensors_of(node)) != 1:
        return None
    (target,) = written
    own = memory[target]
    if len(tensors_of(target)) != 1 or len(own) != 1 or memory[node] != own or not _is_whole(node, target):
        return None
    for other in calls:
        if not memory[other] & own or other is target or order[other] >= order[node]:
            continue  # what is made later is made of what was written
        if not is_call(other) or any(order[user] > order[node] for user in other.users):
            return None
    if not is_call(target) or calls[target].node.target is torch.ops.aten.set_:
        return None
    target.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])
    return target


def _is_whole(node: Node, target: Node) -> bool:
    (made,), (was,) = tensors_of(node), tensors_of(target)
    return made.shape == was.shape and made.stride() == was.stride() and made.dtype is was.dtype


# -- what stays with torch ---------------------------------------------------------------------------------------------


def _kept(calls: Mapping[Node, Call], found: Effects, order: Mapping[Node, int], output: Node) -> dict[Node, str]:
    """Calls whose results or arguments share memory that is written, or that the caller sees: there it matters which
    memory it is, and programs make their own."""
    last_write: dict[int | str, int] = {}
    for node, written in found.writes.items():
        moves = {n for aten in calls[node].aten for n in running_statistics(aten).values()}
        if not moves:
            last_write |= dict.fromkeys(written, order[node])
    leaves = frozenset[int | str]().union(*(found.memory[n] for n in calls if not is_call(n)))
    returned = [*output.all_input_nodes]
    kept: dict[Node, str] = {}
    for node in calls:
        if not is_call(node):
            continue
        own = found.memory[node]
        if found.writes[node] & {RANDOM}:
            kept[node] = "draws random numbers, which would be others than torch's"
        elif any(memory in last_write for memory in own):
            kept[node] = "lies in memory that is written"
        elif any(last_write.get(memory, -1) >= order[node] for memory in found.touches(node) - own):
            kept[node] = "reads memory that is written later"
        elif own & found.by_strides:
            kept[node] = "lies in memory whose strides are seen"
        elif any(found.memory[out] & own & leaves for out in returned):
            kept[node] = "is a view of an input, and returned"
        elif sum(bool(found.memory[out] & own) for out in dict.fromkeys(returned)) > 1 and _is_view(node, found):
            kept[node] = "is a view of another result"
    return kept


def _is_view(node: Node, found: Effects) -> bool:
    """Whether a call gives memory that it was given."""
    return node not in found.in_place and any(found.memory[node] & found.memory[arg] for arg in node.all_input_nodes)
