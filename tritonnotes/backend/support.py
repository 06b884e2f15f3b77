"""Which calls may be ours: those whose ops have rows, and that can be declared with their dtypes, shapes, numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch.fx import Node

from ..importer.ops.calls import SPARSE, arguments_of
from ..importer.ops.table import TABLE, UNCOUNTED
from ..importer.places import op_name
from ..ir.core.errors import TritonNotesError
from .declaring import Declaring, key_of
from .effects import Effects
from .reading import Call, is_call, tensors_of


def refusals(calls: Mapping[Node, Call], found: Effects) -> dict[Node, str | None]:
    """For each call of the graph why it stays torch's; None where it may be one of ours."""
    made: dict[Node, str | None] = {}
    for node, call in calls.items():
        if is_call(node):
            made[node] = call.refusal or found.kept.get(node) or _refusal(call)
            if made[node] is None and not call.aten and any(made.get(arg, "") for arg in node.all_input_nodes):
                made[node] = "is a part of what torch gives"
    for node in reversed([*made]):
        if made[node] is None and _is_torn(node, made):
            made[node] = "gives several tensors, which torch takes as they are"
    return made


def _is_torn(node: Node, refused: Mapping[Node, str | None]) -> bool:
    """Whether something else than a call of ours that takes one of them uses the tensors that a call gives."""
    if isinstance(node.meta.get("example_value"), torch.Tensor):
        return False
    return any(user.target is not operator.getitem or refused.get(user, "") is not None for user in node.users)


def gives_tensors(node: Node) -> bool:
    return bool(tensors_of(node))


def _refusal(call: Call) -> str | None:
    if not gives_tensors(call.node):
        return "gives no tensor"
    if any(aten.op == "get_attr" for aten in call.aten):
        return "makes a tensor of numbers that stand in the code"
    missing = [op_name(aten.target) for aten in call.aten if not _has_row(aten)]
    if missing:
        return f"{missing[0]} has no formula here"
    if any(map(_asks_for_sparse, call.aten)):
        return "gives sparse gradients"
    try:
        Declaring("tried", call.aten, lambda node: node.name)
    except TritonNotesError as error:
        return str(error)
    return None


def _asks_for_sparse(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments, _ = arguments_of(node, lambda given: given)
    return any(arguments.get(name) is True for name in SPARSE)


def _has_row(node: Node) -> bool:
    if node.target is operator.getitem or not isinstance(node.target, torch._ops.OpOverload):
        return True  # parts of a result, and sizes
    key = key_of(node)
    return key in TABLE or key in UNCOUNTED or key.startswith("sym_")
