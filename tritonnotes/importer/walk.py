"""The calls of an exported program, one after the other, declared in a graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..ir.core.errors import DeclarationError, ModelImportError, TritonNotesError
from ..ir.core.graph import Graph, Value
from ..ir.core.types import as_dtype, show_shape
from ..tensors.shared import Shared
from .arguments import CallForm
from .initial import first_values
from .memory import Memory
from .names import Names
from .ops.calls import apply_row, arguments_of, plain
from .ops.library import library_results
from .ops.table import TABLE, UNCOUNTED
from .places import op_name
from .results import Output, output_names
from .sizes import Axes, Sizes
from .state import State
from .wrapped import Wrapped

MOVES_STATISTICS = ("batch_norm.default", "instance_norm.default")
"""Ops that write into buffers without saying so in their schema: ours declare these updates themselves."""


@dataclass(frozen=True)
class Imported:
    """A graph, the tensors that it shares with its module, and what the module returns, with an `Output` for each
    tensor."""

    graph: Graph
    shared: Shared
    result: Any
    call: CallForm


def declare(
    graph: Graph, program: ExportedProgram, wrapped: Wrapped, inputs: Sequence[str], axes: Sequence[Axes]
) -> Imported:
    """Declare an exported module in an empty `graph`. `inputs` are the names of its tensors, `axes` the symbolic ones.
    Raises `ModelImportError` for a call that has no counterpart here."""
    walk = _Walk(graph, program, wrapped)
    walk.declare_leaves(inputs, axes)
    for node in walk.calls():
        walk.call(node)
    return Imported(graph, walk.state.shared(), walk.finish(), wrapped.arguments.form)


class _Walk:
    def __init__(self, graph: Graph, program: ExportedProgram, wrapped: Wrapped) -> None:
        self.graph, self.program, self.wrapped = graph, program, wrapped
        self.state, self.sizes = State(graph, wrapped, first_values(program)), Sizes()
        self.nodes = [*program.graph.nodes]
        self.memory = Memory(self.nodes)
        self.found: dict[Node, Any] = {}
        self.buffers: dict[Node, Value] = {}
        self.names = Names([], [])
        self.devices: set[torch.device] = set()

    # -- leaves --------------------------------------------------------------------------------------------------------

    def declare_leaves(self, inputs: Sequence[str], axes: Sequence[Axes]) -> None:
        """Inputs, parameters, buffers and constants. Names of parameters are kept, those of inputs make way."""
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        specs = self.program.graph_signature.input_specs
        fed = [node for node, spec in zip(placeholders, specs, strict=True) if spec.kind is InputKind.USER_INPUT]
        for node, wanted in zip(fed, axes, strict=True):
            self.sizes.name_axes(node.meta["val"].shape, wanted)
        self.sizes.check_guards()
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self.found[node] = value = self.state.value(spec, self.program, self.wrapped)
                if value.op.name == "buffer":
                    self.buffers[node] = value
            elif spec.kind is not InputKind.USER_INPUT:
                raise ModelImportError(f"{node.name!r} is a {spec.kind.name.lower()}; a graph has tensors alone")
        for node, name in zip(fed, inputs, strict=True):
            given = node.meta["val"]
            shape = tuple(map(self.sizes.size, given.shape))
            taken = name in self.graph.given_names
            self.found[node] = self.graph.input(
                self.graph.fresh_name(name) if taken else name, shape, as_dtype(given.dtype)
            )
        calls = [node for node in self.nodes if node.op == "call_function"]
        self.names = Names(calls, self.graph.given_names)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def calls(self) -> list[Node]:
        """The calls that outputs and writes need, in order."""
        needed: set[Node] = set()
        for node in reversed(self.nodes):
            if node.op == "output" or node in needed or _writes(node):
                needed |= {node, *node.all_input_nodes}
        return [node for node in self.nodes if node in needed and node.op not in ("placeholder", "output")]

    def call(self, node: Node) -> None:
        """Declare one call. Raises `ModelImportError` that says which, and where."""
        if not _gives_tensors(node):
            return  # a size, which is read from where it is used, or a check
        try:
            made = self._made(node)
            self._check(node, made)
        except TritonNotesError as error:
            place = self.names.places.get(node)
            raise ModelImportError(f"{op_name(node.target)} {place}: {error}") from error
        self.found[node] = made

    def _made(self, node: Node) -> Any:
        if node.target is operator.getitem:
            return self.found[node.args[0]][node.args[1]]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            return self.unknown(node)
        key = op_name(node.target).removeprefix("aten.")
        written = self.memory.written(node)
        if written is not None:
            key = key.replace("_.", ".", 1)
            self._check_written(written, node)
        if key not in TABLE:
            return self._library(node, written, self.names.name(node))
        moves = key in MOVES_STATISTICS
        arguments, defaults = arguments_of(node, lambda given: self._argument(given, moves))
        start, name = len(self.graph.values), self.names.name(node)
        try:
            made = apply_row(TABLE[key], arguments, defaults, name)
        except TritonNotesError as refused:
            # What our op does not take is torch's, unless that writes where nobody is told.
            if moves:
                raise
            return self._library(node, written, name, refused)
        if name and not TABLE[key].takes_name and isinstance(made, Value) and made.index >= start:
            self.graph.keep_name(made, name)
        if written is not None:
            self.found[written] = made
        return made

    def unknown(self, node: Node) -> Any:
        """A call that is none of an op of torch."""
        raise DeclarationError("is no op of torch that takes tensors; import the parts of the model around it")

    def _library(
        self, node: Node, written: Node | None, name: str | None, refused: TritonNotesError | None = None
    ) -> Any:
        """A call that stays torch's; `refused` is why our op of the same meaning does not take it."""
        try:
            made = library_results(self.graph, node, lambda given: self._argument(given, False), self.sizes.size, name)
        except TritonNotesError as error:
            if refused is None:
                raise
            raise type(refused)(f"{refused}; and as a call of torch: {error}") from error
        if written is not None:
            self.found[written] = made
        return made

    def _argument(self, given: Any, moves_statistics: bool) -> Any:
        """An argument of a call: a value, a size, or a plain number, dtype or list of these."""
        if isinstance(given, Node):
            given = self.memory.base(given)
            if given not in self.found:
                return self.sizes.size(given.meta["val"])
            value = self.found[given]
            unwritten = self.buffers.get(given)
            if unwritten is value and unwritten.name in self.graph.updates and not moves_statistics:
                raise DeclarationError(
                    f"reads {unwritten.name!r} after it was moved; read it before, or in the next call"
                )
            return value
        if isinstance(given, torch.SymInt):
            return self.sizes.size(given)
        if isinstance(given, list | tuple):
            return [self._argument(part, moves_statistics) for part in given]
        return plain(given)

    def _check_written(self, written: Node, node: Node) -> None:
        if written.op == "placeholder" and written not in self.buffers:
            raise DeclarationError(
                f"writes into {self.found[written].name!r}, which is no buffer; compute a new tensor instead"
            )
        if (other := self.memory.seen_elsewhere(written, node)) is not None:
            raise DeclarationError(
                f"writes into memory that {other.name!r} shows and that is read later; compute a new tensor instead"
            )

    def _check(self, node: Node, made: Any) -> None:
        """Raise `ModelImportError` where a result has not torch's shape and dtype: a row of the table is wrong then."""
        wanted = node.meta["val"]
        pairs = zip(made, wanted, strict=True) if isinstance(made, list | tuple) else [(made, wanted)]
        for value, want in pairs:
            if value is None:
                continue  # nobody reads it
            shape = tuple(map(self.sizes.size, want.shape))
            if value.shape != shape or value.dtype is not as_dtype(want.dtype):
                raise ModelImportError(
                    f"torch gives {want.dtype} {show_shape(shape)}, tritonnotes {value.dtype} "
                    f"{show_shape(value.shape)}; please report this"
                )
            self.devices.add(want.device)
        if len(self.devices) > 1:
            raise ModelImportError(f"tensors lie on {' and '.join(map(str, self.devices))}; a graph runs on one device")

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> Any:
        """Declare updates of buffers and outputs; what the module returns."""
        for node, buffer in self.buffers.items():
            if self.found[node] is not buffer:
                self.graph.update(buffer, self.found[node])
        (leaves,) = self.nodes[-1].args
        spec = self.program.call_spec.out_spec
        assert spec is not None and isinstance(leaves, list | tuple)
        names = output_names(pytree.tree_unflatten([None] * len(leaves), spec), with_loss=self.wrapped.loss is not None)
        given: list[Any] = []
        for name, leaf in zip(names, leaves, strict=True):
            if isinstance(leaf, Node):
                if leaf not in self.found:
                    raise ModelImportError(f"output {name!r} is a size, no tensor; return tensors")
                self._output(name, leaf)
            given.append(Output(name) if isinstance(leaf, Node) else leaf)
        return pytree.tree_unflatten(given, spec)

    def _output(self, name: str, leaf: Node) -> None:
        self.graph.output(**{name: self.found[self.memory.base(leaf)]})


def _gives_tensors(node: Node) -> bool:
    """Whether a call gives tensors: not so sizes and checks, which a graph has of its own."""
    if op_name(node.target).removeprefix("aten.") in UNCOUNTED:
        return False
    given = node.meta.get("val")
    return any(isinstance(part, Tensor) for part in pytree.tree_leaves(given)) or given is None


def _writes(node: Node) -> bool:
    """Whether a call changes a tensor that it is given."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable or op_name(node.target).removeprefix("aten.") in MOVES_STATISTICS
