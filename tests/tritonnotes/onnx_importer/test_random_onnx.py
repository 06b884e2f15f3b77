"""Random ONNX graphs, as ONNX's own evaluator computes them: numbers of the file, shapes and tensors together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tritonnotes as tn

ROWS, NODES = 3, 8
Shape = tuple[int | str, ...]

UNARY = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Softsign", "Erf", "Identity", "HardSigmoid", "Elu")
BINARY = ("Add", "Mul", "Sub", "Max", "Min")


@dataclass
class Drawn:
    """A graph under construction: what it holds, and tensors of floats with their shapes."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[tuple[str, Shape]] = field(default_factory=list)

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def known(self, array: np.ndarray, constant: bool) -> str:
        """Numbers of the file, as an initializer or as a node."""
        if constant:
            return self.node("Constant", value=numpy_helper.from_array(array))
        self.initializers.append(numpy_helper.from_array(array, f"w{len(self.initializers)}"))
        return self.initializers[-1].name


def step(draw: st.DrawFn, made: Drawn) -> None:
    """One more tensor, of those that are there."""
    name, shape = draw(st.sampled_from(made.tensors))
    constant = draw(st.booleans())

    def ints(*numbers: int) -> str:
        return made.known(np.array(numbers, np.int64), constant)

    axis = draw(st.integers(0, len(shape) - 1))
    kind = draw(st.sampled_from(("unary", "binary", "numbers", "softmax", "reduce", "turn", "merge", "size", "part")))
    match kind:
        case "unary":
            made.tensors.append((made.node(draw(st.sampled_from(UNARY)), name), shape))
        case "binary":
            fits = [other for other, its in made.tensors if its == shape]
            other = draw(st.sampled_from(fits))
            made.tensors.append((made.node(draw(st.sampled_from(BINARY)), name, other), shape))
        case "numbers":
            sizes = [size if isinstance(size, int) else 1 for size in shape[draw(st.integers(0, len(shape))) :]]
            array = np.random.default_rng(len(made.nodes)).standard_normal(sizes).astype(np.float32)
            made.tensors.append((made.node(draw(st.sampled_from(BINARY)), name, made.known(array, constant)), shape))
        case "softmax":
            made.tensors.append((made.node(draw(st.sampled_from(("Softmax", "LogSoftmax"))), name, axis=axis), shape))
        case "reduce":
            op_type, keep = draw(st.sampled_from(("ReduceSum", "ReduceMean", "ReduceMax"))), draw(st.booleans())
            reduced = made.node(op_type, name, ints(axis), keepdims=int(keep))
            left = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
            made.tensors += [(reduced, left)] if left else []
        case "turn":
            order = draw(st.permutations(range(len(shape))))
            made.tensors.append((made.node("Transpose", name, perm=order), tuple(shape[i] for i in order)))
        case "merge":  # to rows of the first size, which is read from the tensor
            first = made.node("Gather", made.node("Shape", name), ints(0), axis=0)
            rest = [size for size in shape[1:] if isinstance(size, int)]
            if len(rest) == len(shape) - 1:
                wanted = made.node("Concat", first, ints(-1), axis=0)
                made.tensors.append((made.node("Reshape", name, wanted), (shape[0], int(np.prod(rest)))))
        case "size":  # numbers of a shape that is read from the tensor
            zeros = made.node("ConstantOfShape", made.node("Shape", name))
            made.tensors.append((made.node("Add", made.node("Cos", zeros), name), shape))
        case "part":
            size = shape[axis]
            if isinstance(size, int):
                part = made.node("Slice", name, ints(size // 2), ints(2**31), ints(axis))
                made.tensors.append((part, (*shape[:axis], size - size // 2, *shape[axis + 1 :])))


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    made = Drawn(tensors=[("x", ("N", 4, 3)), ("y", ("N", 6))])
    for _ in range(draw(st.integers(1, NODES))):
        step(draw, made)
    outputs = list(dict.fromkeys((made.tensors[-1][0], draw(st.sampled_from(made.tensors))[0])))
    outputs = [name for name in outputs if name not in ("x", "y")]
    if not outputs:
        outputs = [made.node("Relu", "x")]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        made.nodes, "drawn",
        [info("x", TensorProto.FLOAT, ("N", 4, 3)), info("y", TensorProto.FLOAT, ("N", 6))],
        [info(name, TensorProto.FLOAT, None) for name in outputs], made.initializers,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@settings(max_examples=60, deadline=None)
@given(models())
def test_a_random_graph_computes_what_onnx_computes(model: onnx.ModelProto) -> None:
    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal((ROWS, 4, 3)), "y": random.standard_normal((ROWS, 6))}
    arrays = {name: array.astype(np.float32) for name, array in feeds.items()}
    wanted = ReferenceEvaluator(model).run(None, arrays)
    for sizes in ({}, {"N": ROWS}):
        graph = tn.from_onnx(model, sizes=sizes)
        found = tn.eager(graph, {name: torch.from_numpy(array) for name, array in arrays.items()}, graph.state())
        assert [*found] == [output.name for output in model.graph.output]
        for result, want in zip(found.values(), wanted, strict=True):
            torch.testing.assert_close(result.detach(), torch.from_numpy(np.array(want)), rtol=1e-4, atol=1e-5)
        assert str(tn.Graph.from_text(str(graph))) == str(graph), "an imported graph reads back from its text"
