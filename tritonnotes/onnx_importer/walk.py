"""The nodes of an ONNX graph, one after the other, declared in a graph of ours."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..importer.names import local_name
from ..ir.core.errors import DeclarationError, DTypeError, ModelImportError, TritonNotesError
from ..ir.core.graph import Graph, Value
from ..ir.core.types import DTYPES, MAX_NAME, Dim, Size, as_dtype, is_name, show_shape
from .folding import folded
from .functions import written_out
from .operators.package import as_tensor, dtype_name
from .operators.rows import Found, Known, Node, Parts, RefusedError, Row
from .operators.shapes import filled, sizes_as_values
from .operators.table import TABLE
from .reading import DEFAULT_DOMAINS, array, attributes, opset

MALFORMED = (LookupError, ValueError, TypeError, ArithmeticError, AttributeError)
"""What rules raise for nodes that no checker of ONNX lets pass, such as an axis that a tensor does not have, or a
sequence in the place of a tensor."""


def declare(
    graph: Graph,
    model: Any,
    sizes: Mapping[str, int | str],
    frozen: Sequence[str] = (),
    training: bool = False,
) -> None:
    """Declare an ONNX model in an empty `graph`. Symbolic sizes that `sizes` names are the numbers or names there;
    initializers that `frozen` names, or a pattern in it, are buffers; with `training` dropout and batch norm train."""
    walk = _Walk(graph, model, sizes, frozen, training)
    walk.declare_leaves()
    for node in walk.nodes():
        walk.call(node, walk.opset)
    walk.finish()


def row_of(op_type: str, version: int) -> Row | None:
    """The row that holds for an operator in this operator set."""
    return next((row for row in reversed(TABLE.get(op_type, ())) if row.since <= version), None)


class _Walk:
    def __init__(
        self, graph: Graph, model: Any, sizes: Mapping[str, int | str], frozen: Sequence[str], training: bool
    ) -> None:
        self.graph, self.model, self.sizes = graph, model, sizes
        self.frozen, self.training = frozen, training
        self.opset = opset(model)
        self.found: dict[str, Found] = {}
        self.values: dict[str, Value] = {}
        self.names = _names(model.graph)
        self.read: set[str] = set()
        self.dims: dict[str, str] = {}
        self.buffers = {
            node.input[place]
            for node in model.graph.node
            if (row := row_of(node.op_type, self.opset)) is not None
            for place in row.buffers
            if place < len(node.input)
        }

    # -- leaves --------------------------------------------------------------------------------------------------------

    def declare_leaves(self) -> None:
        """Inputs, and initializers, which become parameters and buffers where they are read."""
        onnx_graph = self.model.graph
        if onnx_graph.sparse_initializer:
            raise ModelImportError("it holds sparse initializers; store them dense")
        self._hold(onnx_graph.initializer)
        for given in onnx_graph.input:
            if given.name not in self.found:
                self.found[given.name] = self.values[given.name] = self._input(given)
        unknown = sorted({*self.sizes} - {*self.dims})
        if unknown:
            raise ModelImportError(
                f"sizes: {unknown[0]!r} is no symbolic size of the model; it has {', '.join(self.dims) or 'none'}"
            )

    def _hold(self, initializers: Iterable[Any]) -> None:
        for tensor in initializers:
            numbers = array(tensor)
            floats = numbers.dtype.name in DTYPES and as_dtype(numbers.dtype.name).is_float
            trained = floats and numbers.ndim > 0 and tensor.name not in self.buffers
            trained = trained and not any(fnmatchcase(tensor.name, pattern) for pattern in self.frozen)
            self.found[tensor.name] = Known(tensor.name, numbers, trained)

    def _input(self, given: Any) -> Value:
        if given.type.WhichOneof("value") != "tensor_type":
            raise ModelImportError(
                f"input {given.name!r} is a {given.type.WhichOneof('value')}; a graph has tensors alone"
            )
        kind = given.type.tensor_type
        if not kind.HasField("shape"):
            raise ModelImportError(f"input {given.name!r} has no shape; export the model with one")
        name = self.names[given.name]
        shape = tuple(self._size(dim, f"{name}_{axis}") for axis, dim in enumerate(kind.shape.dim))
        try:
            return self.graph.input(name, shape, dtype_name(kind.elem_type))
        except DTypeError as error:
            raise ModelImportError(f"input {given.name!r}: {error}") from error

    def _size(self, dim: Any, unnamed: str) -> Size:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        key = dim.dim_param or unnamed
        name = self.dims.setdefault(key, local_name(key.replace(".", "_"), self.dims.values()))
        said = self.sizes.get(key, name)
        return Dim(said) if isinstance(said, str) else said

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Any]:
        """The nodes that outputs need, in order."""
        return self._needed(self.model.graph.node, {output.name for output in self.model.graph.output})

    def _needed(self, nodes: Iterable[Any], needed: set[str]) -> list[Any]:
        """Those of `nodes` that what is `needed` depends on, in order. What they read is noted."""
        wanted = []
        for node in reversed([*nodes]):
            if needed.intersection(node.output):
                wanted.append(node)
                needed.update(node.input, *(_reads(graph) for graph in _subgraphs(node)))
        self.read |= needed - {""}
        return wanted[::-1]

    def call(self, proto: Any, opset: int) -> None:
        """Declare one node. Raises `ModelImportError` that says which."""
        start = len(self.graph.values)
        try:
            results = self._results(proto, opset)
        except TritonNotesError as error:
            raise ModelImportError(f"{self._place(proto, opset)}: {error}") from error
        except MALFORMED as error:
            raise ModelImportError(
                f"{self._place(proto, opset)}: is malformed, it has a number, a word or an input too many or too few "
                f"({type(error).__name__}: {error}); check the file with onnx.checker"
            ) from error
        named: set[Value] = set()
        for name, result in zip(proto.output, results, strict=False):
            if not name:
                continue
            self.found[name] = result
            if isinstance(result, Value) and not result.is_leaf and result.index >= start and result not in named:
                self._keep_name(result, self._name(name))
                named.add(result)

    def _keep_name(self, value: Value, name: str) -> None:
        """Call a result as the file does, or like it where a value within an op of ours has that name."""
        try:
            self.graph.keep_name(value, name)
        except DeclarationError:
            self.graph.keep_name(value, self.graph.fresh_name(name))

    def _results(self, proto: Any, opset: int) -> tuple[Found, ...]:
        given = [self._found(name) for name in proto.input]
        if proto.domain not in DEFAULT_DOMAINS:
            raise DeclarationError(f"is of the domain {proto.domain!r}; {_WAY_OUT}")
        attrs = attributes(proto)
        known = folded(proto, given, attrs, opset)
        if known is not None:
            return known
        if proto.op_type == "If":
            return self._branch(proto, given[0], attrs, opset)
        row = row_of(proto.op_type, opset)
        if row is None:
            return self._written_out(proto, given, opset, f"is none of the operators that are read; {_WAY_OUT}")
        try:
            return self._by_row(row, proto, given, attrs, opset)
        except RefusedError as refused:
            return self._written_out(proto, given, opset, refused)

    def _by_row(
        self, row: Row, proto: Any, given: Sequence[Found], attrs: Mapping[str, Any], opset: int
    ) -> tuple[Found, ...]:
        arguments = [self._argument(row, place, part) for place, part in enumerate(given)]
        if row.takes_node:
            read = tuple(name in self.read for name in proto.output)
            arguments = [Node(self.graph, proto.op_type, opset, proto.name, read, self.training), *arguments]
        try:
            inspect.signature(row.make).bind(*arguments, **attrs)
        except TypeError as error:
            raise DeclarationError(f"{error}, in operator set {opset}; {_WAY_OUT}") from error
        made = row.make(*arguments, **attrs)
        return made if isinstance(made, tuple) else (made,)

    def _written_out(
        self, proto: Any, given: Sequence[Found], opset: int, refused: TritonNotesError | str
    ) -> tuple[Found, ...]:
        """The results of an operator as ONNX defines it by others; `refused` says why it is not read as it is."""
        body = written_out(proto, given, opset)
        if body is None:
            raise refused if isinstance(refused, TritonNotesError) else DeclarationError(refused)
        nodes, version = body
        for node in self._needed(nodes, {name for name in proto.output if name in self.read}):
            self.call(node, version)
        return tuple(self.found.get(name) for name in proto.output)

    def _branch(self, proto: Any, condition: Found, attrs: Mapping[str, Any], opset: int) -> tuple[Found, ...]:
        """The results of the branch that the file chooses."""
        if not isinstance(condition, Known):
            raise DeclarationError(f"has a condition that is known only when tensors are fed; {_WAY_OUT}")
        branch = attrs["then_branch" if condition.array.reshape(()).item() else "else_branch"]
        self._hold(branch.initializer)
        names = [output.name for output in branch.output]
        for node in self._needed(branch.node, {*names}):
            self.call(node, opset)
        return tuple(self._found(name) for name in names)

    def _found(self, name: str) -> Found:
        if not name:
            return None
        if name not in self.found:
            raise DeclarationError(f"reads {name!r}, which nothing gives before it; the model is broken")
        return self.found[name]

    def _argument(self, row: Row, place: int, given: Found) -> Any:
        if place in row.known or (place in row.numbers and isinstance(given, Known)):
            if not isinstance(given, Known | None):
                said = given.name if isinstance(given, Value) else "a sequence"
                raise DeclarationError(
                    f"input {place}, {said!r}, says what is computed, and is known only when tensors are fed; "
                    "the file has to say it, as an initializer or constant (where it follows from sizes, fix these "
                    "with sizes={})"
                )
            return None if given is None else given.array
        return self.value(given) if isinstance(given, Known) else given

    # -- numbers as values ---------------------------------------------------------------------------------------------

    def value(self, known: Known) -> Value:
        """Numbers of the file as a value: a parameter, a buffer, or a constant where all of them are one number."""
        if known.name not in self.values:
            self.values[known.name] = self._declared(known)
        return self.values[known.name]

    def _declared(self, known: Known) -> Value:
        if not known.is_plain:
            return sizes_as_values(self.graph, known.array)
        numbers = known.array
        if numbers.dtype.name not in DTYPES:
            raise DTypeError(f"{known.name!r} is {numbers.dtype.name}; dtypes are {', '.join(DTYPES)}")
        name, dtype = self._name(known.name), as_dtype(numbers.dtype.name)
        if not known.trained and known.name not in self.buffers and numbers.size and (numbers == numbers.flat[0]).all():
            return filled(self.graph, numbers.flat[0].item(), numbers.shape, numbers.dtype.name)
        declare = self.graph.parameter if known.trained else self.graph.buffer
        self.graph.first[name] = as_tensor(numbers)
        return declare(name, numbers.shape, dtype=dtype)

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Declare the outputs."""
        for given in self.model.graph.output:
            try:
                found = self._found(given.name)
                made = self.value(found) if isinstance(found, Known) else found
            except TritonNotesError as error:
                raise ModelImportError(f"output {given.name!r}: {error}") from error
            if not isinstance(made, Value):
                raise ModelImportError(f"output {given.name!r} is no tensor that is computed here")
            self.graph.output(**{self.names[given.name]: made})

    def _name(self, name: str) -> str:
        """What a value of the file is called here; also one within an operator that is written out."""
        if name not in self.names:
            self.names[name] = _free(_plain_name(name), {*self.names.values()})
        return self.names[name]

    def _place(self, proto: Any, opset: int) -> str:
        """A node for a message: what it is, where, and what it is given."""
        shown = []
        for name in proto.input:
            found = self.found.get(name)
            if isinstance(found, Parts):
                shown.append(f"{name}: {len(found.values)} tensors")
            elif isinstance(found, Value):
                shown.append(f"{name}: {found.dtype}{show_shape(found.shape)}")
            elif found is not None:
                shown.append(f"{name}: {found.dtype}{list(found.array.shape)}")
        called = f" {proto.name!r}" if proto.name else ""
        return f"node{called} {proto.op_type} ({proto.domain or 'ai.onnx'} {opset}; {', '.join(shown)})"


_WAY_OUT = (
    "docs/onnx.md lists what is read. Import the torch module itself with tn.from_torch, or rewrite the node with "
    "those operators"
)


def _names(onnx_graph: Any) -> dict[str, str]:
    """What the values of a file are called here: names that are names stay, others keep their letters."""
    listed = [
        *(given.name for given in (*onnx_graph.input, *onnx_graph.initializer, *onnx_graph.output)),
        *(name for node in onnx_graph.node for name in node.output if name),
    ]
    names: dict[str, str] = {}
    taken: set[str] = set()
    for exact in (True, False):
        for name in dict.fromkeys(listed):
            made = name if exact else _plain_name(name)
            if name not in names and (is_name(name) and len(name) <= MAX_NAME or not exact):
                names[name] = _free(made, taken)
                taken.add(names[name])
    return names


def _plain_name(name: str) -> str:
    """A name of a file as one of a graph: a path keeps its parts."""
    return local_name(name.strip("/").replace("/", "."), ())


def _free(name: str, taken: Iterable[str]) -> str:
    made, count = name, 0
    while made in taken:
        count += 1
        made = f"{name}_{count}"
    return made


def _subgraphs(node: Any) -> list[Any]:
    return [graph for given in node.attribute for graph in (*([given.g] if given.HasField("g") else ()), *given.graphs)]


def _reads(onnx_graph: Any) -> set[str]:
    """The names that the nodes of a branch or a body read."""
    return {
        name for node in onnx_graph.node for name in (*node.input, *(n for g in _subgraphs(node) for n in _reads(g)))
    }
