"""The calls of a graph of Dynamo, and what each is in aten: traced once, and nothing decomposed that may have a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, make_fx
from torch.utils import _pytree as pytree

from ..ir.core.errors import first_line

STATEFUL = ("_set_grad_enabled", "_enter_autocast", "_exit_autocast", "_enter_inference_mode", "_exit_inference_mode")
"""Calls that change how those after them compute."""

STATE = "changes how the calls after it compute"


@dataclass(frozen=True)
class Call:
    """One node of Dynamo's graph. `aten` are the calls that it makes, in order; `results` are what gives the tensors of
    its result, in their order. `refusal` says why it was not traced, or may not be one of ours; None where it may."""

    node: Node
    aten: tuple[Node, ...] = ()
    results: tuple[Node, ...] = ()
    refusal: str | None = None

    @property
    def is_traced(self) -> bool:
        return bool(self.results) or self.refusal is None


def tensors_of(node: Node) -> list[Tensor]:
    """The fake tensors that a node of Dynamo's graph gives."""
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("example_value")) if isinstance(leaf, Tensor)]


def is_call(node: Node) -> bool:
    return node.op not in ("placeholder", "get_attr", "output")


def read(module: GraphModule) -> dict[Node, Call] | None:
    """All nodes of a graph but its output, in order. None where it has no tensors."""
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    fakes = [t for node in nodes for t in tensors_of(node) if isinstance(t, FakeTensor)]
    if not fakes:
        return None
    given = {node: why for node in nodes if (why := _not_traced(node)) is not None or not is_call(node)}
    while True:
        try:
            return _traced(module, nodes, given, fakes[0].fake_mode)
        except _TraceError as error:
            given[error.node] = error.reason


class _TraceError(Exception):
    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


def _not_traced(node: Node) -> str | None:
    """Why a call is taken for what Dynamo says that it gives, without a look at what it does."""
    if not is_call(node):
        return None
    leaves = pytree.tree_leaves(node.meta.get("example_value"))
    if getattr(node.target, "__name__", "") in STATEFUL:
        return STATE
    if node.op == "call_module" or isinstance(node.target, torch._ops.HigherOrderOperator):
        return "is a call with a graph or a module of its own"
    if any(isinstance(leaf, Tensor) and type(leaf) is not FakeTensor for leaf in leaves):
        return "gives tensors of a class of their own"
    if any(_is_unknown(leaf) for leaf in leaves):
        return "gives sizes or numbers that depend on the values of tensors"
    if any(isinstance(leaf, Tensor) and leaf.layout is not torch.strided for leaf in leaves):
        return "gives tensors that are not dense"
    return None


def _is_unknown(leaf: Any) -> bool:
    """Whether a number, or a size of a tensor, is known only when the graph runs."""
    if isinstance(leaf, torch.SymFloat | torch.SymBool):
        return True
    sizes = leaf.shape if isinstance(leaf, Tensor) and leaf.layout is torch.strided else [leaf]
    symbols = [s for size in sizes if isinstance(size, torch.SymInt) for s in size.node.expr.free_symbols]
    return any(str(symbol).startswith(("u", "zuf")) for symbol in symbols)


def _traced(
    module: GraphModule, nodes: Sequence[Node], given: Mapping[Node, str | None], mode: FakeTensorMode
) -> dict[Node, Call]:
    """The calls, of which those in `given` are not traced. Raises `_TraceError` for one that cannot be."""
    values = {node: _fresh(module, node, mode) for node in given}
    leaves, spec = pytree.tree_flatten([*values.values()])
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor | torch.SymInt)]
    found: dict[Node, Call] = {}

    def replay(*inputs: Any) -> list[Tensor]:
        filled = [*leaves]
        for place, value in zip(places, inputs, strict=True):
            filled[place] = value
        known = dict(zip(values, pytree.tree_unflatten(filled, spec), strict=True))
        replayed = _Replay(module, known)
        replayed.run(enable_io_processing=False)
        found.update({node: replace(call, refusal=given.get(node)) for node, call in replayed.calls.items()})
        return replayed.tensors

    # Tensors that calls make of nothing are fake, too.
    with torch.no_grad(), mode:
        made = make_fx(replay, pre_dispatch=True)(*(leaves[place] for place in places))
    alive = {*made.graph.nodes}
    return {node: replace(found[node], aten=tuple(n for n in found[node].aten if n in alive)) for node in nodes}


def _fresh(module: GraphModule, node: Node, mode: FakeTensorMode) -> Any:
    """What a node gives, in tensors of its own: a trace may write into them."""
    value = node.meta.get("example_value")
    if node.op == "get_attr":
        value = module
        for part in str(node.target).split("."):
            value = getattr(value, part)

    def again(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
            return _number(leaf)
        with mode:
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)

    return pytree.tree_map(again, value)


def _number(leaf: Any) -> Any:
    """A symbolic number that torch has found to be one certain number, as that."""
    if isinstance(leaf, torch.SymInt | torch.SymFloat) and leaf.node.expr.is_number:
        return int(leaf.node.expr) if isinstance(leaf, torch.SymInt) else float(leaf.node.expr)
    return leaf


class _Replay(Interpreter):
    """Runs a graph under a trace and notes which calls of the trace each of its nodes makes."""

    def __init__(self, module: GraphModule, known: Mapping[Node, Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.known = known
        mode = get_proxy_mode()
        assert mode is not None
        self.tracer: Any = mode.tracer
        self.calls: dict[Node, Call] = {}
        self.tensors: list[Tensor] = []
        """All that calls gave: what reaches a result of the trace stays in it."""

    def run_node(self, n: Node) -> Any:
        if n.op == "output":
            return None
        if n in self.known:
            value = self.known[n]
            self.calls[n] = Call(n, (), self._named(value))
            return value
        try:
            start = self._count()
            value = super().run_node(n)
            wanted = _other_dtype(n, value)
            if wanted is not None:
                start, value = self._count(), self._cast(n, wanted)
        except Exception as error:
            raise _TraceError(n, f"cannot be traced: {first_line(error)}") from error
        self.calls[n] = Call(n, tuple([*self.tracer.graph.nodes][start:]), self._named(value))
        return value

    def _count(self) -> int:
        return len(self.tracer.graph.nodes)

    def _cast(self, node: Node, wanted: torch.dtype) -> Any:
        """The call as autocast makes it, which a trace does not see: with its arguments cast to the dtype it gives."""

        def cast(leaf: Any) -> Any:
            is_cast = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype is not torch.float64
            return leaf.to(wanted) if is_cast else leaf

        args, kwargs = pytree.tree_map(cast, self.fetch_args_kwargs_from_env(node))
        value = getattr(self, node.op)(node.target, args, kwargs)
        if _other_dtype(node, value) is not None:
            raise RuntimeError(f"autocast makes {wanted} of it in a way of its own")
        return value

    def _named(self, value: Any) -> tuple[Node, ...]:
        made = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        self.tensors += made
        return tuple(get_proxy_slot(tensor, self.tracer).proxy.node for tensor in made)


def _other_dtype(node: Node, value: Any) -> torch.dtype | None:
    """The dtype that a call gives, where it is another than the one it was traced to."""
    made = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return next((w.dtype for m, w in zip(made, tensors_of(node), strict=True) if m.dtype is not w.dtype), None)
