"""Regions of a module's code, `with torch.autocast(...)` and `with torch.no_grad()`, put into the graph around them.

An export keeps a region as one call of a graph of its own. Its calls move into the graph around it: casts where
autocast casts, which torch itself is asked for call by call, and a detached copy of what leaves a region without
gradients.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..ir.core.errors import ModelImportError

AUTOCAST, GRAD = "wrap_with_autocast", "wrap_with_set_grad_enabled"


@dataclass(frozen=True)
class Autocast:
    """The arguments of `torch.autocast`, and the casts that were made in it so far: a weight is cast once."""

    device: str
    dtype: torch.dtype | None
    enabled: bool
    cache: bool | None
    casts: dict[tuple[Node, torch.dtype], Node] = field(default_factory=dict)

    def entered(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, self.enabled, self.cache)


def with_regions_inlined(program: ExportedProgram) -> ExportedProgram:
    """The program, its regions moved into its graph."""
    graph = program.graph_module.graph
    for node in [*graph.nodes]:
        if _region(node) is not None:
            _inline(graph, program.graph_module, node, None)
    return program


def _region(node: Node) -> str | None:
    name = getattr(node.target, "__name__", None) if node.op == "call_function" else None
    return name if name in (AUTOCAST, GRAD) else None


def _inline(graph: Graph, owner: GraphModule, node: Node, around: Autocast | None) -> None:
    """Put the calls of a region before the call of it, and its results in place of what is read of that."""
    *options, inner, autocast, keeps_gradients = _taken_apart(node, around)
    body = getattr(owner, str(inner.target))
    given = node.args[len(options) + 1 :]
    with graph.inserting_before(node):
        results = _copied(graph, body, dict(zip(_inputs(body), given, strict=True)), autocast)
        if not keeps_gradients:
            results = [_detached(graph, result) for result in results]
    for user in [*node.users]:
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(node)
    if not inner.users:
        inner.graph.erase_node(inner)


def _taken_apart(node: Node, around: Autocast | None) -> tuple[Any, ...]:
    """The options of a region, the node of its graph, the autocast inside of it and whether gradients pass."""
    if _region(node) == AUTOCAST:
        *options, inner = node.args[:5]
        return *options, inner, Autocast(*options), True  # type: ignore[arg-type]
    enabled, inner = node.args[:2]
    return enabled, inner, around, enabled


def _inputs(body: GraphModule) -> list[Node]:
    return [node for node in body.graph.nodes if node.op == "placeholder"]


def _copied(graph: Graph, body: GraphModule, known: dict[Node, Any], autocast: Autocast | None) -> list[Any]:
    """The results of the calls of a region, which are copied into the graph."""
    for node in body.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            return pytree.tree_leaves(pytree.tree_map_only(Node, known.__getitem__, node.args))
        if node.op == "get_attr":
            known[node] = node
            continue
        if _region(node) is not None:
            known[node] = _nested(graph, body, node, known, autocast)
        elif node.target is operator.getitem and isinstance(known[node.args[0]], list):
            known[node] = known[node.args[0]][node.args[1]]
        else:
            known[node] = made = graph.node_copy(node, known.__getitem__)
            with graph.inserting_before(made):
                _cast_arguments(graph, made, _casts(node, autocast), autocast)
            if autocast is not None and _is_without_gradient(node):
                known[node] = _detached(graph, made)
    raise AssertionError("a graph ends in its output")


def _is_without_gradient(node: Node) -> bool:
    """Whether a call was made within torch.no_grad inside of torch.autocast: an export forgets that region, and knows
    of its results alone that they want no gradient."""
    is_plain = isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable
    result = node.meta.get("val")
    is_float = isinstance(result, Tensor) and result.is_floating_point()
    return is_plain and is_float and not _wants_gradient(node) and any(map(_wants_gradient, node.all_input_nodes))


def _wants_gradient(node: Node) -> bool:
    return bool(getattr(node.meta.get("tensor_meta", node.meta.get("val")), "requires_grad", False))


def _nested(
    graph: Graph, body: GraphModule, node: Node, known: Mapping[Node, Any], around: Autocast | None
) -> list[Any]:
    """The results of a region inside of a region."""
    *options, inner, autocast, keeps_gradients = _taken_apart(node, around)
    if _region(node) == GRAD and keeps_gradients:
        raise ModelImportError(
            "torch.enable_grad inside of torch.no_grad: what passes gradients out of it has no graph here; take the "
            "inner one out of the outer one"
        )
    given = [known[arg] if isinstance(arg, Node) else arg for arg in node.args[len(options) + 1 :]]
    inside = getattr(body, str(inner.target))
    results = _copied(graph, inside, dict(zip(_inputs(inside), given, strict=True)), autocast)
    return results if keeps_gradients else [_detached(graph, result) for result in results]


def _detached(graph: Graph, result: Any) -> Any:
    if not isinstance(result, Node) or not isinstance(result.meta.get("val"), Tensor):
        return result
    return _added(graph, torch.ops.aten.detach.default, (result,), result.meta["val"].detach())


def _cast_arguments(graph: Graph, made: Node, casts: Mapping[int, torch.dtype], autocast: Autocast | None) -> None:
    def cast(arg: Node) -> Node:
        return _cast(graph, arg, casts, autocast)

    made.args, made.kwargs = pytree.tree_map_only(Node, cast, (made.args, made.kwargs))


def _cast(graph: Graph, arg: Node, casts: Mapping[int, torch.dtype], autocast: Autocast | None) -> Node:
    """An argument as a call reads it: cast where autocast casts it."""
    dtype = casts.get(id(arg.meta.get("val")))
    if dtype is None or autocast is None or arg.meta["val"].dtype is dtype:
        return arg
    if (arg, dtype) in autocast.casts:
        return autocast.casts[arg, dtype]
    made = _added(graph, torch.ops.aten.to.dtype, (arg, dtype), arg.meta["val"].to(dtype))
    if arg.op == "placeholder" and arg.name.startswith("p_"):
        autocast.casts[arg, dtype] = made
    return made


def _added(graph: Graph, target: Any, args: tuple[Any, ...], value: Tensor) -> Node:
    """A call that the export has not: it belongs to no layer, so that it takes the name of none."""
    made = graph.call_function(target, args)
    made.meta["val"] = value
    return made


class _Casts(TorchDispatchMode):
    """The dtypes that given tensors are cast to."""

    def __init__(self, given: set[int]) -> None:
        super().__init__()
        self.given = given
        self.found: dict[int, torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self.given and kwargs.get("dtype") is not None:
            self.found[id(args[0])] = kwargs["dtype"]
        return func(*args, **kwargs)


def _casts(node: Node, autocast: Autocast | None) -> dict[int, torch.dtype]:
    """What autocast casts of the arguments of a call, by the identity of their values: torch is watched as it runs the
    call on tensors without numbers. Where it asks an op for a dtype instead, the first argument is cast to that."""
    if autocast is None or not autocast.enabled or not isinstance(node.target, torch._ops.OpOverload):
        return {}
    if node.target in (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default) or node.target._schema.is_mutable:
        return {}
    args, kwargs = pytree.tree_map_only(Node, lambda arg: arg.meta.get("val"), (node.args, node.kwargs))
    given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    if not any(value.is_floating_point() for value in given):
        return {}
    with _Casts({id(value) for value in given}) as seen, torch.no_grad(), autocast.entered():
        node.target(*args, **kwargs)
    taken = next((a.name for a in node.target._schema.arguments if a.name == "dtype"), None)
    result = node.meta.get("val")
    if not seen.found and taken and isinstance(result, Tensor) and result.dtype is torch.float32:
        return {id(given[0]): torch.float32}
    return seen.found
