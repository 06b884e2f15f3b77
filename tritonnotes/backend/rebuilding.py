"""A graph of Dynamo with parts of it as calls of programs, and the rest as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph as TorchGraph
from torch.fx import GraphModule, Node

from ..codegen.fusion.constraints import Fusion
from .declaring import Declaring, named_by
from .effects import Effects
from .part import Part
from .parts import Stages, computing
from .reading import Call, is_call, tensors_of

PREFIX = "tritonnotes_part"


@dataclass(frozen=True)
class Placed:
    """A part with the nodes of Dynamo's graph that are its inputs, `sizes` among them for torch's calls, and its
    outputs."""

    module: Part
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


def placed(
    name: str,
    module: GraphModule,
    part: Sequence[Node],
    calls: Mapping[Node, Call],
    found: Effects,
    fusion: Fusion,
) -> Placed:
    """The program of one part. Raises `TritonNotesError` where there is none."""
    owners = owners_of(calls)
    aten = [call for node in part for call in calls[node].aten]
    declared = Declaring(name, aten, named_by(owners))
    inside = frozenset(part)
    outputs = tuple(n for n in part if tensors_of(n) and any(user not in inside for user in n.users))
    outputs = tuple(n for n in outputs if len(calls[n].results) == 1)
    for node in outputs:
        declared.graph.output(**{node.name: declared.found[calls[node].results[0]]})
    tensors = [owners[leaf] for leaf in declared.leaves]
    instead, sizes = _instead(module, part, tensors, outputs, found)
    ops = [key.removesuffix(".default") for node in part for key in computing(calls[node])]
    made = Part(declared.graph, [*declared.leaves.values()], ops, instead, fusion, declared.device)
    return Placed(made, (*tensors, *sizes), outputs)


def owners_of(calls: Mapping[Node, Call]) -> dict[Node, Node]:
    """The nodes of Dynamo's graph by the call of aten whose tensor they give, each the first that gives it alone."""
    owners: dict[Node, Node] = {}
    for node, call in calls.items():
        if len(call.results) == 1 and not isinstance(node.meta.get("example_value"), list | tuple):
            owners.setdefault(call.results[0], node)
    return owners


def _instead(
    module: GraphModule, part: Iterable[Node], tensors: Sequence[Node], outputs: Sequence[Node], found: Effects
) -> tuple[GraphModule, list[Node]]:
    """The calls of a part as torch makes them, and the sizes that they are given beside tensors."""
    graph = TorchGraph()
    made = {node: graph.placeholder(node.name) for node in tensors}
    sizes: list[Node] = []

    def copied(node: Node) -> Node:
        if node not in made:
            if not is_call(node):
                sizes.append(node)
                made[node] = graph.placeholder(node.name)
            else:
                for arg in node.all_input_nodes:
                    copied(arg)
                made[node] = _copy(graph, node, made, clones=node in found.in_place, found=found)
        return made[node]

    for node in part:
        for arg in node.all_input_nodes:
            copied(arg)
        copied(node)
    graph.output(tuple(made[node] for node in outputs))
    _placeholders_first(graph)
    return GraphModule(module, graph), sizes


def _placeholders_first(graph: TorchGraph) -> None:
    first = next(iter(graph.nodes))
    for node in [n for n in graph.nodes if n.op == "placeholder" and n is not first]:
        first.append(node)
        first = node


def rebuilt(
    module: GraphModule,
    calls: Mapping[Node, Call],
    found: Effects,
    stages: Stages,
    parts: Sequence[tuple[tuple[Node, ...], Placed]],
    refused: Mapping[Node, str | None],
) -> GraphModule:
    """The graph that runs: parts in the place of their calls, stage by stage."""
    graph = TorchGraph()
    made: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            made[node] = graph.node_copy(node)
    order = {node: place for place, node in enumerate(calls)}
    by_first = {part[0]: (name, put) for name, (part, put) in _named(parts)}
    ours = {node for part, _ in parts for node in part}
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    seen = frozenset(output.all_input_nodes)
    torchs = [node for node in stages.of if node not in ours]
    for node in sorted([*torchs, *by_first], key=lambda n: (stages.of[n], order[n])):
        if node in by_first:
            name, put = by_first[node]
            module.add_submodule(name, put.module)
            results = graph.call_module(name, tuple(made[n] for n in put.inputs))
            for place, result in enumerate(put.outputs):
                made[result] = graph.call_function(_item, (results, place))
                axes = _order_of_axes(result)
                if axes is not None and (found.by_strides or result in seen):
                    made[result] = graph.call_function(laid_out, (made[result], axes))
        else:
            made[node] = _copy(graph, node, made, clones=_must_clone(node, found, refused), found=found)
    graph.node_copy(output, made.__getitem__)
    return GraphModule(module, graph)


def _item(results: Sequence[object], place: int) -> object:
    return results[place]


def laid_out(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """A dense tensor whose axes lie in memory in this order, the outermost first: a copy, unless it is that."""
    strides, step = [1] * tensor.dim(), 1
    for axis in reversed(axes):
        strides[axis] = step
        step *= max(tensor.shape[axis], 1)
    if tensor.stride() == (*strides,):
        return tensor
    return tensor.new_empty_strided(tensor.shape, strides).copy_(tensor)


def _order_of_axes(node: Node) -> list[int] | None:
    """The axes of a result as eager PyTorch lays them out, the outermost first; None where that is their own order."""
    (tensor,) = tensors_of(node)
    strides = [_hint(stride) for stride in tensor.stride()]
    axes = [axis for axis, size in enumerate(tensor.shape) if _hint(size) != 1 and strides[axis]]
    order = sorted(axes, key=lambda axis: -strides[axis])
    return None if order == axes else [*(axis for axis in range(tensor.dim()) if axis not in axes), *order]


def _hint(size: int | torch.SymInt) -> int:
    """A size as it is now: to ask a symbolic one would be to fix what is asked."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else size


def _named(
    parts: Sequence[tuple[tuple[Node, ...], Placed]],
) -> list[tuple[str, tuple[tuple[Node, ...], Placed]]]:
    return [(f"{PREFIX}_{count}", part) for count, part in enumerate(parts)]


def _copy(graph: TorchGraph, node: Node, made: Mapping[Node, Node], *, clones: bool, found: Effects) -> Node:
    """A call of torch's. One that writes its argument is given a copy of it with `clones`."""
    known = dict(made)
    if clones:
        target = found.in_place[node]
        known[target] = graph.call_method("clone", (made[target],))
    return graph.node_copy(node, known.__getitem__)


def _must_clone(node: Node, found: Effects, refused: Mapping[Node, str | None]) -> bool:
    """Whether what a call writes may be read by others, by the gradient of a program among them."""
    target = found.in_place.get(node)
    if target is None:
        return False
    alike = [n for n, memory in found.memory.items() if memory & found.memory[node] and n not in found.in_place]
    return len(target.users) != 1 or len(alike) != 1 or any(refused.get(n) is None for n in (target, *alike))
