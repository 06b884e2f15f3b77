"""First values of imported parameters and buffers: what torch's own layers draw, told by the op that reads them.

A compiled module computes with the module's tensors. These are for a graph alone: `g.state()`, `tn.compile(g)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from .ops.calls import arguments_of
from .ops.table import TABLE
from .places import op_name

First = Mapping[str, Any]
"""The `init` of a parameter with its numbers."""

ZEROS: First = {"init": "zeros"}
ONES: First = {"init": "ones"}
KAIMING: First = {"init": "kaiming_uniform", "a": math.sqrt(5)}

FIRST: Mapping[tuple[str, str], First] = {
    ("aten.linear.default", "weight"): KAIMING,
    ("aten.layer_norm.default", "weight"): ONES,
    ("aten.rms_norm.default", "weight"): ONES,
    ("aten.group_norm.default", "weight"): ONES,
    ("aten.batch_norm.default", "weight"): ONES,
    ("aten.batch_norm.default", "running_var"): ONES,
    ("aten.instance_norm.default", "weight"): ONES,
    ("aten.instance_norm.default", "running_var"): ONES,
    ("aten.prelu.default", "weight"): {"init": 0.25},
}
"""By the op and its argument. Matrices that torch alone computes with are drawn as those of `linear` are; all others
begin at zero, as biases of norms do."""

MULTIPLIES = ("aten.linear.default", *(f"aten.conv{n}d.default" for n in (1, 2, 3)),
              *(f"aten.conv{n}d.padding" for n in (1, 2, 3)), "aten.conv_transpose1d.default",
              "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")  # fmt: skip
"""The ops whose biases are drawn as wide as the sums beside them."""

LOOKS_UP = ("aten.embedding.default", "aten.embedding_bag.padding_idx")
"""The ops whose tables are drawn normally, the row of padding at zero."""


def first_values(program: ExportedProgram) -> dict[str, First]:
    """The first values of the parameters and buffers of an exported program, by their names there."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    held = zip(placeholders, program.graph_signature.input_specs, strict=True)
    names = {node: spec.target for node, spec in held if spec.target is not None}
    found: dict[str, First] = {}
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        arguments, _ = arguments_of(node, lambda given: given)
        for argument, given in arguments.items():
            if isinstance(given, Node) and given in names:
                first = _first(op_name(node.target), argument, arguments)
                if first is not None:
                    found.setdefault(names[given], first)
    return found


def _first(op: str, argument: str, arguments: Mapping[str, Any]) -> First | None:
    weight = arguments.get("weight")
    if argument == "bias" and op in MULTIPLIES and isinstance(weight, Node):
        return {"init": "bias_uniform", "fan_in": math.prod(map(int, weight.meta["val"].shape[1:]))}
    if argument == "weight" and op in LOOKS_UP:
        padding = arguments["padding_idx"]
        return {"init": "normal_rows", "mean": 0.0, "std": 1.0, "zero_row": -1.0 if padding is None else float(padding)}
    is_torchs = (op, argument) not in FIRST and op.removeprefix("aten.") not in TABLE
    if is_torchs and arguments[argument].meta["val"].ndim > 1:
        return KAIMING
    return FIRST.get((op, argument))
